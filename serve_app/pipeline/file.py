"""The file pipeline: blocks of audio in, sentences out, with all stages working at once.

While one block is decoded, the one before it is searched for speech, and segments found earlier are
being recognized, batched with those of other requests. What is in memory is bounded by the number of
segments in flight, not by the length of the recording.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from deployments.messages import (
    SAMPLE_RATE,
    AudioSlice,
    Pcm,
    Priority,
    Recognition,
    RecognitionOptions,
    SpeechSpan,
    VadOptions,
)
from serve_app.pipeline.blocks import SAMPLES_PER_MS, BlockStore
from serve_app.pipeline.graph import Graph
from serve_app.pipeline.segments import VAD_LATENCY_MS, Loudness, SegmentLimits, SegmentPlanner
from serve_app.pipeline.sentences import SentenceBuilder
from serve_app.pipeline.speakers.listening import Listener
from serve_app.pipeline.speakers.types import SpeakerOptions, SpeakerTuning
from serve_app.pipeline.tones import Tones
from serve_app.pipeline.types import Sentence, TimedWord, Transcript

Blocks = AsyncIterator[Pcm]


@dataclass(frozen=True, slots=True)
class FileOptions:
    """How files are cut, and what is wanted of them.

    ``in_flight``: segments of one file that may wait for recognition at once; ``priority``: before and after
    what else is waiting there. ``recognition``: by which model, and for which language. ``speakers``: tell
    apart who speaks, by their voices; ``None``: nobody asks.
    """

    segments: SegmentLimits = field(default_factory=SegmentLimits)
    vad: VadOptions = field(default_factory=VadOptions)
    in_flight: int = 32
    priority: Priority = Priority.REQUEST
    recognition: RecognitionOptions = field(default_factory=RecognitionOptions)
    speakers: SpeakerOptions | None = None
    tuning: SpeakerTuning = field(default_factory=SpeakerTuning)


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
        self._listener = _listener(graph, options)
        self._heard: Counter[str] = Counter()
        self._tones = Tones()
        self._applied: dict[str, None] = {}
        self._raw: list[str] = []
        self.seconds_done = 0.0

    @property
    def seconds_decoded(self) -> float:
        return self._store.num_samples / SAMPLE_RATE

    @property
    def language(self) -> str | None:
        """What most of the speech so far was in (ISO 639-1, or 639-3), if the model tells."""
        return max(self._heard, key=lambda code: self._heard[code], default=None)

    @property
    def applied(self) -> tuple[str, ...]:
        """Texts of the hotwords that the model has listened for so far, each once."""
        return tuple(self._applied)

    @property
    def raw(self) -> str | None:
        """What a model that writes tags wrote so far, with them."""
        return "".join(self._raw) if self._raw else None

    async def sentences(self, blocks: Blocks) -> AsyncGenerator[Sentence, None]:
        """Yield the sentences of a recording, in order, as they are finished, still without their speakers.

        Args:
            blocks: mono int16 audio at 16 kHz, in blocks of any length.

        Raises:
            AsrError: what decoding or a model raised; all work still under way is cancelled.
        """
        builder = SentenceBuilder(self._graph.punctuate)
        producer = asyncio.create_task(self._produce(blocks))
        try:
            while (segment := await self._next(producer)) is not None:
                recognition = await segment.recognition
                self._note(recognition, segment.span)
                words = _absolute(recognition, segment.span.begin_ms)
                for sentence in await builder.add(words, marked=recognition.punctuated):
                    yield self._tones.given_to(sentence)
                self.seconds_done = segment.span.end_ms / 1000
            for sentence in await builder.finish():
                yield self._tones.given_to(sentence)
            self.seconds_done = self.seconds_decoded
            if self._listener is not None:
                await self._listener.finish()
        finally:
            await self._cancel(producer)

    async def with_speakers(self, sentences: Sequence[Sentence], language: str) -> tuple[Sentence, ...]:
        """The sentences of the whole recording with who said them, perhaps in more pieces; as they are if
        nobody asks.

        Args:
            sentences: what :meth:`sentences` has yielded to its end, or what was made of it; times count.
            language: of the recording (ISO 639-1).
        """
        if self._listener is None or not sentences:
            return tuple(sentences)
        return await self._listener.label(sentences, language)

    async def transcript(self, blocks: Blocks, language: str | None = None) -> Transcript:
        """Run to the end; ``language`` (ISO 639-1) is what the caller knows, else it is told by script."""
        sentences = [sentence async for sentence in self.sentences(blocks)]
        known = language or self.language
        transcript = Transcript.of(self.seconds_decoded, sentences, known, self.applied, self.raw)
        return replace(transcript, sentences=await self.with_speakers(sentences, transcript.language))

    def _note(self, recognition: Recognition, span: SpeechSpan) -> None:
        """What a segment says of the whole recording, and of the sentences in it."""
        if recognition.words and recognition.language is not None:
            self._heard[recognition.language] += span.end_ms - span.begin_ms
        self._tones.add(span, recognition)
        self._applied |= dict.fromkeys(recognition.applied)
        if recognition.raw is not None:
            self._raw.append(recognition.raw)

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
            position_ms = self._store.num_samples // SAMPLES_PER_MS
            for span in result.spans:
                for segment in planner.add(span):
                    await self._start(segment)
            for segment in planner.advance(position_ms, result.open_begin_ms):
                await self._start(segment)
            needed = [planner.needed_from_ms]
            if self._listener is not None:
                await self._listener.hear(result, position_ms, self._store.slice)
                needed.append(self._listener.needed_from_ms)
            keep_from = min((ms for ms in needed if ms is not None), default=position_ms - VAD_LATENCY_MS)
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
        recognition = await self._graph.transcribe(
            audio, priority=self._options.priority, options=self._options.recognition
        )
        if self._checkpoints is not None:
            await self._checkpoints.keep(span, recognition)
        return recognition

    async def _cancel(self, producer: asyncio.Task[None]) -> None:
        tasks: list[asyncio.Task[Any]] = [producer, *self._running]
        if self._listener is not None:
            tasks += self._listener.calls
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _listener(graph: Graph, options: FileOptions) -> Listener | None:
    if options.speakers is None or options.speakers.by_channel:
        return None
    return Listener(
        graph,
        options.speakers,
        options.tuning,
        end_silence_ms=options.vad.max_end_silence_ms,
        in_flight=options.in_flight,
        priority=options.priority,
    )


def _absolute(recognition: Recognition, begin_ms: int) -> list[TimedWord]:
    return [
        TimedWord(
            word.text,
            (begin_ms + word.begin_ms) / 1000,
            (begin_ms + word.end_ms) / 1000,
            word.log_prob,
            word.mark,
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
