"""The HTTP application over a graph that stands in for the models: keys, overload, faults, health."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.messages import (
    AudioPiece,
    AudioSlice,
    Embeddings,
    Pcm,
    Priority,
    PunctuatedBlock,
    Recognition,
    RecognitionOptions,
    StreamStep,
    Token,
    VadOptions,
    VadResult,
    VadState,
)
from serve_app.errors import UpstreamLost
from serve_app.http import create_app
from serve_app.pipeline.graph import DEFAULT_RECOGNITION
from serve_app.settings import Settings
from tests import audio_files
from tests.stand_ins import NoGenerativeModel
from tests.voices import one_voice

WAV = audio_files.wav(np.full(16_000, 0.1, np.float32), 16_000)


class SilentGraph(NoGenerativeModel):
    """Hears nothing in any recording; ``gate`` holds it up, ``fault`` is raised instead."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.fault: Exception | None = None

    async def store(self, samples: Pcm) -> AudioPiece:
        return AudioPiece(samples, 0, len(samples))

    async def detect(
        self, audio: AudioSlice, state: VadState | None, final: bool, options: VadOptions
    ) -> VadResult:
        self.entered.set()
        await self.gate.wait()
        if self.fault:
            raise self.fault
        return VadResult((), None, None if final else VadState(b""))

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        return Recognition()

    async def embed(
        self, audio: AudioSlice, windows: Sequence[tuple[int, int]], *, priority: Priority = Priority.REQUEST
    ) -> Embeddings:
        return np.stack([one_voice(np.zeros(0, np.int16))] * len(windows))

    async def punctuate(self, words: Sequence[str]) -> list[str]:
        return ["" for _ in words]

    async def detect_live(
        self, samples: Pcm, block: int, state: VadState | None, final: bool, options: VadOptions
    ) -> list[VadResult]:
        blocks = max(1, -(-len(samples) // block))
        return [VadResult((), None, None if final else VadState(b""))] * blocks

    async def stream(self, step: StreamStep) -> tuple[Token, ...]:
        return ()

    async def drop_stream(self, stream_id: str) -> None:
        pass

    async def punctuate_live(self, words: Sequence[str], context: Sequence[str]) -> PunctuatedBlock:
        return PunctuatedBlock(tuple("" for _ in words), "", ())


@asynccontextmanager
async def client_of(
    graph: SilentGraph, states: dict[str, str] | None = None, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    async def readiness() -> dict[str, str]:
        return {"Vad": "READY"} if states is None else states

    app = create_app(Settings(**settings), graph, readiness)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def transcribe(client: httpx.AsyncClient, **headers: str) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(client.post("/v1/audio/transcriptions", files={"file": WAV}, headers=headers))


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer right-key"},
        {"authorization": "Bearer; right-key"},
        {"authorization": "bearer   right-key "},
        {"x-nls-token": "right-key"},
    ],
)
async def test_the_key_is_taken_wherever_clients_put_it(headers: dict[str, str]) -> None:
    async with client_of(SilentGraph(), api_key="right-key") as client:
        assert (await client.get("/v1/models", headers=headers)).status_code == 200
        assert (await transcribe(client, **headers)).json()["text"] == ""


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer ключ"}])
async def test_without_the_key_nothing_is_served_but_health(headers: dict[str, str]) -> None:
    encoded = httpx.Headers([(name.encode(), value.encode()) for name, value in headers.items()])
    async with client_of(SilentGraph(), api_key="right-key") as client:
        for response in (
            await client.get("/v1/models", headers=encoded),
            await client.post("/v1/audio/transcriptions", files={"file": WAV}, headers=encoded),
        ):
            assert response.status_code == 401
            assert response.json()["error"]["type"] == "authentication_error"
            assert response.json()["error_code"] == "AUTHENTICATION_FAILED"
            assert "right-key" not in response.text
        assert (await client.get("/healthz")).status_code == 200


async def test_overload_is_an_answer_and_the_place_is_given_back() -> None:
    graph = SilentGraph()
    graph.gate.clear()
    async with client_of(graph, max_concurrent_files=1) as client:
        first = transcribe(client)
        await graph.entered.wait()
        refused = await transcribe(client)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        graph.gate.set()
        assert (await first).status_code == 200
        assert (await transcribe(client)).status_code == 200


async def test_a_lost_model_is_told_and_may_be_retried() -> None:
    graph = SilentGraph()
    graph.fault = UpstreamLost("The Vad model was lost.")
    async with client_of(graph) as client:
        response = await transcribe(client)
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "The Vad model was lost."


async def test_a_fault_of_ours_shows_no_inner_workings() -> None:
    graph = SilentGraph()
    graph.fault = RuntimeError("secret detail")
    async with client_of(graph) as client:
        response = await transcribe(client)
    assert response.status_code == 500
    assert "secret detail" not in response.text
    assert response.json()["error"]["code"] == "internal_error"
    assert response.headers["x-should-retry"] == "false"


async def test_readiness_names_what_is_missing() -> None:
    states = {"Vad": "READY", "Paraformer": "UPDATING"}
    async with client_of(SilentGraph(), states) as client:
        response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["deployments"] == states


async def test_the_request_id_is_the_clients_or_a_new_one() -> None:
    async with client_of(SilentGraph()) as client:
        given = await client.get("/healthz", headers={"x-request-id": "mine"})
        assert given.headers.get_list("x-request-id") == ["mine"]
        assert len((await client.get("/healthz")).headers["x-request-id"]) == 32
