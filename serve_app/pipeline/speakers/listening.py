"""Hears the voices of a recording while it is being recognized: speech to windows, windows to voices."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from deployments.messages import (
    SAMPLE_RATE,
    AudioPiece,
    AudioSlice,
    Embeddings,
    Priority,
    SpeechSpan,
    VadResult,
)
from serve_app.pipeline.graph import Graph
from serve_app.pipeline.segments import VAD_LATENCY_MS
from serve_app.pipeline.speakers.diarizer import Diarizer
from serve_app.pipeline.speakers.types import SpeakerOptions, SpeakerTuning
from serve_app.pipeline.speakers.windows import HOP_MS, WINDOW_MS, windows_of
from serve_app.pipeline.types import Sentence

_SAMPLES_PER_MS = SAMPLE_RATE // 1000
_WINDOWS_TOGETHER = 20
_PART_STEP_MS = _WINDOWS_TOGETHER * HOP_MS
_PART_MS = _PART_STEP_MS - HOP_MS + WINDOW_MS
_CALLS = 4

Cut = Callable[[SpeechSpan], AudioSlice]
"""The audio of a span of the recording."""


class SpeechParts:
    """Spans of speech as parts of some 15 s, told while the speech still goes on.

    The windows of a span's parts are those of the whole span, so they depend neither on when it was found
    nor on how the recording came. Parts overlap by as much as windows do.
    """

    def __init__(self, end_silence_ms: int) -> None:
        """``end_silence_ms``: the silence that ends a span; until it has passed, speech counts as open."""
        self._behind_ms = end_silence_ms + VAD_LATENCY_MS
        self._next_ms = 0
        self._needed_ms: int | None = None

    @property
    def needed_from_ms(self) -> int | None:
        """Where audio begins that parts yet to come may hold; ``None`` while nobody speaks."""
        return self._needed_ms

    def add(self, span: SpeechSpan) -> Iterator[SpeechSpan]:
        """Take a span that has ended, in order; yield what no part before has held."""
        yield from self._whole(max(span.begin_ms, self._next_ms), span.end_ms)
        # The rest may be shorter than a window, and the last window of the span is a whole one if it can be.
        begin_ms = max(span.begin_ms, min(self._next_ms, span.end_ms - WINDOW_MS))
        if begin_ms < span.end_ms:
            yield SpeechSpan(begin_ms, span.end_ms)
        self._next_ms = max(self._next_ms, span.end_ms)
        self._needed_ms = None

    def advance(self, position_ms: int, open_begin_ms: int | None) -> Iterator[SpeechSpan]:
        """Tell how far detection has come, and where speech that goes on began; yield what is settled."""
        if open_begin_ms is None:
            self._needed_ms = None
            return
        yield from self._whole(max(open_begin_ms, self._next_ms), position_ms - self._behind_ms)
        self._needed_ms = max(open_begin_ms, self._next_ms - WINDOW_MS)

    def _whole(self, begin_ms: int, end_ms: int) -> Iterator[SpeechSpan]:
        while end_ms - begin_ms > _PART_MS:
            yield SpeechSpan(begin_ms, begin_ms + _PART_MS)
            begin_ms += _PART_STEP_MS
            self._next_ms = begin_ms


class Listener:
    """The voices of one recording. Used once.

    The calls under way, and the audio that they hold, are bounded; what they bring is kept to the end: some
    kilobytes for a minute of speech.
    """

    def __init__(
        self,
        graph: Graph,
        options: SpeakerOptions,
        tuning: SpeakerTuning,
        *,
        end_silence_ms: int,
        in_flight: int,
        priority: Priority,
    ) -> None:
        """``in_flight``: calls that may be under way at once; there are never more than four."""
        self._graph = graph
        self._priority = priority
        self._calls: deque[tuple[list[SpeechSpan], asyncio.Task[Embeddings]]] = deque()
        self._most_calls = min(in_flight, _CALLS)
        self._parts = SpeechParts(end_silence_ms)
        self._diarizer = Diarizer(options, tuning)

    @property
    def needed_from_ms(self) -> int | None:
        """Audio before this will not be asked for again; ``None``: nor any that is known yet."""
        return self._parts.needed_from_ms

    @property
    def calls(self) -> list[asyncio.Task[Embeddings]]:
        """What is under way, to be cancelled where the recording is given up."""
        return [task for _, task in self._calls]

    async def hear(self, found: VadResult, position_ms: int, cut: Cut) -> None:
        """Take what detection has found in the next block, which ends at ``position_ms``.

        Returns once the calls for it are under way.

        Raises:
            UpstreamLost: of this or an earlier block.
        """
        parts = [part for span in found.spans for part in self._parts.add(span)]
        parts += self._parts.advance(position_ms, found.open_begin_ms)
        group: list[SpeechSpan] = []
        waiting = 0
        for part in parts:
            number = len(windows_of(part))
            if group and waiting + number > 2 * _WINDOWS_TOGETHER:
                await self._embed(group, cut)
                group, waiting = [], 0
            group.append(part)
            waiting += number
        if group:
            await self._embed(group, cut)

    async def finish(self) -> None:
        """The recording is over: wait for all voices. Raises ``UpstreamLost``."""
        while self._calls:
            await self._take()

    async def label(self, sentences: Sequence[Sentence], language: str) -> tuple[Sentence, ...]:
        """All sentences with their speakers, after :meth:`finish`; ``language`` as in a transcript."""
        return await asyncio.to_thread(self._diarizer.label, sentences, language)

    async def _embed(self, parts: Sequence[SpeechSpan], cut: Cut) -> None:
        while len(self._calls) >= self._most_calls:
            await self._take()
        windows: list[SpeechSpan] = []
        pieces: list[AudioPiece] = []
        places: list[tuple[int, int]] = []
        before = 0
        for part in parts:
            audio = cut(part)
            offset = before - part.begin_ms * _SAMPLES_PER_MS
            for window in windows_of(part):
                windows.append(window)
                places.append(
                    (window.begin_ms * _SAMPLES_PER_MS + offset, window.end_ms * _SAMPLES_PER_MS + offset)
                )
            pieces += audio.pieces
            before += audio.num_samples
        call = self._graph.embed(AudioSlice(tuple(pieces)), places, priority=self._priority)
        self._calls.append((windows, asyncio.create_task(call)))

    async def _take(self) -> None:
        """Wait for the oldest call, so that voices are added in the order of the recording."""
        windows, task = self._calls[0]
        embeddings = await task
        self._calls.popleft()
        self._diarizer.add(windows, embeddings)
