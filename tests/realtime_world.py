"""The application over models that hear what the audio's levels spell, and a client of its Realtime API."""

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import numpy as np
import uvicorn
from websockets.asyncio.client import ClientConnection, connect

from deployments.messages import (
    AudioSlice,
    Pcm,
    Priority,
    Recognition,
    RecognitionOptions,
    VadOptions,
    VadResult,
    VadState,
)
from serve_app.http import create_app
from serve_app.pipeline.graph import DEFAULT_RECOGNITION, LiveGraph
from serve_app.settings import Settings
from tests.live_graph import ToneGraph

Event = dict[str, Any]

PATIENCE = 10
"""Seconds for what should come at once, on a machine that does much else."""

TRANSCRIPTION = "conversation.item.input_audio_transcription"


class HearingGraph(ToneGraph):
    """Hears tones with some doubt, and keeps what detection was asked for; ``fault`` is raised instead.

    Recognition waits for ``gate``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.vad_options: list[VadOptions] = []
        self.fault: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def detect_live(
        self, samples: Pcm, block: int, state: VadState | None, final: bool, options: VadOptions
    ) -> list[VadResult]:
        self.vad_options.append(options)
        return await super().detect_live(samples, block, state, final, options)

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        heard = await super().transcribe(audio, priority=priority, options=options)
        return Recognition(tuple(replace(word, log_prob=-0.25) for word in heard.words))


@asynccontextmanager
async def realtime_server(graph: LiveGraph, **settings: Any) -> AsyncIterator[str]:
    """The whole application over ``graph`` on a free port; its ``http://`` address without a path."""

    async def readiness() -> dict[str, str]:
        return {"Vad": "READY"}

    app = create_app(Settings(**settings), graph, readiness)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, lifespan="off", log_level="error", ws="websockets-sansio", ws_max_size=64 << 20
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        server.force_exit = True
        await running


async def sessions_of(url: str) -> int:
    """Live sessions that the server holds, once those that are going have gone."""
    async with httpx.AsyncClient(trust_env=False, base_url=url) as client:
        for _ in range(50):
            if (count := (await client.get("/healthz")).json()["live_sessions"]) == 0:
                break
            await asyncio.sleep(0.1)
        return int(count)


@dataclass
class Realtime:
    """A connected client that does nothing by itself. ``events`` are all that came."""

    socket: ClientConnection
    events: list[Event] = field(default_factory=list)

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def update(self, event_id: str | None = None, include: Any = ..., **fields: Any) -> Event:
        """Set fields of ``audio.input``; the answer."""
        session: Event = {"type": "transcription", "audio": {"input": fields}}
        if include is not ...:
            session["include"] = include
        await self.send("session.update", session=session, **({"event_id": event_id} if event_id else {}))
        return await self.until("session.updated", "error")

    async def say(self, audio: Pcm | bytes, bytes_each: int = 9600) -> None:
        """Append samples at the rate that the session was told of."""
        data = audio if isinstance(audio, bytes) else audio.astype("<i2").tobytes()
        for begin in range(0, len(data), bytes_each):
            part = base64.b64encode(data[begin : begin + bytes_each]).decode()
            await self.send("input_audio_buffer.append", audio=part)

    async def commit(self) -> None:
        await self.send("input_audio_buffer.commit")

    async def receive(self) -> Event:
        async with asyncio.timeout(PATIENCE):
            event: Event = json.loads(await self.socket.recv())
        self.events.append(event)
        return event

    async def until(self, *kinds: str) -> Event:
        """The next event of one of these types."""
        while True:
            event = await self.receive()
            if event["type"] in kinds:
                return event

    async def completed(self, count: int = 1) -> list[str]:
        """The next transcripts."""
        return [(await self.until(f"{TRANSCRIPTION}.completed"))["transcript"] for _ in range(count)]

    async def quiet(self) -> list[Event]:
        """What still comes before the answer to something that changes nothing."""
        before = len(self.events)
        await self.send("sync")
        await self.until("error")
        return self.events[before:-1]

    def named(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["type"] == kind]


def names(events: Sequence[Event]) -> list[str]:
    """The types, without what most of them begin with."""
    kinds = (event["type"] for event in events)
    return [kind.removeprefix(f"{TRANSCRIPTION}.").removeprefix("input_audio_buffer.") for kind in kinds]


@asynccontextmanager
async def realtime(
    url: str, query: str = "?intent=transcription", *, rate: int | None = 16000, **options: Any
) -> AsyncIterator[Realtime]:
    """A client whose session was created, and set to samples at ``rate`` unless that is ``None``."""
    address = f"{url.replace('http', 'ws', 1)}/v1/realtime{query}"
    async with connect(address, proxy=None, max_size=None, **options) as connected:
        client = Realtime(connected)
        assert (await client.receive())["type"] == "session.created"
        if rate is not None:
            answer = await client.update(
                format={"type": "audio/pcm", "rate": rate}, noise_reduction={"type": "far_field"}
            )
            assert answer["type"] == "session.updated", answer
        yield client


def check_items(events: Sequence[Event]) -> None:
    """Items follow one another, and of each one, all deltas make up the transcript."""
    previous = None
    for event in events:
        if event["type"] == "input_audio_buffer.committed":
            assert event["previous_item_id"] == previous
            previous = event["item_id"]
    for event in events:
        if event["type"] == f"{TRANSCRIPTION}.completed":
            deltas = [
                other["delta"]
                for other in events
                if other["type"] == f"{TRANSCRIPTION}.delta" and other["item_id"] == event["item_id"]
            ]
            assert "".join(deltas) == event["transcript"]
    ids = [event["event_id"] for event in events]
    assert len(set(ids)) == len(ids)


def silence(seconds: float) -> Pcm:
    return np.zeros(round(seconds * 16_000), np.int16)
