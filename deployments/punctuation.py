"""The ``Punctuation`` deployment: marks for unpunctuated words, batched across requests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field
from ray import serve

from deployments.messages import PunctuationRequest
from deployments.replica import (
    Batcher,
    Failed,
    Queued,
    replica_device,
    replica_threads,
    resize,
    unwrap,
)


class PunctuationConfig(BaseModel):
    """``user_config`` of the deployment; a change takes effect without a restart."""

    max_batch_texts: int = Field(16, ge=1)
    """Texts in one batch."""

    batch_wait_seconds: float = Field(0.0, ge=0)
    """How long an incomplete batch waits for more."""


@serve.deployment(name="Punctuation", max_ongoing_requests=64)
class Punctuation:
    """Serves an engine that implements :class:`deployments.engines.base.PunctuationEngine`."""

    def __init__(self, model_dir: str, device: str) -> None:
        # Imported here, so that only replicas load the model libraries, not what builds or routes.
        from deployments.engines.punctuation_ct import CtPunctuationEngine

        engine = CtPunctuationEngine(
            Path(model_dir), threads=replica_threads(), device=replica_device(device)
        )
        engine.punctuate([["你", "好"]])
        self._batcher = Batcher(engine.punctuate)
        self._config = PunctuationConfig()

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        self._config = PunctuationConfig(**user_config)
        resize(self._run, self._config.max_batch_texts, self._config.batch_wait_seconds)

    async def punctuate(self, request: PunctuationRequest) -> list[str]:
        """The full-width mark after each word, ``""`` where there is none."""
        return unwrap(await self._run(Queued(request.words)))

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.0)
    async def _run(self, queued: list[Queued[Sequence[str]]]) -> list[list[str] | Failed]:
        return await self._batcher.run(queued, budget=self._config.max_batch_texts, used=len(queued))

    async def check_health(self) -> None:
        await self._batcher.check_health()
