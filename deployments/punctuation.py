"""The ``Punctuation`` deployment: marks for unpunctuated words, batched across requests."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field
from ray import serve

from deployments.batching import BatchQueue
from deployments.engines.kernel_caches import bound_kernel_caches
from deployments.messages import PunctuationRequest
from deployments.replica import StageMetrics, replica_device, replica_threads


class PunctuationConfig(BaseModel):
    """``user_config`` of the deployment; a change takes effect without a restart."""

    max_batch_words: int = Field(2000, ge=1)
    """Words in one batch; a longer text runs alone."""

    batch_wait_seconds: float = Field(0.0, ge=0)
    """How long an incomplete batch waits for more."""


@serve.deployment(name="Punctuation", max_ongoing_requests=64)
class Punctuation:
    """Serves an engine that implements :class:`deployments.engines.base.PunctuationEngine`."""

    def __init__(self, model_dir: str, device: str) -> None:
        bound_kernel_caches()
        # Imported here, so that only replicas load the model libraries, not what builds or routes.
        from deployments.engines.punctuation_ct import CtPunctuationEngine

        engine = CtPunctuationEngine(
            Path(model_dir), threads=replica_threads(), device=replica_device(device)
        )
        engine.punctuate([["你", "好"]])
        budget = PunctuationConfig().max_batch_words
        self._queue = BatchQueue(engine.punctuate, budget, report=StageMetrics().batch)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        config = PunctuationConfig(**user_config)
        self._queue.budget = config.max_batch_words
        self._queue.wait_seconds = config.batch_wait_seconds

    async def punctuate(self, request: PunctuationRequest) -> list[str]:
        """The full-width mark after each word, ``""`` where there is none."""
        return await self._queue.submit(request.words, cost=len(request.words))

    async def check_health(self) -> None:
        await self._queue.check()
