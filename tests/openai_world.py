"""The HTTP application over a graph that says what a test scripts, behind a real HTTP server."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI

from deployments.messages import (
    AudioSlice,
    Embeddings,
    Priority,
    Recognition,
    RecognitionOptions,
    VadOptions,
    VadResult,
    VadState,
    Word,
)
from serve_app.http import create_app
from serve_app.pipeline.graph import DEFAULT_RECOGNITION
from serve_app.settings import Settings
from tests import audio_files
from tests.test_file_pipeline import ToneGraph, samples_of
from tests.test_http_app import SilentGraph
from tests.voices import Voice, embedded, one_voice

RATE = 16_000
_STEP = 1000


@dataclass(frozen=True)
class Said:
    """A word with its mark and the logarithm of its probability."""

    text: str
    mark: str = ""
    log_prob: float = -0.5


CHINESE_THEN_ENGLISH = (
    (
        Said("今", log_prob=-0.125),
        Said("天", log_prob=-0.25),
        Said("好", "。"),
        Said("hello"),
        Said("you", "。"),
    ),
    (Said("good"), Said("morning", "，", -1.5), Said("friend", "。"), Said("明"), Said("天", "？")),
)
TEXT = "今天好。hello you. good morning, friend.明天？"
SENTENCES = ["今天好。", "hello you.", "good morning, friend.", "明天？"]


class ScriptedGraph(SilentGraph):
    """Hears one segment of ``script`` in each tone of :func:`recording`.

    ``gates`` hold up the recognition of a segment by its number; ``faults`` are raised in its place.
    ``voice`` tells whose voice some samples are: ``by_level`` with ``together=1`` gives each tone its own.
    """

    def __init__(self, script: Sequence[Sequence[Said]] = CHINESE_THEN_ENGLISH) -> None:
        super().__init__()
        self._script = script
        self._tones = ToneGraph()
        self.voice: Voice = one_voice
        self.gates: dict[int, asyncio.Event] = {}
        self.faults: dict[int, Exception] = {}
        self.vad_options: list[VadOptions] = []
        self.requests = 0
        self.cancelled = asyncio.Event()

    async def detect(
        self, audio: AudioSlice, state: VadState | None, final: bool, options: VadOptions
    ) -> VadResult:
        self.vad_options.append(options)
        self.requests += state is None
        await super().detect(audio, state, final, options)
        return await self._tones.detect(audio, state, final, options)

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        number = int(samples_of(audio).max()) // _STEP - 1
        try:
            if number in self.gates:
                await self.gates[number].wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if number in self.faults:
            raise self.faults[number]
        said = self._script[number]
        return Recognition(
            tuple(Word(word.text, 50 * i, 50 * i + 50, word.log_prob) for i, word in enumerate(said))
        )

    async def embed(
        self, audio: AudioSlice, windows: Sequence[tuple[int, int]], *, priority: Priority = Priority.REQUEST
    ) -> Embeddings:
        return embedded(samples_of(audio), windows, self.voice)

    async def punctuate(self, words: Sequence[str]) -> list[str]:
        """The marks of the script, at the place where these words stand in it."""
        script = [word for segment in self._script for word in segment]
        texts = [word.text for word in script]
        begin = next(i for i in range(len(texts)) if texts[i : i + len(words)] == list(words))
        return [word.mark for word in script[begin : begin + len(words)]]


def recording(segments: int = 2, tone: float = 0.5, pause: float = 4.0) -> bytes:
    """A WAV file with a tone for each segment, and pauses (seconds) that end sentences."""
    parts = []
    for number in range(segments):
        parts += [np.full(int(RATE * tone), _STEP * (number + 1)), np.zeros(int(RATE * pause))]
    samples = np.concatenate(parts) if parts else np.zeros(RATE)
    return audio_files.wav((samples / 32768).astype(np.float32), RATE)


def app_of(graph: SilentGraph, **settings: Any) -> FastAPI:
    async def readiness() -> dict[str, str]:
        return {"Vad": "READY"}

    return create_app(Settings(**settings), graph, readiness)


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """The application behind a real HTTP server on a free port; its address."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical"))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            server.force_exit = True
            await running
