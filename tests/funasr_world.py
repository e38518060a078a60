"""A world in which recognition is reading: audio whose samples spell its words, and what reads them.

Each 100 ms of audio is one word, told by its level, or silence. The transcriber is the real one over a graph
that reads; the live session is a small one that reads as audio comes in. What a client gets must therefore be
exactly what it sent, and nothing of what any other client sent.
"""

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import uvicorn
from fastapi import FastAPI

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
from serve_app.api.access import Access
from serve_app.api.funasr.router import funasr_router
from serve_app.api.funasr.utterance import Recognizers
from serve_app.errors import AsrError
from serve_app.live import LiveService
from serve_app.pipeline.graph import DEFAULT_RECOGNITION
from serve_app.pipeline.live.events import (
    Cause,
    Finished,
    LiveEvent,
    LiveOptions,
    Partial,
    SentenceFinal,
    SpeechStarted,
)
from serve_app.pipeline.live.session import LiveSession
from serve_app.pipeline.speakers.live import LiveSpeakers
from serve_app.pipeline.text import join_words
from serve_app.pipeline.types import TimedWord
from serve_app.settings import Settings
from serve_app.speakers.service import SpeakerService
from serve_app.transcriber import Transcriber
from tests.stand_ins import NoGenerativeModel
from tests.voices import one_voice

RATE = 16_000
WORDS = [*"零一二三四五六七八九十百千万亿东南西北中上下左右前后春夏秋冬天地人和", "hello", "world"]
_SLOT_SECONDS = 0.1
_STEP = 800


def speech(text: str, rate: int = RATE) -> bytes:
    """16-bit PCM that is read as ``text``: words of :data:`WORDS`, ``_`` for silence."""
    parts = re.findall("[a-z]+|[^ ]", text)
    slots = [0 if part == "_" else (WORDS.index(part) + 1) * _STEP for part in parts]
    return np.repeat(np.array(slots, "<i2"), round(rate * _SLOT_SECONDS)).tobytes()


