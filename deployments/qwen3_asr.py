"""The ``Qwen3ASR`` deployment: multilingual recognition that writes text with marks, token by token."""

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from ray import serve
from ray.serve.config import RequestRouterConfig

from deployments.engines.base import SAMPLE_RATE, Recognition
from deployments.engines.generative import EngineDied, GenerativeAsrEngine, Hypothesis, SpeechPrompt
from deployments.generative_recognizer import GenerativeRecognizer, Speech
from deployments.load import StageLoad
from deployments.messages import SpeechRequest
from deployments.model_store import ModelMissing
from deployments.replica import (
    StageMetrics,
    claim_device,
    model_directory,
    read_audio,
    replica_device,
    replica_gpu_share,
    replica_threads,
)
from deployments.tracing import UNOBSERVED, Observability, observe, observed
from deployments.visible_gpus import visible_gpus

logger = logging.getLogger("ray.serve")

EngineKind = Literal["vllm", "package"]

_MODULES: dict[EngineKind, str] = {"vllm": "vllm", "package": "qwen_asr"}
_REMEDIES: dict[EngineKind, str] = {
    "vllm": "pip install -c constraints.txt '.[vllm]' in an environment of its own",
    "package": "pip install -c constraints.txt '.[qwen]'",
}
_SLOTS: dict[EngineKind, int] = {"vllm": 64, "package": 16}
"""What an engine works on at once, and a little more, so that it never waits for work."""

_ROUTER = RequestRouterConfig.model_validate(
    {
        "request_router_class": "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter",
        # Another replica only has to hear again what this one had heard already.
        "request_router_kwargs": {"num_fallback_replicas": 2},
    }
)


@dataclass(frozen=True, slots=True)
class Qwen3Options:
    """How the engine is made.

    Attributes:
        engine: which one, or ``auto``: see :func:`choose_engine`.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto``, ``fp32`` or ``bf16``.
        threads: on a CPU; 0: as many as the replica's ``num_cpus``, at least one.
        memory: bytes for what attention remembers; ``None``: what is right for the engine.
        max_model_len: tokens of one request under vLLM.
    """

    engine: Literal["auto", "vllm", "package"] = "auto"
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int = 0
    memory: int | None = None
    max_model_len: int = 20_480


def choose_engine(wanted: Literal["auto", "vllm", "package"], device: str) -> EngineKind:
    """What runs the model on ``device``. ``auto``: vLLM on a GPU, the package on a CPU, else what is there.

    Raises:
        ModelMissing: it is not installed; the message says how to.
    """
    kinds: tuple[EngineKind, ...] = ("vllm", "package") if device == "cuda" else ("package", "vllm")
    if wanted != "auto":
        kinds = (wanted,)
    for kind in kinds:
        if find_spec(_MODULES[kind]) is not None:
            return kind
    remedies = ", or ".join(_REMEDIES[kind] for kind in kinds)
    raise ModelMissing(
        f"Qwen3-ASR cannot run: {' and '.join(_MODULES[kind] for kind in kinds)} is not installed here. "
        f"Install it ({remedies}), or set QWEN3_MODEL=none to serve without it."
    )


