"""The file pipeline: blocks of audio in, sentences out, with all stages working at once.

While one block is decoded, the one before it is searched for speech, and segments found earlier are
being recognized, batched with those of other requests. What is in memory is bounded by the number of
segments in flight, not by the length of the recording.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from dataclasses import dataclass, field
from typing import Protocol

from deployments.messages import (
    SAMPLE_RATE,
    AudioPiece,
    AudioSlice,
    Pcm,
    Priority,
    Recognition,
    SpeechSpan,
    VadOptions,
)
from serve_app.pipeline.graph import Graph
from serve_app.pipeline.segments import VAD_LATENCY_MS, Loudness, SegmentLimits, SegmentPlanner
from serve_app.pipeline.sentences import SentenceBuilder
from serve_app.pipeline.types import Sentence, TimedWord, Transcript

_SAMPLES_PER_MS = SAMPLE_RATE // 1000

Blocks = AsyncIterator[Pcm]


@dataclass(frozen=True, slots=True)
class FileOptions:
    """How files are cut. ``in_flight``: segments of one file that may wait for recognition at once;
    ``priority``: before and after what else is waiting there."""

    segments: SegmentLimits = field(default_factory=SegmentLimits)
    vad: VadOptions = field(default_factory=VadOptions)
    in_flight: int = 32
    priority: Priority = Priority.REQUEST


class Checkpoints(Protocol):
    """What was recognized of a recording in an earlier run, and where to put what is recognized now.

    Decoding, detection and planning give the same segments each time, so a segment is found by its span.
    """

    def recognized(self, span: SpeechSpan) -> Recognition | None:
        """The result that was kept for this segment, if any."""
        ...

    async def keep(self, span: SpeechSpan, recognition: Recognition) -> None:
        """Take a new result; called for many segments at once, in any order."""
        ...


class BlockStore:
    """The stored blocks that are still needed, as one long recording."""

    def __init__(self) -> None:
        self._pieces: list[tuple[int, AudioPiece]] = []
        self.num_samples = 0

    def append(self, piece: AudioPiece) -> None:
        self._pieces.append((self.num_samples, piece))
        self.num_samples += piece.end - piece.begin

    def forget_before(self, ms: int) -> None:
        """Drop whole blocks before ``ms``. Slices that were handed out keep what they refer to."""
        sample = ms * _SAMPLES_PER_MS
        while self._pieces and self._pieces[0][0] + _length(self._pieces[0][1]) <= sample:
            del self._pieces[0]

    def slice(self, span: SpeechSpan) -> AudioSlice:
        """The audio of a span, as pieces of blocks."""
        begin, end = span.begin_ms * _SAMPLES_PER_MS, span.end_ms * _SAMPLES_PER_MS
        cut: list[AudioPiece] = []
        for offset, piece in self._pieces:
            first, last = max(begin - offset, 0), min(end - offset, _length(piece))
            if first < last:
                cut.append(AudioPiece(piece.ref, piece.begin + first, piece.begin + last))
        return AudioSlice(tuple(cut))


@dataclass(slots=True)
class _Segment:
    span: SpeechSpan
    recognition: asyncio.Task[Recognition]


class FileJob:
    """One recording on its way through the graph.

    ``seconds_decoded`` and ``seconds_done`` tell how far it is. Used once.
    """

    def __init__(self, graph: Graph, options: FileOptions, checkpoints: Checkpoints | None = None) -> None:
        self._graph = graph
        self._options = options
        self._checkpoints = checkpoints
        self._queue: asyncio.Queue[_Segment | None] = asyncio.Queue(options.in_flight)
        self._running: set[asyncio.Task[Recognition]] = set()
        self._store = BlockStore()
        self.seconds_done = 0.0

    @property
    def seconds_decoded(self) -> float:
        return self._store.num_samples / SAMPLE_RATE

    async def sentences(self, blocks: Blocks) -> AsyncGenerator[Sentence, None]:
        """Yield the sentences of a recording, in order, as they are finished.

        Args:
            blocks: mono int16 audio at 16 kHz, in blocks of any length.

        Raises:
            AsrError: what decoding or a model raised; all work still under way is cancelled.
        """
        builder = SentenceBuilder(self._graph.punctuate)
        producer = asyncio.create_task(self._produce(blocks))
        try:
            while (segment := await self._next(producer)) is not None:
                words = _absolute(await segment.recognition, segment.span.begin_ms)
                for sentence in await builder.add(words):
                    yield sentence
                self.seconds_done = segment.span.end_ms / 1000
            for sentence in await builder.finish():
                yield sentence
            self.seconds_done = self.seconds_decoded
        finally:
            await self._cancel(producer)

    async def transcript(self, blocks: Blocks, language: str | None = None) -> Transcript:
        """Run to the end; ``language`` (ISO 639-1) is what the caller knows, else it is told by script."""
        sentences = [sentence async for sentence in self.sentences(blocks)]
        return Transcript.of(self.seconds_decoded, sentences, language)

    async def _next(self, producer: asyncio.Task[None]) -> _Segment | None:
        """The next segment, or what ended the producer: a queue alone would wait for ever after a fault."""
        getter = asyncio.create_task(self._queue.get())
        try:
            await asyncio.wait({getter, producer}, return_when=asyncio.FIRST_COMPLETED)
            if not getter.done() and self._queue.empty():
                await producer
                return None
            return await getter
        finally:
            getter.cancel()

    async def _produce(self, blocks: Blocks) -> None:
        """Decode, detect and plan; recognition of each segment starts as soon as it is known."""
        loudness = Loudness()
        planner = SegmentPlanner(self._options.segments, loudness)
        state = None
        async for block, final in _with_last(blocks):
            piece = await self._graph.store(block)
            self._store.append(piece)
            loudness.append(block)
            result = await self._graph.detect(AudioSlice((piece,)), state, final, self._options.vad)
            state = result.state
            position_ms = self._store.num_samples // _SAMPLES_PER_MS
            for span in result.spans:
                for segment in planner.add(span):
                    await self._start(segment)
            for segment in planner.advance(position_ms, result.open_begin_ms):
                await self._start(segment)
            needed = [ms for ms in (planner.needed_from_ms, result.open_begin_ms) if ms is not None]
            keep_from = min(needed, default=position_ms - VAD_LATENCY_MS)
            self._store.forget_before(keep_from)
            loudness.forget_before(keep_from)
        for segment in planner.finish():
            await self._start(segment)
        await self._queue.put(None)

    async def _start(self, span: SpeechSpan) -> None:
        recognition = asyncio.create_task(self._recognize(span, self._store.slice(span)))
        self._running.add(recognition)
        recognition.add_done_callback(self._running.discard)
        await self._queue.put(_Segment(span, recognition))

    async def _recognize(self, span: SpeechSpan, audio: AudioSlice) -> Recognition:
        known = None if self._checkpoints is None else self._checkpoints.recognized(span)
        if known is not None:
            return known
        recognition = await self._graph.transcribe(audio, priority=self._options.priority)
        if self._checkpoints is not None:
            await self._checkpoints.keep(span, recognition)
        return recognition

    async def _cancel(self, producer: asyncio.Task[None]) -> None:
        tasks = [producer, *self._running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _length(piece: AudioPiece) -> int:
    return piece.end - piece.begin


def _absolute(recognition: Recognition, begin_ms: int) -> list[TimedWord]:
    return [
        TimedWord(
            word.text,
            (begin_ms + word.begin_ms) / 1000,
            (begin_ms + word.end_ms) / 1000,
            word.log_prob,
        )
        for word in recognition.words
    ]


async def _with_last(blocks: Blocks) -> AsyncIterator[tuple[Pcm, bool]]:
    """Pair each block with whether it is the last one."""
    previous: Pcm | None = None
    async for block in blocks:
        if previous is not None:
            yield previous, False
        previous = block
    if previous is not None:
        yield previous, True


async def in_thread(blocks: Generator[Pcm, None, None]) -> AsyncGenerator[Pcm, None]:
    """Iterate over a blocking generator off the event loop.

    When this is left early, a step that still runs is waited for and the generator is closed, so that the
    file under it may be closed after that.
    """
    step: asyncio.Future[Pcm | None] | None = None
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(next, blocks, None))
            # A thread cannot be cancelled, so neither must be what stands for it.
            block = await asyncio.shield(step)
            if block is None:
                return
            yield block
    finally:
        if step is not None and not step.done():
            await asyncio.wait({step})
            if not step.cancelled():
                # Nobody waits for this any more; a fault in it is no news that belongs into the log.
                step.exception()
        blocks.close()
