"""Live graphs without Ray: one over the real engines, and one in which levels stand for characters."""

import asyncio
import pickle
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from deployments.engines.base import (
    AsrEngine,
    PunctuationBlock,
    PunctuationEngine,
    RealtimePunctuationEngine,
    SpeakerEngine,
    StreamChunk,
    StreamingAsrEngine,
    StreamState,
    VadBlock,
    VadEngine,
)
from deployments.messages import (
    AudioPiece,
    AudioSlice,
    Embeddings,
    Pcm,
    Priority,
    PunctuatedBlock,
    Recognition,
    RecognitionOptions,
    SpeechSpan,
    StreamStep,
    Token,
    VadOptions,
    VadResult,
    VadState,
    Word,
)
from serve_app.pipeline.graph import DEFAULT_RECOGNITION, StreamLost
from tests.stand_ins import NoGenerativeModel
from tests.voices import by_level, embedded

MODELS = Path(__file__).parent.parent / "models" / "starter"
FRAME_SAMPLES = 960

Result = TypeVar("Result")


def samples_of(audio: AudioSlice) -> Pcm:
    """The samples of a slice whose references are arrays."""
    return np.concatenate([piece.ref[piece.begin : piece.end] for piece in audio.pieces])


def in_blocks(engine: VadEngine, samples: Pcm, block: int, first: VadBlock) -> list[VadResult]:
    """Detection block by block, as the ``Vad`` deployment does it."""
    results: list[VadResult] = []
    state = first.state
    begins = range(0, max(1, len(samples)), block)
    for begin in begins:
        final = first.final and begin == begins[-1]
        piece = replace(first, samples=samples[begin : begin + block], state=state, final=final)
        (result,) = engine.detect([piece])
        results.append(result)
        state = result.state
    return results


class EngineGraph(NoGenerativeModel):
    """A :class:`~serve_app.pipeline.graph.LiveGraph` over engines, which run on one thread.

    ``streams`` holds the state of every stream that has neither ended nor been dropped.
    """

    def __init__(
        self,
        vad: VadEngine,
        offline: AsrEngine,
        streaming: StreamingAsrEngine,
        punctuation: PunctuationEngine,
        realtime: RealtimePunctuationEngine,
        speakers: SpeakerEngine | None = None,
    ) -> None:
        self.vad = vad
        self.offline = offline
        self.streaming = streaming
        self.punctuation = punctuation
        self.realtime = realtime
        self.speakers = speakers
        self.streams: dict[str, tuple[int, StreamState | None]] = {}
        self._thread = ThreadPoolExecutor(max_workers=1)

    async def store(self, samples: Pcm) -> AudioPiece:
        return AudioPiece(samples, 0, len(samples))

    async def detect(
        self, audio: AudioSlice, state: VadState | None, final: bool, options: VadOptions
    ) -> VadResult:
        block = VadBlock(samples_of(audio), state, final, options)
        return (await self._in_thread(lambda: self.vad.detect([block])))[0]

    async def detect_live(
        self, samples: Pcm, block: int, state: VadState | None, final: bool, options: VadOptions
    ) -> list[VadResult]:
        first = VadBlock(samples, state, final, options)
        return await self._in_thread(lambda: in_blocks(self.vad, samples, block, first))

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        return (await self._in_thread(lambda: self.offline.transcribe([samples_of(audio)])))[0]

    async def embed(
        self, audio: AudioSlice, windows: Sequence[tuple[int, int]], *, priority: Priority = Priority.REQUEST
    ) -> Embeddings:
        engine, samples = self.speakers, samples_of(audio)
        assert engine is not None
        return await self._in_thread(lambda: engine.embed([samples[begin:end] for begin, end in windows]))

    async def punctuate(self, words: Sequence[str]) -> list[str]:
        return (await self._in_thread(lambda: self.punctuation.punctuate([words])))[0]

    async def punctuate_live(self, words: Sequence[str], context: Sequence[str]) -> PunctuatedBlock:
        block = PunctuationBlock(tuple(words), tuple(context))
        return (await self._in_thread(lambda: self.realtime.punctuate([block])))[0]

    async def stream(self, step: StreamStep) -> tuple[Token, ...]:
        number, state = self.streams.get(step.stream_id, (0, None))
        if number != step.number:
            raise StreamLost(f"step {number} was expected, not {step.number}")
        tokens, state = await self._in_thread(lambda: self._chunks(step, state))
        self.streams[step.stream_id] = (number + 1, state)
        if step.final:
            del self.streams[step.stream_id]
        return tokens

    async def drop_stream(self, stream_id: str) -> None:
        self.streams.pop(stream_id, None)

    def _chunks(
        self, step: StreamStep, state: StreamState | None
    ) -> tuple[tuple[Token, ...], StreamState | None]:
        tokens: list[Token] = []
        stride = step.options.chunk_size[1] * FRAME_SAMPLES
        begins = range(0, max(1, len(step.samples)), stride)
        for begin in begins:
            final = step.final and begin == begins[-1]
            chunk = StreamChunk(step.samples[begin : begin + stride], state, final, step.options)
            (result,) = self.streaming.step([chunk])
            tokens += result.tokens
            state = result.state
        return tuple(tokens), state

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


