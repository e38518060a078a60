"""Starting and ending vLLM: its options, its memory, its processes."""

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from deployments.engines.generative import WINDOW_SAMPLES
from deployments.engines.gpu_limit import CONTEXT_BYTES
from deployments.engines.precision import Precision, resolve_precision
from deployments.engines.qwen3_loading import read_config
from deployments.engines.qwen3_windows import MAX_SAMPLES

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

CPU_MEMORY = 1 << 30
"""Bytes of key-value cache on a CPU where nobody named a number."""

MAX_UTILIZATION = 0.92

OUTSIDE_BYTES = CONTEXT_BYTES + 2**29
"""What a process of vLLM takes of a GPU beside what vLLM counts: CUDA's part, and graphs that are captured
when it has measured what is free. Estimated."""

_OUTSIDE_SHARE = 0.05
"""The same of a GPU whose memory nobody knows: of 22 GB."""

_CPU_BLOCK = 32
"""Tokens of a block of the key-value cache, the least that vLLM's attention on CPUs takes: what was decoded
before is found again in whole blocks only."""

_FEATURE_CACHE = 0.5
"""GiB for the features of windows that were seen before: nearly three hours of audio."""

_STOP_SECONDS = 20.0
_GRACE_SECONDS = 10.0
_OWNED = "ASR_SERVE_OWNS_VLLM"

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
"""What vLLM reads when it is imported, and its processes inherit, unless the user set it. Threads are not
bound to cores: several replicas would bind theirs to the same ones."""


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """See :meth:`deployments.engines.qwen3_vllm.Qwen3VllmEngine.create`."""

    model_dir: Path
    device: str = "cpu"
    precision: Precision = "auto"
    memory: int | None = None
    gpu_share: float = 0.0
    max_model_len: int = 20_480
    threads: int = 1
    max_num_seqs: int = 64
    gpu_memory: int | None = None


def engine_arguments(options: VllmOptions) -> dict[str, Any]:
    """What ``vllm.AsyncEngineArgs`` is made with.

    Raises:
        ModelFilesError: the directory holds no Qwen3-ASR checkpoint.
        ValueError: the share of the GPU leaves no memory.
    """
    positions = read_config(options.model_dir, aligner=False)["thinker_config"]["text_config"].get(
        "max_position_embeddings", options.max_model_len
    )
    arguments: dict[str, Any] = {
        "model": str(options.model_dir),
        "dtype": _dtype(options),
        "max_model_len": min(options.max_model_len, positions),
        "max_num_seqs": options.max_num_seqs,
        "limit_mm_per_prompt": {
            "audio": {"count": -(-MAX_SAMPLES // WINDOW_SAMPLES), "length": WINDOW_SAMPLES}
        },
        "enable_prefix_caching": True,
        "mm_processor_cache_gb": _FEATURE_CACHE,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if options.device == "cpu":
        # Compiling needs a C++ compiler, and longer at each start than it saves on models of this size.
        arguments |= {"block_size": _CPU_BLOCK, "enforce_eager": True}
        arguments["kv_cache_memory_bytes"] = options.memory or CPU_MEMORY
        return arguments
    # With its own number for the cache too: vLLM looks at the start whether so much of the GPU is free.
    arguments["gpu_memory_utilization"] = utilization(options.gpu_share, options.gpu_memory)
    if options.memory is not None:
        arguments["kv_cache_memory_bytes"] = options.memory
    return arguments


def utilization(gpu_share: float, gpu_memory: int | None = None) -> float:
    """vLLM's ``gpu_memory_utilization`` for a share of a GPU, as Ray's ``num_gpus`` tells it.

    ``gpu_memory``: bytes of the whole GPU; ``None``: not known.

    Raises:
        ValueError: nothing would be left.
    """
    share = gpu_share if 0 < gpu_share < 1 else 1.0
    outside = OUTSIDE_BYTES / gpu_memory if gpu_memory else _OUTSIDE_SHARE
    if share <= outside:
        raise ValueError(
            f"num_gpus of {gpu_share:g} is too small a share of a GPU for Qwen3-ASR: {outside:.2f} "
            "of it is taken before vLLM can fill any"
        )
    return round(min(MAX_UTILIZATION, share - outside), 4)


def _dtype(options: VllmOptions) -> str:
    if options.device != "cpu" and options.precision == "auto":
        # The checkpoint's own. To ask PyTorch would take memory of the GPU for this process too.
        return "auto"
    if options.device != "cpu":
        return "bfloat16" if options.precision == "bf16" else "float32"
    return str(resolve_precision(options.precision, torch.device("cpu"))).removeprefix("torch.")


async def start_engine(options: VllmOptions) -> "AsyncLLM":
    """Start vLLM's processes and load the model; if the caller gives up meanwhile, they are ended again."""
    starting = asyncio.ensure_future(asyncio.to_thread(_start, options))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_end_started)
        raise


async def close_engine(engine: "AsyncLLM") -> None:
    """End vLLM's processes, and wait until they are gone."""
    await asyncio.shield(asyncio.to_thread(engine.shutdown, _STOP_SECONDS))


def _end_started(started: "asyncio.Future[AsyncLLM]") -> None:
    if not started.cancelled() and started.exception() is None:
        started.result().shutdown(_STOP_SECONDS)


def _start(options: VllmOptions) -> "AsyncLLM":
    arguments = engine_arguments(options)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # What libraries warn their developers of is nobody's business who reads the server's log.
    warnings = os.environ.get("PYTHONWARNINGS", "ignore")
    own = {"OMP_NUM_THREADS": str(max(1, options.threads)), "PYTHONWARNINGS": warnings, _OWNED: "1"}
    with _environment(own):
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """What is started meanwhile has these."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def end_with_parent() -> None:
    """Plugin of vLLM, which it runs in each of its processes: they end when the one that began them is gone.

    vLLM ends them in order, but where a replica is killed nobody is left to do so: its engine core would
    keep the model, and the memory of the GPU, for ever. Those of others in the same environment are left
    alone.
    """
    parent = multiprocessing.parent_process()
    if parent is None or _OWNED not in os.environ:
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()