# Here and not in serve_config.yaml, which may name no deployment that QWEN3_MODEL=none leaves out. It
# reserves no core, so that it never waits for one that Paraformer's autoscaling holds.
@serve.deployment(
    name="Qwen3ASR",
    # Far above what the engine works on: calls that wait in here go by their priority, those outside do not.
    max_ongoing_requests=512,
    ray_actor_options={"num_cpus": 0},
    autoscaling_config={
        "initial_replicas": 1,
        "min_replicas": 1,
        "max_replicas": 2,
        "target_ongoing_requests": 16,
        "metrics_interval_s": 1,
        "look_back_period_s": 5,
        "upscale_delay_s": 5,
        "downscale_delay_s": 60,
        "policy": {
            "policy_function": "deployments.autoscaling:AudioPolicy",
            "policy_kwargs": {
                "target_wait_seconds": 5,
                "target_busy": 1,
                "max_lag_seconds": 2,
                "hold_seconds": 600,
            },
        },
    },
    request_router_config=_ROUTER,
    graceful_shutdown_timeout_s=60,
)
class Qwen3ASR:
    """Serves an engine that implements :class:`deployments.engines.generative.GenerativeAsrEngine`.

    Calls are not batched here, since the engine does it. A call that is canceled ends in the engine, too.
    """

    async def __init__(  # type: ignore[misc]
        self, model_dir: str, options: Qwen3Options, *, observability: Observability = UNOBSERVED
    ) -> None:
        """Serve awaits this: the replica is ready when its engine has recognized something.

        (Type checkers do not know that; hence the comment.)
        """
        self._observed = observe(observability)
        self._metrics = StageMetrics()
        kind = choose_engine(options.engine, replica_device(options.device))
        self._engine = await _open(kind, model_directory(model_dir), options)
        await self._engine.transcribe(SpeechPrompt(np.zeros(SAMPLE_RATE, np.int16), max_tokens=4))
        self._recognizer = GenerativeRecognizer(self._engine, _SLOTS[kind])
        self._metrics.ready(self._recognizer.load)

    @observed
    async def transcribe(self, request: SpeechRequest) -> Recognition:
        """Recognize one segment; its marks are the model's. Times of words are guesses."""
        began = time.perf_counter()
        speech = await _speech(request)
        with _engine_alive():
            recognition = await self._recognizer.transcribe(speech)
        self._metrics.request(speech.seconds, time.perf_counter() - began)
        return recognition

    @observed
    async def decode(self, request: SpeechRequest) -> Hypothesis:
        """What is heard in speech that may still go on, after the tokens of ``request.prefix``."""
        began = time.perf_counter()
        speech = await _speech(request)
        with _engine_alive():
            hypothesis = await self._recognizer.decode(speech)
        self._metrics.request(speech.seconds, time.perf_counter() - began)
        return hypothesis

    async def unfinished(self) -> int:
        """Calls that hold a place in the engine, or wait for one."""
        return self._recognizer.unfinished

    async def load(self) -> StageLoad:
        """What this replica has to do."""
        return self._recognizer.load()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """The same, for Serve's controller."""
        return self._recognizer.load().numbers()

    async def check_health(self) -> None:
        self._metrics.sample()
        with _engine_alive():
            await self._engine.check()

    async def __del__(self) -> None:
        """Serve calls and awaits this when the replica is to go."""
        engine = getattr(self, "_engine", None)
        if engine is not None:
            await engine.aclose()


@contextmanager
def _engine_alive() -> Iterator[None]:
    """Where the engine's process is gone, this one ends too.

    Serve then replaces the replica at once, and not after three missed checks; and callers see that it was
    lost, which they know to ask another one for.
    """
    try:
        yield
    except EngineDied as error:
        logger.error("this replica ends, since its engine did: %s", error)
        logging.shutdown()
        os._exit(1)


async def _speech(request: SpeechRequest) -> Speech:
    parts = [await read_audio(request.audio)] if request.audio.pieces else []
    if request.tail is not None and len(request.tail):
        parts.append(request.tail)
    samples = parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.int16), *parts])
    return Speech(
        samples, request.language, request.context, request.prefix, request.max_tokens, request.priority
    )


async def _open(kind: EngineKind, model_dir: Path, options: Qwen3Options) -> GenerativeAsrEngine:
    # Imported here, so that only replicas load the model libraries, and only those of the engine in use.
    threads = replica_threads(options.threads)
    if kind == "package":
        from deployments.engines.qwen3_package import Qwen3PackageEngine

        memory = {} if options.memory is None else {"memory_bytes": options.memory}
        return Qwen3PackageEngine(
            model_dir,
            threads=threads,
            device=claim_device(options.device),
            precision=options.precision,
            **memory,
        )
    from deployments.engines.qwen3_vllm import Qwen3VllmEngine

    # The model is in a process of vLLM's own: to begin with CUDA in this one would take memory for nothing.
    device = replica_device(options.device)
    gpus = [] if device == "cpu" else await asyncio.to_thread(visible_gpus)
    return await Qwen3VllmEngine.create(
        model_dir,
        device=device,
        precision=options.precision,
        memory=options.memory,
        gpu_share=replica_gpu_share(),
        gpu_memory=min(gpus, default=None),
        max_model_len=options.max_model_len,
        threads=threads,
        max_num_seqs=_SLOTS["vllm"],
    )
