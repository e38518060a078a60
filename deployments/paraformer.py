"""The ``Paraformer`` deployment: offline recognition of segments, batched across requests."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field
from ray import serve

from deployments.engines.base import Pcm, Recognition
from deployments.messages import SAMPLE_RATE, RecognitionRequest
from deployments.replica import (
    Batcher,
    Failed,
    Queued,
    read_audio,
    replica_device,
    replica_threads,
    resize,
    unwrap,
)


class ParaformerConfig(BaseModel):
    """``user_config`` of the deployment; a change takes effect without a restart."""

    max_batch_seconds: int = Field(60, ge=1)
    """Budget of one batch in padded seconds: its longest segment times the number of segments.

    A segment that is longer than the budget runs alone.
    """

    batch_wait_seconds: float = Field(0.002, ge=0)
    """How long an incomplete batch waits for more."""


def padded_seconds(queued: Sequence[Queued[Pcm]]) -> int:
    """Seconds of audio that a batch costs once all its segments are padded to the longest.

    A lone segment counts as 1: Serve refuses an item that passes the budget by itself, and a long segment
    must run, if alone.
    """
    if len(queued) == 1:
        return 1
    return math.ceil(max(entry.seconds for entry in queued) * len(queued))


@serve.deployment(name="Paraformer", max_ongoing_requests=64)
class Paraformer:
    """Serves an engine that implements :class:`deployments.engines.base.AsrEngine`."""

    def __init__(self, model_dir: str, device: str, precision: str) -> None:
        # Imported here, so that only replicas load the model libraries, not what builds or routes.
        from deployments.engines.paraformer_torch import ParaformerTorchEngine

        engine = ParaformerTorchEngine(
            Path(model_dir), threads=replica_threads(), device=replica_device(device), precision=precision
        )
        engine.transcribe([np.zeros(SAMPLE_RATE, np.int16)])
        self._batcher = Batcher(engine.transcribe)
        self._config = ParaformerConfig()

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        self._config = ParaformerConfig(**user_config)
        resize(self._run, self._config.max_batch_seconds, self._config.batch_wait_seconds)

    async def transcribe(self, request: RecognitionRequest) -> Recognition:
        """Recognize one segment; word times are milliseconds from its begin."""
        samples = await read_audio(request.audio)
        return unwrap(await self._run(Queued(samples, request.audio.seconds)))

    @serve.batch(max_batch_size=60, batch_wait_timeout_s=0.002, batch_size_fn=padded_seconds)
    async def _run(self, queued: list[Queued[Pcm]]) -> list[Recognition | Failed]:
        used = max(entry.seconds for entry in queued) * len(queued)
        return await self._batcher.run(queued, budget=self._config.max_batch_seconds, used=used)

    async def check_health(self) -> None:
        await self._batcher.check_health()
