"""Deployments of models that recognize whole segments, batched across requests: ``Paraformer`` and others."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, cast

import numpy as np
from pydantic import BaseModel, Field
from ray import serve

from deployments.batching import BatchQueue
from deployments.engines.base import NO_HINTS, AsrEngine, EngineOptions, Recognition
from deployments.engines.kernel_caches import bound_kernel_caches
from deployments.load import StageLoad
from deployments.messages import SAMPLE_RATE, RecognitionRequest
from deployments.replica import StageMetrics, claim_device, model_directory, read_audio, replica_threads
from deployments.tracing import UNOBSERVED, Observability, observe, observed


class RecognizerConfig(BaseModel):
    """``user_config`` of the deployment; a change takes effect without a restart."""

    max_batch_seconds: float = Field(60, gt=0)
    """Seconds of audio in one batch; a segment that is longer runs alone."""

    batch_wait_seconds: float = Field(0.0, ge=0)
    """How long an incomplete batch waits for more."""


@dataclass(frozen=True, slots=True)
class RecognizerOptions:
    """How the engine is made.

    Attributes:
        engine: its module: a name without a dot is one in ``deployments.engines``.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto``, ``fp32`` or ``bf16``.
        backend: ``auto``, ``torch`` or ``onnx``.
        max_batch_segments: most segments of one batch; ``None``: any number.
    """

    engine: str
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    backend: Literal["auto", "torch", "onnx"] = "auto"
    max_batch_segments: int | None = None


OF_ITS_OWN: dict[str, Any] = {
    "max_ongoing_requests": 32,
    "ray_actor_options": {"num_cpus": 0},
    "autoscaling_config": {
        "initial_replicas": 1,
        "min_replicas": 1,
        "max_replicas": 4,
        "target_ongoing_requests": 1,
        "metrics_interval_s": 1,
        "look_back_period_s": 2,
        "upscale_delay_s": 1,
        "downscale_delay_s": 30,
        "policy": {
            "policy_function": "deployments.autoscaling:AudioPolicy",
            "policy_kwargs": {
                "target_wait_seconds": 0.5,
                "target_busy": 0.8,
                "max_lag_seconds": 0.5,
                "hold_seconds": 300,
            },
        },
    },
}
"""Options of a deployment for which serve_config.yaml has no entry: which those are, ``ENABLED_MODELS``
decides. It reserves no core, so that it never waits for one that the autoscaling of others holds."""


@serve.deployment(name="Paraformer", max_ongoing_requests=64)
class Recognizer:
    """Serves an engine that implements :class:`deployments.engines.base.AsrEngine`.

    A segment's cost is its length: engines pack the segments of a batch and pad nothing.
    """

    def __init__(
        self, model_dir: str, options: RecognizerOptions, *, observability: Observability = UNOBSERVED
    ) -> None:
        self._observed = observe(observability)
        self._metrics = StageMetrics()
        bound_kernel_caches()
        self._engine = _load(model_dir, options)
        self._engine.transcribe([np.zeros(SAMPLE_RATE, np.int16)], [NO_HINTS])
        self._queue = BatchQueue(
            self._transcribe,
            RecognizerConfig().max_batch_seconds,
            max_items=options.max_batch_segments,
            report=self._observed.reporting(self._metrics.batch),
            traceparent=self._observed.traceparent_now,
        )
        self._metrics.ready(self._queue.load)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        config = RecognizerConfig(**user_config)
        self._queue.budget = config.max_batch_seconds
        self._queue.wait_seconds = config.batch_wait_seconds

    @observed
    async def transcribe(self, request: RecognitionRequest) -> Recognition:
        """Recognize one segment; word times are milliseconds from its begin."""
        samples = await read_audio(request.audio)
        seconds = request.audio.seconds
        return await self._queue.submit(
            (samples, request.hints), cost=seconds, audio_seconds=seconds, priority=request.priority
        )

    async def load(self) -> StageLoad:
        """What this replica has to do."""
        return self._queue.load()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """The same, for Serve's controller."""
        return self._queue.load().numbers()

    async def check_health(self) -> None:
        self._metrics.sample()
        await self._queue.check()

    def _transcribe(self, items: Any) -> list[Recognition]:
        segments, hints = zip(*items, strict=True)
        return self._engine.transcribe(segments, hints)


def _load(model_dir: str, options: RecognizerOptions) -> AsrEngine:
    # Imported here, so that only replicas load the model libraries, not what builds or routes.
    name = options.engine
    module = import_module(name if "." in name else f"deployments.engines.{name}")
    made = EngineOptions(
        threads=replica_threads(),
        device=claim_device(options.device),
        precision=options.precision,
        backend=options.backend,
    )
    return cast(AsrEngine, module.load(model_directory(model_dir), made))