@dataclass(slots=True)
class _Heard:
    """What the detection of :class:`ToneGraph` remembers, in frames of 10 ms."""

    frame: int = 0
    begin: int = -1
    floor: int = 0
    loud: int = 0


class ToneGraph(NoGenerativeModel):
    """Takes non-zero samples for speech, and each run of one level for a character.

    Level 1 000 is 丁 (U+4E01), 2 000 丂, and so on; so text proves which audio reached which model.
    ``streams`` holds the audio of all streams that neither ended nor were dropped, ``contexts`` what
    punctuation was given. ``pause`` is awaited within each call.
    """

    MARGIN_MS = 100
    LEVEL = 1000

    def __init__(self, pause: Callable[[], Awaitable[None]] | None = None) -> None:
        self._pause = pause
        self.streams: dict[str, tuple[int, Pcm, int]] = {}
        self.contexts: list[tuple[str, ...]] = []
        self.running: Counter[str] = Counter()
        self.most_running: Counter[str] = Counter()
        self.streamed_samples = 0

    async def store(self, samples: Pcm) -> AudioPiece:
        return AudioPiece(samples.copy(), 0, len(samples))

    async def detect(
        self, audio: AudioSlice, state: VadState | None, final: bool, options: VadOptions
    ) -> VadResult:
        raise NotImplementedError("live sessions detect in blocks")

    async def embed(
        self, audio: AudioSlice, windows: Sequence[tuple[int, int]], *, priority: Priority = Priority.REQUEST
    ) -> Embeddings:
        async with self._call("embed"):
            return embedded(samples_of(audio), windows, by_level)

    async def punctuate(self, words: Sequence[str]) -> list[str]:
        raise NotImplementedError("live sessions punctuate with context")

    async def detect_live(
        self, samples: Pcm, block: int, state: VadState | None, final: bool, options: VadOptions
    ) -> list[VadResult]:
        async with self._call("detect_live"):
            heard: _Heard = pickle.loads(state.payload) if state else _Heard()
            begins = range(0, max(1, len(samples)), block)
            return [
                self._detect(heard, samples[begin : begin + block], final and begin == begins[-1], options)
                for begin in begins
            ]

    def _detect(self, heard: _Heard, samples: Pcm, final: bool, options: VadOptions) -> VadResult:
        spans: list[SpeechSpan] = []
        margin = self.MARGIN_MS // 10
        for begin in range(0, len(samples) - 159, 160):
            if samples[begin : begin + 160].any():
                heard.loud = heard.frame
                if heard.begin < 0:
                    heard.begin = max(heard.floor, heard.frame - margin)
            heard.frame += 1
            silence = heard.frame - heard.loud - 1
            if heard.begin >= 0 and silence * 10 >= options.max_end_silence_ms:
                heard.floor = heard.loud + 1 + margin
                spans.append(SpeechSpan(heard.begin * 10, heard.floor * 10))
                heard.begin = -1
        if final and heard.begin >= 0:
            spans.append(SpeechSpan(heard.begin * 10, heard.frame * 10))
            heard.begin = -1
        open_begin = heard.begin * 10 if heard.begin >= 0 else None
        return VadResult(tuple(spans), open_begin, None if final else VadState(pickle.dumps(heard)))

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        async with self._call("transcribe"):
            samples = samples_of(audio)
            return Recognition(tuple(Word(*self._tone(samples, at)) for at in self._tones(samples)))

    async def punctuate_live(self, words: Sequence[str], context: Sequence[str]) -> PunctuatedBlock:
        async with self._call("punctuate_live"):
            self.contexts.append(tuple(context))
            return PunctuatedBlock((*[""] * (len(words) - 1), "，"), "", tuple(words[-3:]))

    async def stream(self, step: StreamStep) -> tuple[Token, ...]:
        async with self._call("stream"):
            number, heard, given = self.streams.get(step.stream_id, (0, np.zeros(0, np.int16), 0))
            if number != step.number:
                raise StreamLost(f"step {number} was expected, not {step.number}")
            heard = np.concatenate((heard, step.samples))
            self.streamed_samples += len(step.samples)
            until = len(heard) if step.final else len(heard) - 960
            tokens = [Token(*self._tone(heard, at)) for at in self._tones(heard) if given <= at < until]
            self.streams[step.stream_id] = number + 1, heard, max(until, given)
            if step.final:
                del self.streams[step.stream_id]
            return tuple(tokens)

    async def drop_stream(self, stream_id: str) -> None:
        self.streams.pop(stream_id, None)

    @asynccontextmanager
    async def _call(self, kind: str) -> AsyncIterator[None]:
        self.running[kind] += 1
        self.most_running[kind] = max(self.most_running[kind], self.running[kind])
        try:
            if self._pause is not None:
                await self._pause()
            yield
        finally:
            self.running[kind] -= 1

    def _tones(self, samples: Pcm) -> list[int]:
        """Where tones begin. One that was cut off at the begin counts where most of it is there."""
        before = np.concatenate((np.zeros(1, np.int16), samples[:-1]))
        return [int(at) for at in np.flatnonzero((samples != before) & (np.abs(samples) >= self.LEVEL))]

    def _tone(self, samples: Pcm, at: int) -> tuple[str, int, int]:
        return chr(0x4E00 + int(samples[at]) // self.LEVEL), at // 16, at // 16 + 100
