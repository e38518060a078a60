"""What every model replica does the same way: a model thread, audio by reference, batches, metrics."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import ray
from ray.serve.metrics import Counter, Gauge, Histogram

from deployments.messages import AudioSlice, Pcm

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger("ray.serve")

_SECONDS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60]
_RTF = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]


def replica_threads() -> int:
    """Threads that model code may use: the CPUs that Ray gave this replica, at least one.

    Taken from Ray and not from the machine, since oversubscribed threads halve the throughput of a CPU.
    """
    return max(1, int(_assigned("CPU")))


def replica_device(device: str) -> str:
    """``auto`` means CUDA where Ray gave this replica a share of a GPU, else the CPU."""
    if device != "auto":
        return device
    return "cuda" if _assigned("GPU") > 0 else "cpu"


def _assigned(resource: str) -> float:
    context: Any = ray.get_runtime_context()
    return float(context.get_assigned_resources().get(resource, 0))


async def read_audio(audio: AudioSlice) -> Pcm:
    """Fetch a slice from the object store: a view where it lies in one block, else one copy."""
    blocks = await asyncio.gather(*(piece.ref for piece in audio.pieces))
    parts = [block[piece.begin : piece.end] for block, piece in zip(blocks, audio.pieces, strict=True)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


class ModelThread:
    """Runs model code on one thread of its own, so that the replica's event loop stays free.

    One thread, because the engine already uses all the CPUs of its replica.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    async def run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def check(self) -> None:
        """Return once the thread is free. A hung one fails by Serve's own time limit on health checks."""
        await self.run(lambda: None)


@dataclass(frozen=True, slots=True)
class Queued(Generic[Item]):
    """An item in a batch queue: ``seconds`` of audio that it counts for, and when it came."""

    item: Item
    seconds: float = 0.0
    since: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, slots=True)
class Failed:
    """The result of an item whose work raised, while its batch mates did well."""

    error: Exception


def run_split(work: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]) -> list[Result | Failed]:
    """Run a batch; where it raises, run its halves, down to single items.

    One bad item then fails alone, and a batch that is too large for the memory gets through in parts.
    """
    try:
        return [*work(items)]
    except Exception as error:
        if len(items) == 1:
            logger.exception("an item could not be processed")
            return [Failed(error)]
        logger.warning("a batch of %d failed (%s: %s); retrying in halves", len(items), type(error), error)
        middle = len(items) // 2
        return run_split(work, items[:middle]) + run_split(work, items[middle:])


def unwrap(outcome: Result | Failed) -> Result:
    """Raise what an item's work raised, else return its result."""
    if isinstance(outcome, Failed):
        raise outcome.error
    return outcome


def resize(batched: Any, size: int, wait_seconds: float) -> None:
    """Change the limits of a method under ``@serve.batch`` while it runs."""
    batched.set_max_batch_size(size)
    batched.set_batch_wait_timeout_s(wait_seconds)


class Batcher(Generic[Item, Result]):
    """Runs one batch of a stage on the model thread and records how it went."""

    def __init__(self, work: Callable[[Sequence[Item]], list[Result]]) -> None:
        self._work = work
        self._thread = ModelThread()
        self._audio = Counter("asr_audio_seconds", "Audio processed, in seconds.")
        self._fill = Gauge("asr_batch_fill", "Share of its budget that the last batch used.")
        self._items = Histogram("asr_batch_items", "Items in a batch.", [1, 2, 4, 8, 16, 32, 64])
        self._waits = Histogram("asr_queue_seconds", "Wait of an item before its batch ran.", _SECONDS)
        self._rtf = Histogram("asr_stage_rtf", "Seconds of work per second of audio.", _RTF)

    async def run(self, queued: Sequence[Queued[Item]], budget: float, used: float) -> list[Result | Failed]:
        """Run a batch that fills ``used`` of a ``budget`` (items or padded seconds)."""
        items = [entry.item for entry in queued]
        results, began, ended = await self._thread.run(lambda: self._timed(items))
        self._fill.set(used / budget)
        self._items.observe(len(queued))
        for entry in queued:
            self._waits.observe(began - entry.since)
        seconds = sum(entry.seconds for entry in queued)
        if seconds > 0:
            self._audio.inc(seconds)
            self._rtf.observe((ended - began) / seconds)
        return results

    async def check_health(self) -> None:
        """Raise or hang if the model thread no longer works."""
        await self._thread.check()

    def _timed(self, items: Sequence[Item]) -> tuple[list[Result | Failed], float, float]:
        began = time.perf_counter()
        results = run_split(self._work, items)
        return results, began, time.perf_counter()
