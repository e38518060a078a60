"""What every model replica does the same way: its share of the machine, audio by reference, metrics."""

import asyncio
from typing import Any

import numpy as np
import ray
from ray.serve.metrics import Counter, Gauge, Histogram

from deployments.batching import BatchReport
from deployments.messages import AudioSlice, Pcm

_SECONDS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60]
_ITEMS: list[float] = [1, 2, 4, 8, 16, 32, 64]
_RTF = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]


def replica_threads(chosen: int = 0) -> int:
    """Threads that model code may use: ``chosen``, or else the CPUs that Ray gave this replica, at least one.

    Taken from Ray and not from the machine, since oversubscribed threads halve the throughput of a CPU.
    """
    return chosen or max(1, int(_assigned("CPU")))


def replica_device(device: str) -> str:
    """``auto`` means CUDA where Ray gave this replica a share of a GPU, else the CPU."""
    if device != "auto":
        return device
    return "cuda" if _assigned("GPU") > 0 else "cpu"


def replica_gpu_share() -> float:
    """The share of a GPU that Ray gave this replica; 0: none, or it is not known."""
    return _assigned("GPU")


def _assigned(resource: str) -> float:
    context: Any = ray.get_runtime_context()
    return float(context.get_assigned_resources().get(resource, 0))


async def read_audio(audio: AudioSlice) -> Pcm:
    """Fetch a slice from the object store: a view where it lies in one block, else one copy."""
    blocks = await asyncio.gather(*(piece.ref for piece in audio.pieces))
    parts = [block[piece.begin : piece.end] for block, piece in zip(blocks, audio.pieces, strict=True)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


class StageMetrics:
    """Prometheus metrics of one stage of the graph. Serve adds deployment, replica and application."""

    def __init__(self) -> None:
        self._audio = Counter("asr_audio_seconds", "Audio processed, in seconds.")
        self._fill = Gauge("asr_batch_fill", "Share of its budget that the last batch used.")
        self._items = Histogram("asr_batch_items", "Items in a batch.", _ITEMS)
        self._queue = Histogram("asr_queue_seconds", "Wait of an item before its batch ran.", _SECONDS)
        self._rtf = Histogram("asr_stage_rtf", "Seconds of work per second of audio.", _RTF)

    def batch(self, report: BatchReport) -> None:
        """Record one batch."""
        self._fill.set(report.fill)
        self._items.observe(report.items)
        for wait in report.waits:
            self._queue.observe(wait)
        self.request(report.audio_seconds, report.seconds)

    def request(self, audio_seconds: float, seconds: float) -> None:
        """Record how long some audio took, where batches are the engine's own."""
        if audio_seconds > 0:
            self._audio.inc(audio_seconds)
            self._rtf.observe(seconds / audio_seconds)
