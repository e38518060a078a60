"""Qwen3-ASR through the whole graph against its bare engine, and live sessions as they get long.

``python -m benchmarks.qwen3`` prints, for each concurrency, the requests per second of the engine alone and
of the server over HTTP with the same weights and threads, in turns, and their ratio. The engine's row at
concurrency 1 is one request at a time, so the other rows against it are what batching gains. After that it
lets sessions of a minute of speech without a pause run on the engine, decoded every two seconds: as the
service does it, and as one does it who sends all of the audio as one item each time (``qwen_asr``'s own
streaming, which funasr-api uses). It prints what a step costs at second 5 and at second 60.

``--engine vllm`` needs an environment with vLLM (``make test-vllm`` makes one that runs on a CPU).
"""

import asyncio
import io
import logging
import statistics
import tempfile
import time
import wave
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import httpx
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.live_server import LiveServer, live_server
from benchmarks.make_speech import make_recording
from benchmarks.qwen3_engines import Kind, opened, read_samples, refeeding
from benchmarks.qwen3_live import live_table
from deployments.engines.base import SAMPLE_RATE, Pcm
from deployments.engines.generative import GenerativeAsrEngine, SpeechPrompt

STARTER = Path("models/starter/qwen3-asr")
_RECORDING_SECONDS = 1800
_STRIDE = 12_007
"""Samples from the begin of one clip to that of the next."""

console = Console()


async def _spread(work: Callable[[int], Awaitable[object]], count: int, concurrency: int) -> float:
    """Items per second of ``work(0)`` to ``work(count - 1)``, so many at once."""
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            await work(number)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    return count / (time.perf_counter() - began)


class Clips:
    """Stretches of a long recording, none of which is given twice: an engine remembers what it has heard."""

    def __init__(self, seconds: float) -> None:
        self._recording = read_samples(make_recording(_RECORDING_SECONDS, seed=0))
        self._length = round(seconds * SAMPLE_RATE)
        self._begin = 0

    def take(self, count: int) -> list[Pcm]:
        """So many, which overlap, but begin at other samples. Raises ValueError at the recording's end."""
        clips = []
        for _ in range(count):
            clips.append(self._recording[self._begin : self._begin + self._length])
            self._begin += _STRIDE
        if self._begin + self._length > len(self._recording):
            raise ValueError("the recording is over; ask for fewer requests or rounds")
        return clips


async def bare(engine: GenerativeAsrEngine, clips: Sequence[Pcm], concurrency: int) -> float:
    """Requests per second of the engine alone."""

    async def transcribe(number: int) -> None:
        most = 32 + 8 * len(clips[number]) // SAMPLE_RATE
        await engine.transcribe(SpeechPrompt(clips[number], max_tokens=most))

    return await _spread(transcribe, len(clips), concurrency)


async def served(server: LiveServer, clips: Sequence[Pcm], concurrency: int) -> float:
    """Requests per second over HTTP. Raises httpx.HTTPStatusError on an answer that is not 200."""
    audio = [_wav(clip) for clip in clips]
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(timeout=None, trust_env=False, limits=limits) as client:

        async def send(number: int) -> None:
            response = await client.post(
                server.url + "/v1/audio/transcriptions",
                files={"file": ("clip.wav", audio[number])},
                data={"model": "qwen3-asr", "response_format": "json", "itn": "false"},
            )
            response.raise_for_status()

        return await _spread(send, len(clips), concurrency)


def _wav(samples: Pcm) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


async def requests_table(
    engine: GenerativeAsrEngine,
    server: LiveServer,
    clips: Clips,
    levels: Sequence[int],
    count: int,
    rounds: int,
) -> Table:
    """Median requests per second of both at each concurrency; they take turns."""
    table = Table("concurrency", "engine /s", "server /s", "server / engine", "engine / one at a time")
    single: float | None = None
    for level in levels:
        rates: dict[str, list[float]] = {"engine": [], "server": []}
        await bare(engine, clips.take(level), level)
        await served(server, clips.take(2 * level), level)
        for number in range(rounds):
            rates["engine"].append(await bare(engine, clips.take(count), level))
            rates["server"].append(await served(server, clips.take(count), level))
            console.print(
                f"concurrency {level}, round {number + 1}: engine {rates['engine'][-1]:.2f}/s, "
                f"server {rates['server'][-1]:.2f}/s"
            )
        alone, graph = (statistics.median(values) for values in rates.values())
        single = single or alone
        table.add_row(
            str(level), f"{alone:.2f}", f"{graph:.2f}", f"{graph / alone:.2f}", f"{alone / single:.2f}"
        )
    return table


async def compare(
    kind: Kind, model: Path, threads: int, levels: Sequence[int], count: int, seconds: float, rounds: int
) -> None:
    """Run everything, and print it."""
    env = {
        "QWEN3_MODEL": str(model),
        "QWEN3_ENGINE": kind,
        "QWEN3_THREADS": str(threads),
        "SPEAKER_MODEL": "none",
        "QWEN3_ALIGNER_MODEL": "none",
    }
    async with opened(kind, model, threads) as engine:
        # The libraries of some models turn on everybody's messages.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        if levels:
            with (
                tempfile.TemporaryDirectory() as folder,
                live_server(Path(folder) / "log", env=env) as server,
            ):
                console.print(await requests_table(engine, server, Clips(seconds), levels, count, rounds))
        async with refeeding(kind, model, threads) as refeed:
            console.print(await live_table(engine, refeed, console))


def main(
    engine: Annotated[Literal["package", "vllm"], typer.Option(help="What runs the model.")] = "package",
    model: Annotated[Path, typer.Option(help="Model directory.")] = STARTER,
    threads: Annotated[int, typer.Option(help="Threads of the engine, and of the server's.")] = 1,
    concurrency: Annotated[str, typer.Option(help="Requests at once; empty: only live.")] = "1,8,32",
    requests: Annotated[int, typer.Option(help="Requests of one turn.")] = 64,
    seconds: Annotated[float, typer.Option(help="Length of a recording, in seconds.")] = 6,
    rounds: Annotated[int, typer.Option(help="Turns; the median counts.")] = 3,
) -> None:
    """Compare the service with the bare engine, and look at long live sessions."""
    levels = [int(part) for part in concurrency.split(",") if part.strip()]
    asyncio.run(compare(engine, model.resolve(), threads, levels, requests, seconds, rounds))


if __name__ == "__main__":
    typer.run(main)
