"""Clients of Aliyun's WebSocket protocol, and a server of it in this process.

The raw client sends and reads what a test wants; :class:`Xiaozhi` does, message by message, what the provider
``aliyun_stream`` of xiaozhi-esp32-server does.
"""

import asyncio
import contextlib
import json
import socket
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from serve_app.http import create_app
from serve_app.pipeline.graph import LiveGraph
from serve_app.settings import Settings

Event = dict[str, Any]

PATIENCE = 60.0
TRANSCRIBER, RECOGNIZER = "SpeechTranscriber", "SpeechRecognizer"
NAMES = {TRANSCRIBER: "Transcription", RECOGNIZER: "Recognition"}
SUCCESS = 20000000


class HandshakeRepair(HttpToolsProtocol):
    """Takes the first of two equal headers of a handshake, as the edge does for a deployed server.

    Aliyun's Python SDK sends ``Sec-WebSocket-Key`` and ``-Version`` twice, and checks the answer against the
    first key.
    """

    def handle_websocket_upgrade(self) -> None:
        seen: set[bytes] = set()
        kept = []
        for name, value in self.scope["headers"]:
            if name in (b"sec-websocket-key", b"sec-websocket-version") and name in seen:
                continue
            seen.add(name)
            kept.append((name, value))
        self.scope["headers"] = self.headers = kept
        super().handle_websocket_upgrade()


@asynccontextmanager
async def nls_server(graph: LiveGraph, **settings: Any) -> AsyncIterator[str]:
    """The whole application over ``graph`` on a free port; its ``ws://`` address without a path."""

    async def readiness() -> dict[str, str]:
        return {"Vad": "READY"}

    app = create_app(Settings(**settings), graph, readiness)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, lifespan="off", log_level="error", http=HandshakeRepair, ws="websockets-sansio"
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        server.force_exit = True
        await running


def directive(service: str, verb: str, task_id: str | None, payload: Any = None) -> str:
    """A client's text message; ``verb`` is Start or Stop."""
    header = {
        "message_id": uuid.uuid4().hex,
        "namespace": service,
        "name": verb + NAMES[service],
        "appkey": "app",
        **({} if task_id is None else {"task_id": task_id}),
    }
    return json.dumps({"header": header, **({} if payload is None else {"payload": payload})})


@dataclass
class Nls:
    """A connected client that does nothing by itself. ``events`` are all that came."""

    socket: ClientConnection
    service: str = TRANSCRIBER
    task_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    events: list[Event] = field(default_factory=list)

    async def start(self, **payload: Any) -> Event:
        """Start a task; the answer."""
        await self.socket.send(directive(self.service, "Start", self.task_id, payload))
        return await self.event()

    async def stop(self, task_id: str | None = None) -> None:
        await self.socket.send(directive(self.service, "Stop", task_id or self.task_id))

    async def say(self, audio: bytes, size: int = 3200) -> None:
        """Send audio in frames of ``size`` bytes."""
        for begin in range(0, len(audio), size):
            await self.socket.send(audio[begin : begin + size])

    async def event(self, seconds: float = PATIENCE) -> Event:
        """The next event."""
        async with asyncio.timeout(seconds):
            event: Event = json.loads(await self.socket.recv())
        self.events.append(event)
        return event

    async def until(self, *names: str) -> list[Event]:
        """Events up to the first of these names."""
        found = [await self.event()]
        while found[-1]["header"]["name"] not in names:
            found.append(await self.event())
        return found

    async def closed(self) -> tuple[list[Event], int | None]:
        """What still comes until the server closes the connection, and its close code."""
        found = []
        async with asyncio.timeout(PATIENCE):
            try:
                while True:
                    found.append(await self.event())
            except ConnectionClosed:
                return found, self.socket.close_code


@asynccontextmanager
async def nls(
    url: str, path: str = "/ws/v1", service: str = TRANSCRIBER, token: str | None = None
) -> AsyncIterator[Nls]:
    """A connection to the server at ``url``."""
    headers = {} if token is None else {"X-NLS-Token": token}
    async with connect(
        url + path, additional_headers=headers, ping_interval=None, max_size=None, proxy=None
    ) as connected:
        yield Nls(connected, service)