def wav_file(pcm: bytes, rate: int = RATE) -> bytes:
    """``pcm`` behind a plain WAV header."""
    fmt = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    chunks = b"fmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", len(pcm)) + pcm
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def _read(samples: npt.NDArray[np.int16]) -> list[str]:
    """The word of each slot, ``""`` for silence: by the middle of the slot, which resampling leaves alone."""
    slot = round(RATE * _SLOT_SECONDS)
    levels = samples[slot // 2 :: slot]
    codes = [round(int(level) / _STEP) for level in levels]
    return [WORDS[code - 1] if code else "" for code in codes]


@dataclass
class World:
    """What the stand-ins do besides reading, and what they were asked for."""

    fault: AsrError | Exception | None = None
    """Raised by recognition, live and of files."""
    opened: list[LiveOptions] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared: recognition waits, and takes no audio."""

    def __post_init__(self) -> None:
        self.gate.set()


class ReadingGraph(NoGenerativeModel):
    """Implements :class:`serve_app.pipeline.graph.LiveGraph`, as far as files need it."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def store(self, samples: Pcm) -> AudioPiece:
        return AudioPiece(samples, 0, len(samples))

    async def detect(
        self, audio: AudioSlice, state: VadState | None, final: bool, options: VadOptions
    ) -> VadResult:
        (piece,) = audio.pieces
        before = int(state.payload) if state else 0
        begin_ms, end_ms = 1000 * before // RATE, 1000 * (before + piece.end) // RATE
        spoken = any(_read(piece.ref))
        spans = (SpeechSpan(begin_ms, end_ms),) if spoken else ()
        return VadResult(spans, None, None if final else VadState(b"%d" % (before + piece.end)))

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        await self._world.gate.wait()
        if self._world.fault:
            raise self._world.fault
        samples = np.concatenate([piece.ref[piece.begin : piece.end] for piece in audio.pieces])
        slots = enumerate(_read(samples))
        return Recognition(
            tuple(Word(word, 100 * index, 100 * index + 100, 0.0) for index, word in slots if word)
        )

    async def embed(
        self, audio: AudioSlice, windows: Sequence[tuple[int, int]], *, priority: Priority = Priority.REQUEST
    ) -> Embeddings:
        return np.stack([one_voice(np.zeros(0, np.int16))] * len(windows))

    async def punctuate(self, words: Sequence[str]) -> list[str]:
        return ["，" if word == "九" else "" for word in words]

    async def detect_live(
        self, samples: Pcm, block: int, state: VadState | None, final: bool, options: VadOptions
    ) -> list[VadResult]:
        raise NotImplementedError

    async def stream(self, step: StreamStep) -> tuple[Token, ...]:
        raise NotImplementedError

    async def drop_stream(self, stream_id: str) -> None:
        raise NotImplementedError

    async def punctuate_live(self, words: Sequence[str], context: Sequence[str]) -> PunctuatedBlock:
        raise NotImplementedError


class ReadingSession(LiveSession):
    """A live session that reads: a partial for each word; silence ends a sentence."""

    def __init__(self, world: World, options: LiveOptions) -> None:
        self._world = world
        self._punctuate = options.text.punctuation
        self._queue: asyncio.Queue[LiveEvent | AsrError | Exception] = asyncio.Queue()
        self._rest: Pcm = np.zeros(0, np.int16)
        self._slots = self._sentences = 0
        self._words: list[TimedWord] = []

    async def push(self, samples: Pcm) -> None:
        await self._world.gate.wait()
        if self._world.fault and self._slots:
            self._queue.put_nowait(self._world.fault)
            raise self._world.fault
        self._rest = np.concatenate((self._rest, samples))
        whole = len(self._rest) - len(self._rest) % 1600
        for word in _read(self._rest[:whole]):
            self._slot(word)
        self._rest = self._rest[whole:]

    async def finish(self) -> None:
        if self._words:
            self._close("end")
        self._queue.put_nowait(Finished(self._slots / 10))

    async def events(self) -> AsyncIterator[LiveEvent]:
        event: LiveEvent | Exception | None = None
        while not isinstance(event, Finished):
            event = await self._queue.get()
            if isinstance(event, Exception):
                raise event
            yield event

    async def aclose(self) -> None:
        return

    def _slot(self, text: str) -> None:
        begin = self._slots / 10
        self._slots += 1
        if not text:
            if self._words:
                self._close("silence")
            return
        if not self._words:
            self._queue.put_nowait(SpeechStarted(self._sentences, begin))
        self._words.append(TimedWord(text, begin, begin + 0.1))
        whole = join_words((word.text, "") for word in self._words)
        times = self._words[0].begin, begin + 0.1
        self._queue.put_nowait(Partial(self._sentences, whole, len(whole), *times, tuple(self._words)))

    def _close(self, cause: Cause) -> None:
        words = self._words
        if self._punctuate:
            last = words[-1]
            words = [*words[:-1], TimedWord(last.text, last.begin, last.end, 0.0, "。")]
        text = join_words((word.text, word.mark) for word in words)
        times = words[0].begin, words[-1].end
        self._queue.put_nowait(SentenceFinal(self._sentences, text, *times, tuple(words), cause))
        self._sentences += 1
        self._words = []


class ReadingService(LiveService):
    """Opens sessions that read."""

    def __init__(self, world: World, settings: Settings) -> None:
        super().__init__(ReadingGraph(world), settings)
        self._world = world

    def _session(self, options: LiveOptions, speakers: LiveSpeakers | None) -> LiveSession:
        self._world.opened.append(options)
        return ReadingSession(self._world, options)


@asynccontextmanager
async def funasr_server(world: World, **settings: Any) -> AsyncIterator[tuple[str, LiveService]]:
    """The protocol over the stand-ins, on a free port; its ``ws://`` address, and the live service."""
    configured = Settings(**settings)
    service = ReadingService(world, configured)
    transcriber = Transcriber(ReadingGraph(world), configured)
    app = FastAPI()
    speakers = SpeakerService(configured, ReadingGraph(world))
    recognizers = Recognizers(configured, transcriber, service, speakers)
    app.include_router(funasr_router(Access(configured), recognizers))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="error", ws_max_size=80 << 20))
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/", service
    finally:
        server.should_exit = True
        server.force_exit = True
        await running
