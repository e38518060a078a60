"""The ``Paraformer`` deployment: offline recognition of segments, batched across requests."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field
from ray import serve

from deployments.batching import BatchQueue
from deployments.engines.base import Recognition
from deployments.engines.kernel_caches import bound_kernel_caches
from deployments.messages import SAMPLE_RATE, RecognitionRequest
from deployments.replica import StageMetrics, read_audio, replica_device, replica_threads


class ParaformerConfig(BaseModel):
    """``user_config`` of the deployment; a change takes effect without a restart."""

    max_batch_seconds: float = Field(60, gt=0)
    """Seconds of audio in one batch; a segment that is longer runs alone."""

    batch_wait_seconds: float = Field(0.0, ge=0)
    """How long an incomplete batch waits for more."""


@serve.deployment(name="Paraformer", max_ongoing_requests=64)
class Paraformer:
    """Serves an engine that implements :class:`deployments.engines.base.AsrEngine`.

    A segment's cost is its length: the engine packs the segments of a batch and pads nothing.
    """

    def __init__(self, model_dir: str, device: str, precision: Literal["auto", "fp32", "bf16"]) -> None:
        bound_kernel_caches()
        # Imported here, so that only replicas load the model libraries, not what builds or routes.
        from deployments.engines.paraformer_torch import ParaformerTorchEngine

        engine = ParaformerTorchEngine(
            Path(model_dir),
            threads=replica_threads(),
            device=replica_device(device),
            precision=precision,
        )
        engine.transcribe([np.zeros(SAMPLE_RATE, np.int16)])
        budget = ParaformerConfig().max_batch_seconds
        self._queue = BatchQueue(engine.transcribe, budget, report=StageMetrics().batch)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        config = ParaformerConfig(**user_config)
        self._queue.budget = config.max_batch_seconds
        self._queue.wait_seconds = config.batch_wait_seconds

    async def transcribe(self, request: RecognitionRequest) -> Recognition:
        """Recognize one segment; word times are milliseconds from its begin."""
        samples = await read_audio(request.audio)
        seconds = request.audio.seconds
        return await self._queue.submit(
            samples, cost=seconds, audio_seconds=seconds, priority=request.priority
        )

    async def check_health(self) -> None:
        await self._queue.check()
