"""Clients of DashScope's WebSockets. The server of them is that of ``nls_clients``.

They send and read what a test wants; :class:`Xiaozhi` does, message by message, what the provider
``aliyunbl_stream`` of xiaozhi-esp32-server does.
"""

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

Event = dict[str, Any]

PATIENCE = 60.0
INFERENCE, REALTIME = "/api-ws/v1/inference", "/api-ws/v1/realtime"


async def sessions_of(url: str) -> int:
    """Live sessions that the server holds, once those that are going have gone."""
    async with httpx.AsyncClient(trust_env=False, base_url=url.replace("ws", "http", 1)) as client:
        for _ in range(50):
            if (count := (await client.get("/healthz")).json()["live_sessions"]) == 0:
                break
            await asyncio.sleep(0.1)
        return int(count)


@dataclass
class Socket:
    """A connected client that does nothing by itself. ``events`` are all that came."""

    connected: ClientConnection
    events: list[Event] = field(default_factory=list)

    async def send(self, message: Any) -> None:
        """Send bytes and strings as they are, anything else as JSON."""
        await self.connected.send(message if isinstance(message, bytes | str) else json.dumps(message))

    async def event(self, seconds: float = PATIENCE) -> Event:
        """The next event."""
        async with asyncio.timeout(seconds):
            event: Event = json.loads(await self.connected.recv())
        self.events.append(event)
        return event

    async def until(self, *names: str) -> list[Event]:
        """Events up to the first of these names."""
        found = [await self.event()]
        while name_of(found[-1]) not in names:
            found.append(await self.event())
        return found

    async def closed(self) -> tuple[list[Event], int | None]:
        """What still comes until the server closes the connection, and its close code."""
        found = []
        try:
            while True:
                found.append(await self.event())
        except ConnectionClosed:
            return found, self.connected.close_code


@asynccontextmanager
async def dashscope(url: str, path: str = INFERENCE, key: str | None = None) -> AsyncIterator[Socket]:
    """A connection to the server at ``url``."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with connect(
        url + path, additional_headers=headers, ping_interval=None, max_size=None, proxy=None
    ) as connected:
        yield Socket(connected)


def name_of(event: Event) -> str:
    """What an event of either protocol is."""
    return str(event["header"]["event"] if "header" in event else event["type"])


def names(events: Sequence[Event]) -> list[str]:
    return [name_of(event) for event in events]


def action(name: str, task_id: str = "t" * 32, payload: Any = None) -> Event:
    header = {"action": name, "task_id": task_id, "streaming": "duplex"}
    return {"header": header, "payload": {"input": {}} if payload is None else payload}


def run_task(task_id: str = "t" * 32, /, **parameters: Any) -> Event:
    """The message that starts a task."""
    payload = {
        "task_group": "audio",
        "task": "asr",
        "function": "recognition",
        "model": "paraformer-realtime-v2",
        "parameters": {"format": "pcm", "sample_rate": 16000, **parameters},
        "input": {},
    }
    return action("run-task", task_id, payload)


async def whole_task(url: str, audio: bytes, *, size: int = 3200, **parameters: Any) -> list[Event]:
    """Start, audio, finish, and all that is told up to the end."""
    async with dashscope(url) as client:
        await client.send(run_task(**parameters))
        for begin in range(0, len(audio), size):
            await client.send(audio[begin : begin + size])
        await client.send(action("finish-task"))
        return await client.until("task-finished", "task-failed")


def sentences(events: Sequence[Event]) -> list[Event]:
    """The sentences of results, heartbeats and all."""
    return [
        event["payload"]["output"]["sentence"] for event in events if name_of(event) == "result-generated"
    ]


def text_of(events: Sequence[Event]) -> str:
    """All that was said, of either protocol."""
    told = [sentence["text"] for sentence in sentences(events) if sentence["sentence_end"]]
    return "".join(told + [event["transcript"] for event in events if name_of(event).endswith(".completed")])


def append(audio: bytes) -> Event:
    return {"type": "input_audio_buffer.append", "audio": base64.b64encode(audio).decode()}


def update(**session: Any) -> Event:
    return {"event_id": "event_of_update", "type": "session.update", "session": session}


COMMIT = {"type": "input_audio_buffer.commit"}
CLEAR = {"type": "input_audio_buffer.clear"}
FINISH = {"type": "session.finish"}


class Xiaozhi:
    """An utterance as xiaozhi's ``aliyunbl_stream`` sends it.

    In auto mode the first final sentence is the result, after which the client asks for the end and goes
    without waiting for it. In manual mode it does that with the first one after the button was let go.
    """

    def __init__(self, *, manual: bool = False) -> None:
        self._is_stopped = not manual
        self._is_manual = manual
        self._is_ready = asyncio.Event()
        self._task_id = uuid.uuid4().hex
        self.text = ""

    async def talk(self, url: str, frames: Sequence[bytes], seconds_between: float = 0.0) -> str:
        """Send PCM frames of 60 ms; the text that the device would get."""
        async with connect(
            f"{url}{INFERENCE}/",
            additional_headers={"Authorization": "Bearer sk-of-xiaozhi"},
            max_size=1000000000,
            ping_interval=None,
            ping_timeout=None,
            close_timeout=5,
            proxy=None,
        ) as connected:
            await connected.send(json.dumps(self._run_task()))
            speaker = asyncio.create_task(self._speak(connected, frames, seconds_between))
            try:
                async with asyncio.timeout(PATIENCE):
                    async for message in connected:
                        if self._is_result(json.loads(message)):
                            break
            finally:
                speaker.cancel()
                await asyncio.gather(speaker, return_exceptions=True)
            await connected.send(json.dumps(action("finish-task", self._task_id)))
        return self.text

    async def _speak(self, connected: ClientConnection, frames: Sequence[bytes], seconds: float) -> None:
        await self._is_ready.wait()
        for frame in frames:
            await connected.send(frame)
            await asyncio.sleep(seconds)
        if self._is_manual:
            self._is_stopped = True
            await connected.send(json.dumps(action("finish-task", self._task_id)))

    def _is_result(self, event: Event) -> bool:
        match event["header"].get("event"):
            case "task-started":
                self._is_ready.set()
            case "result-generated":
                sentence = event.get("payload", {}).get("output", {}).get("sentence", {})
                if sentence.get("sentence_end", False) and sentence.get("end_time") is not None:
                    self.text += sentence["text"]
                    return self._is_stopped
            case "task-finished" | "task-failed":
                return True
        return False

    def _run_task(self) -> Event:
        parameters = {
            "format": "pcm",
            "sample_rate": 16000,
            "disfluency_removal_enabled": False,
            "semantic_punctuation_enabled": False,
            "max_sentence_silence": 200,
            "multi_threshold_mode_enabled": False,
            "punctuation_prediction_enabled": True,
            "inverse_text_normalization_enabled": True,
        }
        return run_task(self._task_id, **parameters)
