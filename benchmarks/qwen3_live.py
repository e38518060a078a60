"""What a step of a live session costs as its sentence gets long: as the service decodes it, and as others do.

A session here is a minute of speech without a pause, so that no end-point helps. The service cuts such speech
into sentences of half a minute at most; the other rows are what a step would cost if nobody did.
"""

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.make_speech import make_recording
from benchmarks.qwen3_engines import Refeed, read_samples
from deployments.engines.base import SAMPLE_RATE, Pcm
from deployments.engines.generative import GenerativeAsrEngine, SpeechPrompt

SECONDS = 60
STEP_SECONDS = 2
_FREE_STEPS, _OPEN_TOKENS = 2, 5
_SENTENCE_SECONDS = 30
_EARLY, _LATE = (4, 8), (54, 60)
"""Steps of these seconds of a session are compared: around second 5, and up to second 60."""
_SPREAD = 16

Decode = Callable[[Pcm, tuple[int, ...], int], Awaitable[tuple[int, ...]]]
"""Audio so far, prefix and how many tokens may follow, to all tokens."""


@dataclass(slots=True)
class Steps:
    """Seconds that steps took, by the second of the session in which they began."""

    seconds: dict[int, list[float]] = field(default_factory=dict)

    def add(self, second: int, took: float) -> None:
        self.seconds.setdefault(second, []).append(took)

    def median(self, between: tuple[int, int]) -> float:
        begin, end = between
        return statistics.median(
            took for second, values in self.seconds.items() if begin <= second <= end for took in values
        )


async def session(decode: Decode, samples: Pcm, steps: Steps, longest: int) -> None:
    """One session in sentences of ``longest`` seconds, each step as soon as the one before it is done."""
    tokens: tuple[int, ...] = ()
    for second in range(STEP_SECONDS, SECONDS + 1, STEP_SECONDS):
        begin = (second - 1) // longest * longest
        number = (second - begin) // STEP_SECONDS - 1
        prefix = tokens[:-_OPEN_TOKENS] if number >= _FREE_STEPS else ()
        most = 8 * STEP_SECONDS + _OPEN_TOKENS + 16
        began = time.perf_counter()
        tokens = await decode(samples[begin * SAMPLE_RATE : second * SAMPLE_RATE], prefix, most)
        steps.add(second, time.perf_counter() - began)


async def run(decode: Decode, sessions: int, longest: int) -> Steps:
    """``sessions`` at once, each of another recording."""
    steps = Steps()
    await asyncio.gather(*(session(decode, _speech(seed), steps, longest) for seed in range(sessions)))
    return steps


def ours(engine: GenerativeAsrEngine) -> Decode:
    """As the service decodes: windows of 8 s, of which the engine knows all but the last."""

    async def decode(samples: Pcm, prefix: tuple[int, ...], most: int) -> tuple[int, ...]:
        prompt = SpeechPrompt(samples, language="Chinese", prefix=prefix, max_tokens=most)
        return (await engine.transcribe(prompt)).token_ids

    return decode


async def live_table(engine: GenerativeAsrEngine, refeed: Refeed, console: Console) -> Table:
    """Median milliseconds of a step around second 5 and up to second 60, and their ratio."""
    table = Table("way", "sessions", "step at 5 s, ms", "step at 60 s, ms", "60 s / 5 s")
    ways: list[tuple[str, Decode, int]] = [
        (f"the service: windows, cut at {_SENTENCE_SECONDS} s", ours(engine), _SENTENCE_SECONDS),
        ("windows, never cut", ours(engine), SECONDS),
        ("all audio as one item, never cut", refeed, SECONDS),
    ]
    for (name, decode, longest), sessions in itertools.product(ways, (1, _SPREAD)):
        await session(decode, _speech(99), Steps(), longest)
        steps = await run(decode, sessions, longest)
        early, late = steps.median(_EARLY) * 1000, steps.median(_LATE) * 1000
        console.print(f"{name}, {sessions} at once: {early:.0f} ms, {late:.0f} ms")
        table.add_row(name, str(sessions), f"{early:.0f}", f"{late:.0f}", f"{late / early:.2f}")
    return table


def _speech(seed: int) -> Pcm:
    """A minute of speech, of which silence was taken out."""
    samples = read_samples(make_recording(2 * SECONDS, seed=seed))
    frames = samples[: len(samples) // 1600 * 1600].reshape(-1, 1600)
    loud = np.abs(frames.astype(np.int32)).max(axis=1) > 300
    speech = frames[loud].ravel()
    return np.resize(speech, SECONDS * SAMPLE_RATE)