async def whole_task(
    url: str,
    audio: bytes,
    *,
    path: str = "/ws/v1",
    service: str = TRANSCRIBER,
    size: int = 3200,
    **payload: Any,
) -> list[Event]:
    """Start, audio, stop, and all that is told up to the end."""
    async with nls(url, path, service) as client:
        started = await client.start(**payload)
        assert started["header"]["name"] == NAMES[service] + "Started", started
        await client.say(audio, size)
        await client.stop()
        await client.until(NAMES[service] + "Completed", "TaskFailed")
        return client.events


def names(events: Sequence[Event]) -> list[str]:
    return [event["header"]["name"] for event in events]


def named(events: Sequence[Event], name: str) -> list[dict[str, Any]]:
    """The payloads of the events of one name."""
    return [event.get("payload", {}) for event in events if event["header"]["name"] == name]


def text_of(events: Sequence[Event]) -> str:
    """All that was said, by the sentences of a transcriber or the result of a recognizer."""
    results = named(events, "SentenceEnd") or named(events, "RecognitionCompleted")
    return "".join(payload["result"] for payload in results)


def status_of(event: Event) -> int:
    assert event["header"]["name"] == "TaskFailed", event
    assert event["header"]["status_text"] == event["header"]["status_message"]
    assert event["header"]["status_text"].endswith((".", "!"))
    return int(event["header"]["status"])


class Xiaozhi:
    """An utterance as xiaozhi's ``aliyun_stream`` sends it.

    In auto mode the client never stops by itself: the first sentence with a text is the result. In manual
    mode it stops when the button is let go, and what it has by then is only told with the sentence that ends
    after that.
    """

    def __init__(self, *, manual: bool = False, max_sentence_silence: int | None = None) -> None:
        self._manual = manual
        self._silence = max_sentence_silence
        self._is_stopped = not manual
        self._is_ready = asyncio.Event()
        self.text = ""

    async def talk(self, url: str, frames: Sequence[bytes], seconds_between: float = 0.0) -> str:
        """Send PCM frames of 60 ms.

        Returns:
            The text that the device would get, ``""`` if the task ended without any.
        """
        async with connect(
            f"{url}/ws/v1",
            additional_headers={"X-NLS-Token": "token-of-xiaozhi"},
            max_size=1000000000,
            ping_interval=None,
            ping_timeout=None,
            close_timeout=5,
            proxy=None,
        ) as connected:
            await connected.send(self._directive("StartTranscription", self._parameters(), uuid.uuid4().hex))
            speaker = asyncio.create_task(self._speak(connected, frames, seconds_between))
            try:
                async with asyncio.timeout(PATIENCE):
                    async for message in connected:
                        text = self._take(json.loads(message))
                        if text is not None:
                            return text
            finally:
                speaker.cancel()
                await asyncio.gather(speaker, return_exceptions=True)
                # Whatever happened, with no word on which task is meant.
                with contextlib.suppress(ConnectionClosed):
                    await connected.send(self._directive("StopTranscription"))
        return self.text

    async def _speak(self, connected: ClientConnection, frames: Sequence[bytes], seconds: float) -> None:
        await self._is_ready.wait()
        for frame in frames:
            await connected.send(frame)
            await asyncio.sleep(seconds)
        if self._manual:
            self._is_stopped = True
            await connected.send(self._directive("StopTranscription"))

    def _take(self, event: Event) -> str | None:
        """The result, once it is there."""
        status = event["header"].get("status", 0)
        if status != SUCCESS:
            return self.text if status in (40000004, 40010004) else None
        match event["header"]["name"]:
            case "TranscriptionStarted":
                self._is_ready.set()
            case "SentenceEnd" if event["payload"]["result"]:
                self.text += event["payload"]["result"]
                return self.text if self._is_stopped else None
            case "TranscriptionCompleted":
                return ""
        return None

    def _parameters(self) -> dict[str, Any]:
        return {
            "format": "pcm",
            "sample_rate": 16000,
            "enable_intermediate_result": True,
            "enable_punctuation_prediction": True,
            "enable_inverse_text_normalization": True,
            "max_sentence_silence": self._silence,
            "enable_voice_detection": False,
        }

    def _directive(self, name: str, payload: Any = None, task_id: str | None = None) -> str:
        header = {
            "namespace": TRANSCRIBER,
            "name": name,
            "status": SUCCESS,
            "message_id": uuid.uuid4().hex,
            "appkey": "app",
            **({} if task_id is None else {"task_id": task_id}),
        }
        return json.dumps({"header": header, **({} if payload is None else {"payload": payload})})
