"""Tells by the level when somebody near speaks, so that what comes from afar is no sentence of its own.

The audio itself is left alone: a gate that silenced what is not loud would bite into soft onsets. What
detection takes for speech becomes a sentence only if somebody near speaks in it, and a sentence ends when
nobody near has spoken for long enough, whoever else goes on.

A sentence begins with 400 ms that reach the threshold, together. Within it, 200 ms have to reach a lower
one, so that quiet syllables count; but not for more than three seconds after the last 400 ms that reached
the upper one, so that somebody a little farther away does not carry the sentence on.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

from deployments.messages import SAMPLE_RATE, Pcm
from serve_app.pipeline.live.events import NearField

_FRAME_MS = 20
_FRAME = SAMPLE_RATE * _FRAME_MS // 1000
_OUTSIDE_FRAMES = 20
_INSIDE_FRAMES = 10
_QUIET_FRAMES = 150
_NEVER = 1 << 40
_FULL_SCALE = 32768.0


@dataclass(frozen=True, slots=True)
class Near:
    """When somebody near was last heard: since when without a longer pause, and until when. Milliseconds."""

    begin_ms: int
    end_ms: int


class NearFieldLevel:
    """Follows the level of one session. ``sentence_silence_ms``: the pause that ends a sentence."""

    def __init__(self, options: NearField, sentence_silence_ms: int) -> None:
        self._outside = (options.threshold * _FULL_SCALE) ** 2
        self._inside = (options.threshold * options.inside * _FULL_SCALE) ** 2
        self._pause_frames = sentence_silence_ms // _FRAME_MS
        self._powers: deque[float] = deque(maxlen=_OUTSIDE_FRAMES)
        # Since a window reached the threshold of its time, and since one reached the upper threshold.
        self._far_frames = self._quiet_frames = _NEVER
        self._frames = 0
        self._begin_ms = 0

    def follow(self, block: Pcm) -> Near | None:
        """Who has been near until the end of the next block; ``None``: nobody so far."""
        for begin in range(0, len(block), _FRAME):
            self._add(float(np.square(block[begin : begin + _FRAME].astype(np.float32)).mean()))
        if self._far_frames >= _NEVER:
            return None
        return Near(self._begin_ms, (self._frames - self._far_frames) * _FRAME_MS)

    def _add(self, power: float) -> None:
        self._powers.append(power)
        recent = list(self._powers)[-_INSIDE_FRAMES:]
        loud = sum(self._powers) >= self._outside * len(self._powers)
        was_inside = self._far_frames < self._pause_frames
        quiet = was_inside and self._quiet_frames < _QUIET_FRAMES
        near = loud or (quiet and sum(recent) >= self._inside * len(recent))
        if near and not was_inside:
            self._begin_ms = self._frames * _FRAME_MS
        self._quiet_frames = 0 if loud else self._quiet_frames + 1
        self._far_frames = 0 if near else self._far_frames + 1
        self._frames += 1
