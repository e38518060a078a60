"""A service without models, disk or network: tones stand for phrases, jobs lie in memory."""

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any, BinaryIO

import httpx
import numpy as np
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
from serve_app.api.aliyun.router import aliyun_router
from serve_app.api.funasr.http import funasr_http_router
from serve_app.api.root import root_router
from serve_app.errors import DownloadFailed, NotFound
from serve_app.fetching import Fetcher
from serve_app.jobs.types import Job, JobError, JobSpec, JobStatus
from serve_app.live import LiveService
from serve_app.pipeline.graph import DEFAULT_RECOGNITION
from serve_app.pipeline.types import Transcript
from serve_app.services import Services
from serve_app.settings import Settings
from serve_app.speakers.service import SpeakerService
from serve_app.transcriber import Transcriber
from tests import audio_files
from tests.live_graph import samples_of
from tests.stand_ins import NoGenerativeModel
from tests.voices import by_tone, embedded

PHRASES = {400: "北京的天气", 800: "喂你好吗", 1600: "嗯百分之五"}
"""What a tone of so many Hz says."""

_MARKS = {"喂": "，", "吗": "？", "气": "。"}
_BLOCK_MS = 100
_LOUD = 300

TEXTS = {400: "北京的天气。", 800: "喂，你好吗？"}


def said(hz: int, rate: int = 16_000, seconds: float = 2.0, lead: float = 0.5) -> audio_files.Samples:
    """A recording in which the phrase of ``hz`` is said, between silence."""
    quiet = np.zeros(round(lead * rate), np.float32)
    return np.concatenate([quiet, audio_files.tone(seconds, rate, hz), quiet])


class ToneGraph(NoGenerativeModel):
    """Hears tones; ``fault`` is raised instead. What it was asked is kept."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self.vad_options: list[VadOptions] = []

    async def store(self, samples: Pcm) -> AudioPiece:
        return AudioPiece(samples, 0, len(samples))

    async def detect(
        self, audio: AudioSlice, state: VadState | None, final: bool, options: VadOptions
    ) -> VadResult:
        self.vad_options.append(options)
        if self.fault:
            raise self.fault
        samples = samples_of(audio).astype(np.int32)
        size = 16 * _BLOCK_MS
        loud = [bool(np.abs(samples[at : at + size]).max() > _LOUD) for at in range(0, len(samples), size)]
        edges = np.flatnonzero(np.diff([False, *loud, False])) * _BLOCK_MS
        end = len(samples) // 16
        offset = int.from_bytes(state.payload) if state else 0
        spans = tuple(
            SpeechSpan(offset + int(begin), offset + min(int(stop), end))
            for begin, stop in zip(edges[::2], edges[1::2], strict=True)
        )
        return VadResult(spans, None, None if final else VadState((offset + end).to_bytes(8)))

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        samples = samples_of(audio).astype(np.int32)
        spectrum = np.abs(np.fft.rfft(samples))
        hz = int(np.argmax(spectrum)) * 16_000 / len(samples)
        phrase = PHRASES[min(PHRASES, key=lambda known: abs(known - hz))]
        step = len(samples) // 16 // len(phrase)
        return Recognition(tuple(Word(word, step * at, step * (at + 1)) for at, word in enumerate(phrase)))

    async def embed(
        self, audio: AudioSlice, windows: Sequence[tuple[int, int]], *, priority: Priority = Priority.REQUEST
    ) -> Embeddings:
        return embedded(samples_of(audio), windows, lambda heard: by_tone(heard, [*PHRASES]))

    async def punctuate(self, words: Sequence[str]) -> list[str]:
        return [_MARKS.get(word, "") for word in words]

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


class MemoryFetcher(Fetcher):
    """Fetches only what a test has put behind a URL."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    @asynccontextmanager
    async def fetch(self, url: str, *, param: str) -> AsyncIterator[BinaryIO]:
        if url not in self.files:
            raise DownloadFailed("The server of the recording answered 404.", param)
        yield BytesIO(self.files[url])


class MemoryJobs:
    """Implements :class:`serve_app.jobs.types.Jobs`, except that nothing is done unless a test does it."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.results: dict[str, tuple[Transcript, ...]] = {}
        self.refusal: Exception | None = None

    async def submit(
        self,
        owner: str,
        spec: JobSpec,
        recording: BinaryIO | None = None,
        idempotency_key: str | None = None,
    ) -> tuple[Job, bool]:
        if self.refusal:
            raise self.refusal
        job = Job(uuid.uuid4().hex, owner, spec, JobStatus.QUEUED, datetime(2026, 1, 2, tzinfo=UTC))
        self.jobs[job.id] = job
        return job, True

    async def get(self, owner: str, job_id: str) -> Job:
        job = self.jobs.get(job_id)
        if job is None or job.owner != owner:
            raise NotFound("There is no such job.")
        return job

    async def list(
        self,
        owner: str,
        *,
        limit: int = 20,
        after: str | None = None,
        status: JobStatus | None = None,
        protocol: str | None = None,
    ) -> list[Job]:
        return [job for job in self.jobs.values() if job.owner == owner]

    async def cancel(self, owner: str, job_id: str) -> Job:
        return self.change(job_id, JobStatus.CANCELED)

    async def delete(self, owner: str, job_id: str) -> None:
        del self.jobs[job_id]

    async def transcripts(self, owner: str, job_id: str) -> tuple[Transcript, ...]:
        return self.results.get((await self.get(owner, job_id)).id, ())

    async def watch(self, owner: str, job_id: str) -> AsyncIterator[Job]:
        yield await self.get(owner, job_id)

    def change(self, job_id: str, status: JobStatus, error: JobError | None = None) -> Job:
        job = replace(self.jobs[job_id], status=status, error=error)
        if status.is_final:
            job = replace(job, finished_at=job.created_at + timedelta(seconds=5))
        self.jobs[job_id] = job
        return job


@dataclass(slots=True)
class World:
    """The service, what it works with, and a client of it."""

    client: httpx.AsyncClient
    graph: ToneGraph
    fetcher: MemoryFetcher
    jobs: MemoryJobs
    transcriber: Transcriber
    states: dict[str, str] = field(default_factory=dict)


def build(chosen: Settings) -> tuple[FastAPI, World]:
    """The routers of Aliyun's and FunASR's HTTP protocols over a :class:`ToneGraph`."""
    graph, fetcher, jobs = ToneGraph(), MemoryFetcher(), MemoryJobs()
    names = ("Vad", "Paraformer", "ParaformerStreaming", "Qwen3ASR")
    states = dict.fromkeys(names, "READY")

    async def readiness() -> dict[str, str]:
        return states

    services = Services(
        settings=chosen,
        access=Access(chosen),
        transcriber=Transcriber(graph, chosen),
        live=LiveService(graph, chosen),
        fetcher=fetcher,
        jobs=jobs,
        speakers=SpeakerService(chosen, graph),
        readiness=readiness,
    )
    app = FastAPI()
    for router in (aliyun_router, funasr_http_router, root_router):
        app.include_router(router(services))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    client = httpx.AsyncClient(transport=transport, base_url="http://test")
    return app, World(client, graph, fetcher, jobs, services.transcriber, states)


@asynccontextmanager
async def world(**settings: Any) -> AsyncIterator[World]:
    """The service with these settings."""
    _, here = build(Settings(**settings))
    async with here.client:
        yield here
