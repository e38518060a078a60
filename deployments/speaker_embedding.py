"""The ``SpeakerEmbedding`` deployment: voices of stretches of speech, batched across requests."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field
from ray import serve

from deployments.batching import BatchQueue
from deployments.engines.backends import RequestedBackend, choose_backend
from deployments.engines.base import SpeakerEngine, Stretch
from deployments.engines.kernel_caches import bound_kernel_caches
from deployments.load import StageLoad
from deployments.messages import SAMPLE_RATE, EmbeddingRequest, Embeddings
from deployments.replica import StageMetrics, claim_device, model_directory, read_audio, replica_threads
from deployments.tracing import UNOBSERVED, Observability, observe, observed

_KERNELS = 256
"""Kernels that are kept. A batch of CAM++ takes 75; to make them anew takes 20 ms, 10 % of a full batch."""


class SpeakerEmbeddingConfig(BaseModel):
    """``user_config`` of the deployment; a change takes effect without a restart."""

    max_batch_seconds: float = Field(60, gt=0)
    """Seconds of windows in one batch, those that overlap counted each; a request with more runs alone."""

    batch_wait_seconds: float = Field(0.0, ge=0)
    """How long an incomplete batch waits for more."""


Precision = Literal["auto", "fp32", "bf16"]


def _load(
    directory: Path, threads: int, device: str, precision: Precision, backend: RequestedBackend
) -> SpeakerEngine:
    # Imported here, so that only replicas load the model libraries, not what builds or routes.
    if choose_backend(backend, directory, device, precision) == "onnx":
        from deployments.engines.speaker_onnx import SpeakerOnnxEngine

        return SpeakerOnnxEngine(directory, threads=threads, device=device)
    from deployments.engines.speaker_torch import SpeakerTorchEngine

    return SpeakerTorchEngine(directory, threads=threads, device=device, precision=precision)


# Here and not in serve_config.yaml, which may name no deployment that SPEAKER_MODEL=none leaves out. It
# reserves no core, so that it never waits for one that Paraformer's autoscaling holds.
@serve.deployment(
    name="SpeakerEmbedding",
    max_ongoing_requests=256,
    ray_actor_options={"num_cpus": 0},
    autoscaling_config={
        "initial_replicas": 1,
        "min_replicas": 1,
        "max_replicas": 4,
        "target_ongoing_requests": 2,
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
)
class SpeakerEmbedding:
    """Serves an engine that implements :class:`deployments.engines.base.SpeakerEngine`.

    A request's cost is the length of its windows together: what is left out between them costs nothing.
    """

    def __init__(
        self,
        model_dir: str,
        device: str,
        precision: Precision,
        backend: RequestedBackend = "auto",
        *,
        observability: Observability = UNOBSERVED,
    ) -> None:
        self._observed = observe(observability)
        self._metrics = StageMetrics()
        bound_kernel_caches(_KERNELS)
        directory, threads = model_directory(model_dir), replica_threads()
        engine = _load(directory, threads, claim_device(device), precision, backend)
        engine.embed([np.zeros(SAMPLE_RATE, np.int16)])
        budget = SpeakerEmbeddingConfig().max_batch_seconds
        self._queue = BatchQueue(
            engine.embed_stretches,
            budget,
            report=self._observed.reporting(self._metrics.batch),
            traceparent=self._observed.traceparent_now,
        )
        self._metrics.ready(self._queue.load)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        config = SpeakerEmbeddingConfig(**user_config)
        self._queue.budget = config.max_batch_seconds
        self._queue.wait_seconds = config.batch_wait_seconds

    @observed
    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """The voice in each window: one row for each, shape ``(windows, dimensions)``.

        Raises:
            ValueError: a window is empty, or lies outside of the audio.
        """
        samples = await read_audio(request.audio)
        for begin, end in request.windows:
            if not 0 <= begin < end <= len(samples):
                raise ValueError(f"window {begin} to {end} does not lie in {len(samples)} samples")
        seconds = sum(end - begin for begin, end in request.windows) / SAMPLE_RATE
        stretch = Stretch(samples, request.windows)
        return await self._queue.submit(
            stretch, cost=seconds, audio_seconds=seconds, priority=request.priority
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
