"""Two people who talk, for sessions over stand-in graphs, and a speaker model that does what a test wants."""

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from deployments.messages import AudioPiece, AudioSlice, Embeddings, Pcm, Priority
from tests.live_graph import ToneGraph, samples_of
from tests.live_sessions import PAUSE
from tests.voices import DIMENSIONS

ANN, BOB = [1, 2, 3, 4, 5], [11, 12, 13, 14, 15]
"""What two people say: characters of the first ten levels, and of the next ten. Each takes 1.5 s."""

TALK = [*ANN, *PAUSE, *BOB, *PAUSE, *BOB[::-1], *PAUSE, *ANN[::-1]]

BETWEEN = [21, 22, 23, 24, 25]
"""What is said in a voice between the two of :func:`hoarse`."""

MERGING_TALK = [*ANN, *PAUSE, *BOB, *PAUSE, *BETWEEN, *PAUSE, *BETWEEN, *PAUSE, *BETWEEN, *PAUSE, *BOB]


class Voiced(ToneGraph):
    """``embed`` is what a test makes of it; keeps what it was asked, and how often audio was stored."""

    def __init__(self, answer: Callable[[Pcm], Embeddings] | None = None) -> None:
        super().__init__()
        self.asked: list[tuple[int, Priority]] = []
        self.stored = 0
        self.fault: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.was_asked = asyncio.Event()
        self._answer = answer

    async def store(self, samples: Pcm) -> AudioPiece:
        self.stored += 1
        return await super().store(samples)

    async def embed(
        self, audio: AudioSlice, windows: Sequence[tuple[int, int]], *, priority: Priority = Priority.REQUEST
    ) -> Embeddings:
        self.asked.append((len(windows), priority))
        self.was_asked.set()
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        if self._answer is None:
            return await super().embed(audio, windows, priority=priority)
        samples = samples_of(audio)
        return np.stack([self._answer(samples[begin:end]) for begin, end in windows])


def hoarse(samples: Pcm) -> Embeddings:
    """Levels to 10 are Ann; those from 11 on are Ann, too, but far off, and those from 21 on between both."""
    level = int(np.abs(samples).max()) // 1000
    cosine = 1.0 if level <= 10 else 0.4 if level <= 20 else 0.75
    heard = np.zeros(DIMENSIONS, np.float32)
    heard[0], heard[1] = cosine, np.sqrt(1 - cosine**2)
    return heard
