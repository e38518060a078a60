"""Clients that never stop asking, to see whether a change of a running server reaches them.

Some send files over HTTP, some speak over FunASR's WebSocket, some over OpenAI's Realtime API; each begins
again as soon as it has its answer, so that at any moment requests and sessions of all kinds are under way.
No client tries again: whatever goes wrong is kept as an error.
"""

import asyncio
import base64
import io
import json
import threading
import time
import wave
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from benchmarks.live_clients import PACKET_SECONDS, SAMPLE_RATE

Kind = Literal["file", "funasr", "realtime"]
KINDS: tuple[Kind, ...] = ("file", "funasr", "realtime")

_PACKET_BYTES = round(PACKET_SECONDS * SAMPLE_RATE) * 2
_PATIENCE_SECONDS = 300.0
_COMPLETED = "conversation.item.input_audio_transcription.completed"


class Refused(Exception):
    """The server answered with an error; the message is the server's."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one request, or one session from its handshake to its close, went.

    ``began`` and ``ended`` are seconds of the monotonic clock. ``wait`` is how many seconds it took beyond
    the length of the speech that it streamed in real time (0 for files).
    """

    kind: Kind
    began: float
    ended: float
    wait: float
    text: str
    error: str | None = None


@dataclass
class SteadyLoad:
    """The clients, on a thread of their own while the context is open.

    Leaving the context starts no further request, and waits until all that are under way have ended.

    Args:
        url: of the server, ``http://host:port``.
        pcm: what everybody says: mono s16le at 16 kHz. Those over WebSockets say it at the pace of speech.
        clients: how many there are of each kind.
        model: as it is asked for by name; ``None``: nobody names one.
    """

    url: str
    pcm: bytes
    clients: dict[Kind, int]
    model: str | None = None
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="steady-load")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def wait_for(self, kinds: Sequence[Kind] = KINDS, *, since: float, seconds: float) -> None:
        """Wait until one of each of ``kinds`` that began after ``since`` has ended.

        Raises:
            TimeoutError: that took longer than ``seconds``.
        """
        deadline = time.monotonic() + seconds
        while missing := {*kinds} - {item.kind for item in [*self.outcomes] if item.began > since}:
            if time.monotonic() > deadline:
                raise TimeoutError(f"Of {', '.join(sorted(missing))} nothing ended in {seconds:g} s.")
            time.sleep(0.1)

    @property
    def errors(self) -> list[Outcome]:
        """Those that did not get what they asked for."""
        return [item for item in self.outcomes if item.error is not None]

    async def _run(self) -> None:
        talks: dict[Kind, Callable[[], Awaitable[str]]] = {
            "file": self._send_file,
            "funasr": self._talk_funasr,
            "realtime": self._talk_realtime,
        }
        await asyncio.gather(
            *(self._repeat(kind, talks[kind]) for kind, count in self.clients.items() for _ in range(count))
        )

    async def _repeat(self, kind: Kind, talk: Callable[[], Awaitable[str]]) -> None:
        spoken = 0.0 if kind == "file" else len(self.pcm) / 2 / SAMPLE_RATE
        while not self._stopping.is_set():
            began, text, error = time.monotonic(), "", None
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    text = await talk()
            except (Refused, WebSocketException, httpx.HTTPError, OSError, TimeoutError) as problem:
                error = f"{type(problem).__name__}: {problem}"
            ended = time.monotonic()
            self.outcomes.append(Outcome(kind, began, ended, ended - began - spoken, text, error))
            if error is not None:
                await asyncio.sleep(0.5)

    async def _send_file(self) -> str:
        recording = io.BytesIO()
        with wave.open(recording, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes(self.pcm)
        async with httpx.AsyncClient(trust_env=False, timeout=_PATIENCE_SECONDS) as client:
            response = await client.post(
                self.url + "/v1/audio/transcriptions",
                files={"file": ("speech.wav", recording.getvalue())},
                data={} if self.model is None else {"model": self.model},
            )
        if response.status_code != 200:
            raise Refused(f"{response.status_code} {response.text[:300]}")
        return str(response.json()["text"])

    async def _talk_funasr(self) -> str:
        begin = {"mode": "2pass", "chunk_size": [0, 10, 5], "chunk_interval": 10, "audio_fs": SAMPLE_RATE}
        begin |= {"wav_name": "speech", "wav_format": "pcm", "is_speaking": True, "itn": False}
        finals: list[str] = []

        def packet(data: bytes) -> bytes:
            return data

        async def listen(message: dict[str, Any]) -> bool:
            if message.get("error"):
                raise Refused(str(message["error"]))
            if message.get("mode") == "2pass-offline":
                finals.append(message["text"])
            return bool(message.get("is_end"))

        end = json.dumps({"is_speaking": False, "is_end": True})
        await self._talk("/", ["binary"], [json.dumps(begin)], packet, end, listen)
        return "".join(finals)

    async def _talk_realtime(self) -> str:
        audio = {"format": {"type": "audio/pcm", "rate": SAMPLE_RATE}, "turn_detection": None}
        if self.model is not None:
            audio["transcription"] = {"model": self.model}
        begin = {"type": "session.update", "session": {"type": "transcription", "audio": {"input": audio}}}
        texts: list[str] = []

        def packet(data: bytes) -> str:
            encoded = base64.b64encode(data).decode()
            return json.dumps({"type": "input_audio_buffer.append", "audio": encoded})

        async def listen(message: dict[str, Any]) -> bool:
            if message["type"] == "error":
                raise Refused(str(message["error"]["message"]))
            if message["type"].endswith(".failed"):
                raise Refused(str(message["error"]["message"]))
            if message["type"] == _COMPLETED:
                texts.append(message["transcript"])
            return bool(texts)

        end = json.dumps({"type": "input_audio_buffer.commit"})
        await self._talk("/v1/realtime?intent=transcription", [], [json.dumps(begin)], packet, end, listen)
        return "".join(texts)

    async def _talk(
        self,
        path: str,
        subprotocols: Sequence[str],
        first: Sequence[str],
        packet: Callable[[bytes], bytes | str],
        last: str,
        listen: Callable[[dict[str, Any]], Awaitable[bool]],
    ) -> None:
        async with connect(
            self.url.replace("http", "ws", 1) + path,
            subprotocols=[Subprotocol(name) for name in subprotocols] or None,
            ping_interval=None,
            max_size=None,
            open_timeout=_PATIENCE_SECONDS,
            proxy=None,
        ) as socket:

            async def speak() -> None:
                for message in first:
                    await socket.send(message)
                began = time.monotonic()
                for begin in range(0, len(self.pcm), _PACKET_BYTES):
                    due = began + (begin + _PACKET_BYTES) / 2 / SAMPLE_RATE
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                    await socket.send(packet(self.pcm[begin : begin + _PACKET_BYTES]))
                await socket.send(last)

            speaker = asyncio.create_task(speak())
            try:
                async for message in socket:
                    if await listen(json.loads(message)):
                        await speaker
                        return
            finally:
                speaker.cancel()
                await asyncio.gather(speaker, return_exceptions=True)
        raise Refused(f"closed with {socket.close_code}: {socket.close_reason}")
