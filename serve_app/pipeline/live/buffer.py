"""The audio that a session holds: what waits for detection, and what may still be asked for again.

Both are bounded: what waits by :data:`BACKLOG_SAMPLES`, at which the sender is made to wait, and the
timeline by what its user tells it to forget.
"""

import asyncio
from collections import deque
from collections.abc import Callable

import numpy as np

from deployments.messages import SAMPLE_RATE, Pcm

SAMPLES_PER_MS = SAMPLE_RATE // 1000

BLOCK_SAMPLES = SAMPLE_RATE // 5
"""200 ms: what is told about a session moves in steps of this, however its audio arrives."""

BACKLOG_SAMPLES = 5 * SAMPLE_RATE
"""How far any part of a session may be behind before the one that feeds it has to wait."""


class Bell:
    """Wakes those who wait for something to become true; whoever changes something rings."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()

    async def until(self, true: Callable[[], bool]) -> None:
        """Return once ``true()`` holds; it is tried now and after each ring."""
        while not true():
            self._event.clear()
            await self._event.wait()


class Inbox:
    """Samples between the sender and voice-activity detection."""

    def __init__(self) -> None:
        self._pieces: deque[Pcm] = deque()
        self._waiting = 0
        self._bell = Bell()
        self.ended = False

    async def put(self, samples: Pcm) -> None:
        """Add samples, any number of them; waits while the limit is reached."""
        begin = 0
        while begin < len(samples):
            if not self.ended and self._waiting >= BACKLOG_SAMPLES:
                await self._bell.until(lambda: self.ended or self._waiting < BACKLOG_SAMPLES)
            if self.ended:
                return
            end = begin + BACKLOG_SAMPLES - self._waiting
            # A view would keep all of the sender's array alive.
            self._add(samples[begin:end].copy())
            begin = end

    def end(self) -> None:
        """No samples follow. A sender that still waits is sent on."""
        self.ended = True
        self._bell.ring()

    async def take(self) -> tuple[Pcm, bool]:
        """All whole blocks that wait, at least one; or, at the end, the rest, and that it is the last."""
        if not self.ended and self._waiting < BLOCK_SAMPLES:
            await self._bell.until(lambda: self.ended or self._waiting >= BLOCK_SAMPLES)
        joined = np.concatenate((*self._pieces, np.zeros(0, np.int16)))
        rest = len(joined) % BLOCK_SAMPLES
        # The last block is a short one even if it has to be empty, so that the blocks of a session do
        # not depend on whether its end was known when they were taken.
        final = self.ended and (rest > 0 or len(joined) == 0)
        taken = len(joined) if final else len(joined) - rest
        self._pieces.clear()
        if taken < len(joined):
            self._pieces.append(joined[taken:].copy())
        self._waiting = len(joined) - taken
        self._bell.ring()
        return joined[:taken], final

    def _add(self, samples: Pcm) -> None:
        self._pieces.append(samples)
        self._waiting += len(samples)
        if self._waiting >= BLOCK_SAMPLES:
            self._bell.ring()


class Timeline:
    """A session's audio from the first sample that is still needed; positions count from its begin."""

    def __init__(self) -> None:
        self._blocks: deque[Pcm] = deque()
        self.begin = 0
        self.end = 0

    def append(self, block: Pcm) -> None:
        self._blocks.append(block)
        self.end += len(block)

    def cut(self, begin: int, end: int) -> Pcm:
        """A copy of the samples from ``begin`` to ``end``, as far as they are held."""
        parts: list[Pcm] = [np.zeros(0, np.int16)]
        offset = self.begin
        for block in self._blocks:
            if offset >= end:
                break
            if offset + len(block) > begin:
                parts.append(block[max(begin - offset, 0) : end - offset])
            offset += len(block)
        return np.concatenate(parts)

    def forget_before(self, position: int) -> None:
        """Drop whole blocks before ``position``."""
        while self._blocks and self.begin + len(self._blocks[0]) <= position:
            self.begin += len(self._blocks.popleft())
