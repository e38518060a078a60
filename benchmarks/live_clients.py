"""Paced clients of FunASR's runtime WebSocket protocol, as many as one likes, in processes of their own.

Each client sends a recording in packets of 60 ms as a microphone would: a packet leaves when its last sample
has been spoken, whether or not the server keeps up. What comes back is kept with the time at which it came.
The messages are the ones that ``funasr_wss_client.py`` sends and that both FunASR's server and this one
answer, so the same clients measure both from outside.
"""

import asyncio
import json
import math
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

Mode = Literal["2pass", "online"]
Kind = Literal["partial", "final"]

SAMPLE_RATE = 16_000
PACKET_SECONDS = 0.06
_PACKET_BYTES = round(PACKET_SECONDS * SAMPLE_RATE) * 2
_CLIENTS_PER_PROCESS = 32
_CONNECT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Clip:
    """What one client says.

    ``pcm`` is mono s16le at 16 kHz, ``text`` its characters without marks, ``ends`` when each of these has
    been spoken, in seconds.
    """

    pcm: bytes
    text: str
    ends: tuple[float, ...]

    @property
    def seconds(self) -> float:
        return len(self.pcm) / 2 / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Load:
    """How clients behave.

    ``sessions`` of them are connected at any time: each says ``clips_each`` clips one after the other, every
    clip over a connection of its own, and starts up to ``stagger`` seconds after the first one, so that
    their sentences and ends are spread evenly. ``patience`` is how many seconds after the end of its audio
    a client waits for the acknowledgment before it gives up.
    """

    mode: Mode
    sessions: int
    clips_each: int = 1
    stagger: float = 0.0
    patience: float = 30.0
    chunk_size: tuple[int, int, int] = (0, 10, 5)


@dataclass(frozen=True, slots=True)
class Update:
    """A result that came ``at`` seconds after the first sample: an increment, or a sentence's final."""

    at: float
    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class SessionRun:
    """One clip's way through the server. Times are seconds after the clip's first sample.

    ``turn`` counts the clips of this client from 0. ``ended`` is when the end was acknowledged, after all
    results; ``None`` where ``error`` says what happened instead. ``sent_late`` is the most that a packet was
    behind its time: a large one means that the clients, not the server, were the bottleneck.
    """

    clip: int
    turn: int
    seconds: float
    updates: tuple[Update, ...]
    sent_late: float
    ended: float | None
    error: str | None = None

    def text(self, kind: Kind) -> str:
        """All texts of that kind in their order."""
        return "".join(update.text for update in self.updates if update.kind == kind)


def run_load(url: str, clips: Sequence[Clip], load: Load) -> list[SessionRun]:
    """Run all clients to their end; the runs of a client are neighbors, in the order of its turns.

    Client ``i`` says clip ``i``, ``i + 1``, … of ``clips``, which begins again at its end. A client whose
    session fails stops there.
    """
    processes = math.ceil(load.sessions / _CLIENTS_PER_PROCESS)
    context = multiprocessing.get_context("spawn")
    with (
        context.Manager() as manager,
        ProcessPoolExecutor(processes, mp_context=context) as pool,
    ):
        barrier = manager.Barrier(processes)
        jobs = [
            pool.submit(_run_clients, url, clips, load, range(first, load.sessions, processes), barrier)
            for first in range(processes)
        ]
        return [run for job in jobs for run in job.result()]


def _run_clients(
    url: str, clips: Sequence[Clip], load: Load, clients: Sequence[int], barrier: Any
) -> list[SessionRun]:
    async def run_all() -> list[SessionRun]:
        start = time.monotonic() + 0.1
        runs = await asyncio.gather(*(_client(url, clips, load, index, start) for index in clients))
        return [run for client in runs for run in client]

    barrier.wait()
    return asyncio.run(run_all())


async def _client(url: str, clips: Sequence[Clip], load: Load, index: int, start: float) -> list[SessionRun]:
    await _until(start + load.stagger * index / load.sessions)
    runs: list[SessionRun] = []
    for turn in range(load.clips_each):
        number = (index + turn) % len(clips)
        recorder = _Recorder(number, turn, clips[number].seconds)
        try:
            async with connect(
                url,
                subprotocols=[Subprotocol("binary")],
                compression=None,
                ping_interval=None,
                max_size=None,
                open_timeout=_CONNECT_SECONDS,
                proxy=None,
            ) as socket:
                await recorder.talk(socket, clips[number], load)
        except (WebSocketException, OSError, TimeoutError) as error:
            recorder.error = f"{type(error).__name__}: {error}"
        runs.append(recorder.run())
        if recorder.error:
            break
    return runs


class _Recorder:
    """Says one clip and writes down what comes back."""

    def __init__(self, clip: int, turn: int, seconds: float) -> None:
        self.error: str | None = None
        self._clip, self._turn, self._seconds = clip, turn, seconds
        self._began = 0.0
        self._sent_late = 0.0
        self._updates: list[Update] = []
        self._ended: float | None = None

    def run(self) -> SessionRun:
        return SessionRun(
            self._clip,
            self._turn,
            self._seconds,
            tuple(self._updates),
            self._sent_late,
            self._ended,
            self.error,
        )

    async def talk(self, socket: ClientConnection, clip: Clip, load: Load) -> None:
        await socket.send(json.dumps(_config(load, f"clip-{self._clip}")))
        self._began = time.monotonic()
        sender = asyncio.create_task(self._send(socket, clip))
        try:
            async with asyncio.timeout(clip.seconds + load.patience):
                await self._receive(socket)
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _send(self, socket: ClientConnection, clip: Clip) -> None:
        for first in range(0, len(clip.pcm), _PACKET_BYTES):
            packet = clip.pcm[first : first + _PACKET_BYTES]
            due = self._began + (first + len(packet)) / 2 / SAMPLE_RATE
            await _until(due)
            await socket.send(packet)
            self._sent_late = max(self._sent_late, time.monotonic() - due)
        await socket.send(json.dumps({"is_speaking": False, "is_end": True}))

    async def _receive(self, socket: ClientConnection) -> None:
        async for message in socket:
            at = time.monotonic() - self._began
            reply = json.loads(message)
            if reply.get("is_end"):
                self._ended = at
                self.error = reply.get("error")
                return
            if reply.get("text"):
                kind: Kind = "partial" if str(reply["mode"]).endswith("online") else "final"
                self._updates.append(Update(at, kind, reply["text"]))
        raise ConnectionError("the server closed the connection before it acknowledged the end")


def _config(load: Load, name: str) -> dict[str, object]:
    return {
        "mode": load.mode,
        "chunk_size": list(load.chunk_size),
        "chunk_interval": 10,
        "encoder_chunk_look_back": 4,
        "decoder_chunk_look_back": 1,
        "audio_fs": SAMPLE_RATE,
        "wav_name": name,
        "wav_format": "pcm",
        "is_speaking": True,
        "hotwords": "",
        "itn": False,
    }


async def _until(moment: float) -> None:
    wait = moment - time.monotonic()
    if wait > 0:
        await asyncio.sleep(wait)
