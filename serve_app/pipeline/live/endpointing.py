"""Where sentences begin and end, decided block by block from what voice-activity detection says.

Detection reports spans of speech of any length. A span that goes on too long is cut where it is quietest,
and what follows the cut is a sentence of its own, although detection knows of one span only.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from deployments.messages import Pcm, VadResult
from serve_app.pipeline.live.events import Cause, LiveOptions
from serve_app.pipeline.live.near_field import Near
from serve_app.pipeline.segments import Loudness

_ONSET_MS = 1500
"""How long before somebody near was noticed a sentence may begin, where somebody far away spoke before."""

_OFFSET_MS = 300
"""How much of a sentence's audio follows the last that was near, where somebody far away goes on."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A sentence began, in milliseconds of the session."""

    begin_ms: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The sentence that was open ended, in milliseconds of the session."""

    end_ms: int
    cause: Cause


class Endpointing:
    """The sentences of one session. At most one is open at a time.

    The silence that ends a sentence, of somebody near, also ends one that somebody far away goes on with.
    A sentence that gets too long is cut in its last third, or ten seconds: the audio after the cut goes
    through the streaming model again, as the begin of the next sentence.
    """

    def __init__(self, options: LiveOptions) -> None:
        self._longest_ms = options.max_sentence_ms
        self._silence_ms = options.max_sentence_silence_ms + _OFFSET_MS
        self._search_ms = options.max_sentence_ms - options.uncut_ms
        self._padding_ms = options.padding_ms
        self._loudness = Loudness()
        self._floor_ms = 0
        self._near: Near | None = None
        self.begin_ms: int | None = None

    def advance(
        self, block: Pcm, result: VadResult, position_ms: int, near: Near | None, *, final: bool
    ) -> Iterator[Opened | Closed]:
        """What the next block changes; ``position_ms`` is where it ends.

        ``near``: when somebody near spoke so far. Consume all of the result before the next call.
        """
        self._loudness.append(block)
        self._near = near
        for span in result.spans:
            end_ms = min(span.end_ms, position_ms)
            yield from self._open(span.begin_ms)
            yield from self._cuts(end_ms)
            if self.begin_ms is not None:
                yield self._close(end_ms, "end" if final else "silence")
        if result.open_begin_ms is not None:
            yield from self._open(result.open_begin_ms)
            yield from self._cuts(position_ms)
            if (
                near is not None
                and self.begin_ms is not None
                and position_ms - near.end_ms > self._silence_ms
            ):
                yield self._close(near.end_ms + _OFFSET_MS, "silence")
        if final and self.begin_ms is not None:
            yield self._close(position_ms, "end")

    def forget_before(self, ms: int) -> None:
        """Audio before ``ms`` will not be asked for again."""
        self._loudness.forget_before(ms)

    def _open(self, begin_ms: int) -> Iterator[Opened]:
        begin_ms = max(begin_ms, self._floor_ms)
        if self.begin_ms is None and self._near is not None and self._near.end_ms > begin_ms:
            begin_ms = max(begin_ms, self._near.begin_ms - _ONSET_MS)
            self.begin_ms = max(begin_ms - self._padding_ms, self._floor_ms)
            yield Opened(self.begin_ms)

    def _cuts(self, until_ms: int) -> Iterator[Opened | Closed]:
        while self.begin_ms is not None and until_ms - self.begin_ms >= self._longest_ms:
            latest_ms = self.begin_ms + self._longest_ms
            yield self._close(self._loudness.quietest(latest_ms - self._search_ms, latest_ms), "cut")
            yield from self._open(self._floor_ms)

    def _close(self, end_ms: int, cause: Cause) -> Closed:
        # Detection may put the end of a span before the place where it was cut.
        end_ms = max(end_ms, self.begin_ms or 0)
        self.begin_ms, self._floor_ms = None, end_ms
        return Closed(end_ms, cause)
