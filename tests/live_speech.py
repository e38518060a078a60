"""People who speak to a server over FunASR's WebSocket protocol, as fast as people speak or faster."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from deployments.messages import Pcm
from tests.funasr_clients import connected, receive, send_json

RATE = 16_000
_BLOCK_SAMPLES = RATE * 6 // 5
"""What the session machine and the models cut audio into fits into this: repetitions are cut alike."""


@dataclass(slots=True)
class Heard:
    """What a session was told: its finals in ``2pass``, its increments in ``online``."""

    texts: list[str] = field(default_factory=list)
    partials: int = 0
    speakers: list[str] = field(default_factory=list)
    """Who spoke each sentence that has a text, where speakers were asked for."""

    @property
    def text(self) -> str:
        return "".join(self.texts)


def recording(paths: Sequence[Path], pause: float = 1.0) -> Pcm:
    """Samples one after the other, with ``pause`` seconds or a little more behind each."""
    parts: list[Pcm] = []
    for path in paths:
        samples, rate = soundfile.read(path, dtype="int16")
        assert rate == RATE
        length = len(samples) + round(pause * RATE)
        padded = np.zeros(-(-length // _BLOCK_SAMPLES) * _BLOCK_SAMPLES, np.int16)
        padded[: len(samples)] = samples
        parts.append(padded)
    return np.concatenate(parts)


async def spoken(samples: Pcm, speed: float = 1.0, packet_seconds: float = 0.2) -> AsyncIterator[Pcm]:
    """Packets at ``speed`` times real time; 0 is all at once."""
    size = round(packet_seconds * RATE)
    began = time.monotonic()
    for begin in range(0, len(samples), size):
        packet = samples[begin : begin + size]
        if speed:
            due = began + (begin + len(packet)) / RATE / speed
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        yield packet


async def converse(url: str, packets: AsyncIterator[Pcm], mode: str = "2pass", **config: Any) -> Heard:
    """Say all packets and return what was heard when the server has acknowledged the end."""
    heard = Heard()
    async with connected(url) as socket:

        async def speak() -> None:
            start = {"chunk_size": [0, 10, 5], "audio_fs": RATE, "wav_format": "pcm", "is_speaking": True}
            await send_json(socket, mode=mode, **start, **config)
            async for packet in packets:
                await socket.send(packet.tobytes())
            await send_json(socket, is_speaking=False, is_end=True)

        speaker = asyncio.create_task(speak())
        try:
            while not (message := await receive(socket)).get("is_end"):
                assert "error" not in message, message
                if "spk_name" in message and message.get("slice_type") == 2:
                    heard.speakers.append(message["spk_name"])
                if mode == "online" or message["mode"] == "2pass-offline":
                    heard.texts.append(message["text"])
                else:
                    heard.partials += 1
            await speaker
        finally:
            speaker.cancel()
    return heard


def websocket_url(url: str) -> str:
    """Where a server's live protocol is."""
    return url.replace("http://", "ws://", 1) + "/"
