"""Which stretches of a recording are recognized together: greedy merging of speech spans.

Spans from voice-activity detection come in as they are found; segments go out as soon as nothing that
follows can change them, so that recognition of a long file starts long before the file ends.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deployments.engines.base import SAMPLE_RATE, Pcm, SpeechSpan

_FRAME_MS = 10
_FRAME_SAMPLES = SAMPLE_RATE * _FRAME_MS // 1000
_QUIET_WINDOW_FRAMES = 10

VAD_LATENCY_MS = 1000
"""How far behind the last detected sample speech can still turn out to have begun."""


@dataclass(frozen=True, slots=True)
class SegmentLimits:
    """All in seconds.

    ``merge``: spans are joined while the segment stays within this length. ``longest``: no segment is
    ever longer (``MAX_SEGMENT_SEC``). ``silence``: a pause longer than this always ends a segment.
    """

    merge: float = 20.0
    longest: float = 90.0
    silence: float = 3.0


class Loudness:
    """Energy of a recording in 10 ms frames, fed block by block; finds the quietest place to cut."""

    def __init__(self) -> None:
        self._frames = np.zeros(0, dtype=np.float32)
        self._first = 0
        self._rest = np.zeros(0, dtype=np.int16)

    def append(self, samples: Pcm) -> None:
        """Add the next block, of any length."""
        joined = np.concatenate((self._rest, samples))
        whole = len(joined) // _FRAME_SAMPLES * _FRAME_SAMPLES
        frames = joined[:whole].reshape(-1, _FRAME_SAMPLES).astype(np.float32)
        self._frames = np.concatenate((self._frames, np.square(frames).mean(axis=1)))
        self._rest = joined[whole:]

    def forget_before(self, ms: int) -> None:
        """Drop what lies before ``ms``; it will not be asked for again."""
        drop = min(max(ms // _FRAME_MS - self._first, 0), len(self._frames))
        self._frames = self._frames[drop:]
        self._first += drop

    def quietest(self, begin_ms: int, end_ms: int) -> int:
        """Center, in ms, of the quietest 100 ms between two times; ``end_ms`` if nothing is known there."""
        window = self._window(begin_ms, end_ms)
        if len(window) < _QUIET_WINDOW_FRAMES:
            return end_ms
        smooth = np.convolve(window, np.ones(_QUIET_WINDOW_FRAMES), mode="valid")
        center = int(np.argmin(smooth)) + _QUIET_WINDOW_FRAMES // 2
        return begin_ms + center * _FRAME_MS

    def _window(self, begin_ms: int, end_ms: int) -> npt.NDArray[np.float32]:
        begin = begin_ms // _FRAME_MS - self._first
        end = end_ms // _FRAME_MS - self._first
        return self._frames[max(begin, 0) : max(end, 0)]


class SegmentPlanner:
    """Merges speech spans into segments, in order and without look-back.

    Feed it :meth:`add` for each finished span, :meth:`advance` after each block and :meth:`finish` at the
    end; each yields the segments that are settled by then. Segments never overlap, are never longer than
    ``limits.longest``, and never hold a pause above ``limits.silence``.
    """

    def __init__(self, limits: SegmentLimits, loudness: Loudness) -> None:
        self._merge_ms = int(min(limits.merge, limits.longest) * 1000)
        self._longest_ms = int(limits.longest * 1000)
        self._silence_ms = int(limits.silence * 1000)
        self._loudness = loudness
        self._pending: SpeechSpan | None = None
        self._open_from: int | None = None
        self._cut_until = 0

    @property
    def needed_from_ms(self) -> int | None:
        """Begin of what belongs to no segment yet; audio before it is needed no longer. ``None``: nothing."""
        return self._open_from if self._pending is None else self._pending.begin_ms

    def add(self, span: SpeechSpan) -> Iterator[SpeechSpan]:
        """Take a finished span; yield the segments that it settles."""
        for part in self._cut(max(span.begin_ms, self._cut_until), span.end_ms):
            if self._pending is None:
                self._pending = part
            elif self._fits(self._pending, part):
                self._pending = SpeechSpan(self._pending.begin_ms, part.end_ms)
            else:
                yield self._pending
                self._pending = part

    def advance(self, position_ms: int, open_begin_ms: int | None) -> Iterator[SpeechSpan]:
        """Tell how far detection has come, and where speech that still goes on began (``None``: silence)."""
        pending = self._pending
        silent_until = position_ms - VAD_LATENCY_MS
        next_begin = silent_until if open_begin_ms is None else max(open_begin_ms, self._cut_until)
        if pending is not None and (
            next_begin - pending.end_ms > self._silence_ms or next_begin - pending.begin_ms >= self._merge_ms
        ):
            yield pending
            self._pending = None
        if open_begin_ms is not None and position_ms - next_begin > self._longest_ms:
            yield from self._cut_open(next_begin, position_ms)
        self._open_from = None if open_begin_ms is None else max(open_begin_ms, self._cut_until)

    def finish(self) -> Iterator[SpeechSpan]:
        """The recording is over: yield what is left."""
        if self._pending is not None:
            yield self._pending
            self._pending = None

    def _fits(self, pending: SpeechSpan, part: SpeechSpan) -> bool:
        return (
            part.begin_ms - pending.end_ms <= self._silence_ms
            and part.end_ms - pending.begin_ms <= self._merge_ms
        )

    def _cut(self, begin_ms: int, end_ms: int) -> Iterator[SpeechSpan]:
        while end_ms - begin_ms > self._longest_ms:
            cut = self._quiet_place(begin_ms)
            yield SpeechSpan(begin_ms, cut)
            begin_ms = cut
        if end_ms > begin_ms:
            yield SpeechSpan(begin_ms, end_ms)

    def _cut_open(self, begin_ms: int, position_ms: int) -> Iterator[SpeechSpan]:
        if self._pending is not None:
            yield self._pending
            self._pending = None
        while position_ms - begin_ms > self._longest_ms:
            cut = self._quiet_place(begin_ms)
            yield SpeechSpan(begin_ms, cut)
            begin_ms = cut
        self._cut_until = begin_ms

    def _quiet_place(self, begin_ms: int) -> int:
        """Where to cut speech without a pause: in the second half, so that pieces stay long enough."""
        return self._loudness.quietest(begin_ms + self._longest_ms // 2, begin_ms + self._longest_ms)
