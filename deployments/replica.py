"""What every model replica does the same way: its share of the machine, audio by reference, metrics."""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray

from deployments import metrics
from deployments.batching import BatchReport
from deployments.engines.gpu_limit import limit_memory
from deployments.instruments import Counter, Gauge, Histogram
from deployments.load import StageLoad
from deployments.messages import AudioSlice, Pcm
from deployments.model_layout import ModelMissing, check_whole

_PAUSE_SECONDS = 10.0
_SAMPLING_SECONDS = 1.0
"""What a sample costs is nothing once a second, and would be something after each batch of live speech."""


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


def claim_device(device: str) -> str:
    """The same, for models in this very process: of a GPU it takes no more memory from now on than its share.

    Raises:
        ValueError: the share is too small for any model.
    """
    place = replica_device(device)
    if place.startswith("cuda"):
        limit_memory(replica_gpu_share())
    return place


def replica_gpu_share() -> float:
    """The share of a GPU that Ray gave this replica; 0: none, or it is not known."""
    return _assigned("GPU")


def _assigned(resource: str) -> float:
    context: Any = ray.get_runtime_context()
    return float(context.get_assigned_resources().get(resource, 0))


def model_directory(path: str) -> Path:
    """Where this replica finds its model. What built the graph has seen it there, on a node of its own.

    Raises:
        ModelMissing: it is not on this node; the message names both.
    """
    directory = Path(path)
    try:
        if not directory.is_dir():
            raise ModelMissing(f"There is no {directory}.")
        check_whole(directory)
    except ModelMissing as error:
        # Serve starts a replica in the place of one that cannot start at once, as often as it takes.
        time.sleep(_PAUSE_SECONDS)
        node: Any = ray.util
        raise ModelMissing(
            f"On the node {node.get_node_ip_address()}: {error} All nodes on which replicas may run need "
            "the models under the same path."
        ) from None
    return directory


async def read_audio(audio: AudioSlice) -> Pcm:
    """Fetch a slice from the object store: a view where it lies in one block, else one copy."""
    blocks = await asyncio.gather(*(piece.ref for piece in audio.pieces))
    parts = [block[piece.begin : piece.end] for block, piece in zip(blocks, audio.pieces, strict=True)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


class StageMetrics:
    """Prometheus metrics of one stage of the graph: see :mod:`deployments.metrics`.

    To be made before the model is loaded, and told by :meth:`ready` that it is.
    """

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._audio, self._busy = Counter(metrics.AUDIO_SECONDS), Counter(metrics.BUSY_SECONDS)
        self._fill = Histogram(metrics.BATCH_FILL)
        self._items = Histogram(metrics.BATCH_ITEMS)
        self._queue = Histogram(metrics.QUEUE_SECONDS)
        self._rtf = Histogram(metrics.STAGE_RTF)
        self._model_load = Gauge(metrics.MODEL_LOAD)
        self._gpu_memory = Gauge(metrics.GPU_MEMORY)
        self._gauges = [
            (Gauge(metric), attribute)
            for metric, attribute in (
                (metrics.WAITING_ITEMS, "waiting_items"),
                (metrics.WAITING_AUDIO, "waiting_audio_seconds"),
                (metrics.RUNNING_AUDIO, "running_audio_seconds"),
                (metrics.OLDEST_WAIT, "oldest_wait_seconds"),
                (metrics.DRAIN_SECONDS, "drain_seconds"),
                (metrics.STAGE_LAG, "lag_seconds"),
                (metrics.BUSY_SHARE, "busy"),
                (metrics.MODEL_SPEED, "audio_per_busy_second"),
            )
        ]
        self._load: Callable[[], StageLoad] | None = None
        self._load_seconds = 0.0
        self._sampled = 0.0

    def ready(self, load: Callable[[], StageLoad]) -> None:
        """The model is loaded; ``load`` tells from now on what there is to do."""
        self._load_seconds = time.perf_counter() - self._began
        self._load = load
        self.sample()

    def batch(self, report: BatchReport) -> None:
        """Record one batch."""
        self._fill.add(report.fill)
        self._items.add(report.items)
        for wait in report.waits:
            self._queue.add(wait)
        self.request(report.audio_seconds, report.seconds)

    def request(self, audio_seconds: float, seconds: float) -> None:
        """Record how long some audio took, where batches are the engine's own."""
        self._busy.add(seconds)
        if audio_seconds > 0:
            self._audio.add(audio_seconds)
            self._rtf.add(seconds / audio_seconds)
        if time.perf_counter() - self._sampled >= _SAMPLING_SECONDS:
            self.sample()

    def sample(self) -> None:
        """Record what there is to do now. To be called with each health check: also a stage that does
        nothing, or that has stuck, has a load."""
        self._sampled = time.perf_counter()
        self._gpu_memory.put(_gpu_memory())
        self._model_load.put(self._load_seconds)
        if self._load is not None:
            load = self._load()
            for gauge, attribute in self._gauges:
                gauge.put(getattr(load, attribute))


def _gpu_memory() -> int:
    """Bytes that PyTorch holds of this process's GPUs; asking it must not be what opens them."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return sum(torch.cuda.memory_reserved(device) for device in range(torch.cuda.device_count()))
