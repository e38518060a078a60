"""The ``Punctuation`` deployment: marks for unpunctuated words, batched across requests and live sessions.

It keeps no state: what a live session's words have to be seen with travels with each request.
"""

import asyncio
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field
from ray import serve

from deployments.batching import BatchQueue
from deployments.engines.backends import RequestedBackend, choose_backend
from deployments.engines.base import (
    PunctuatedBlock,
    PunctuationBlock,
    PunctuationEngine,
    RealtimePunctuationEngine,
)
from deployments.engines.kernel_caches import bound_kernel_caches
from deployments.load import StageLoad
from deployments.messages import LivePunctuationRequest, PunctuationRequest
from deployments.replica import StageMetrics, replica_device, replica_threads


class PunctuationConfig(BaseModel):
    """``user_config`` of the deployment; a change takes effect without a restart."""

    max_batch_words: int = Field(2000, ge=1)
    """Words in one batch; a longer text runs alone."""

    max_live_batch_words: int = Field(2000, ge=1)
    """Words of live sessions in one batch, those before them included."""

    batch_wait_seconds: float = Field(0.0, ge=0)
    """How long an incomplete batch waits for more."""


# Engines are imported here, so that only replicas load the model libraries, not what builds or routes.
def _load(directory: Path, threads: int, device: str, backend: RequestedBackend) -> PunctuationEngine:
    if choose_backend(backend, directory, device) == "onnx":
        from deployments.engines.punctuation_onnx import CtPunctuationOnnxEngine

        return CtPunctuationOnnxEngine(directory, threads=threads, device=device)
    from deployments.engines.punctuation_ct import CtPunctuationEngine

    return CtPunctuationEngine(directory, threads=threads, device=device)


def _load_realtime(
    directory: Path, threads: int, device: str, backend: RequestedBackend
) -> RealtimePunctuationEngine:
    if choose_backend(backend, directory, device) == "onnx":
        from deployments.engines.punctuation_realtime_onnx import CtRealtimePunctuationOnnxEngine

        return CtRealtimePunctuationOnnxEngine(directory, threads=threads, device=device)
    from deployments.engines.punctuation_realtime import CtRealtimePunctuationEngine

    return CtRealtimePunctuationEngine(directory, threads=threads, device=device)


@serve.deployment(name="Punctuation", max_ongoing_requests=256)
class Punctuation:
    """Serves an engine that implements :class:`deployments.engines.base.PunctuationEngine`, and one for live
    text, a :class:`deployments.engines.base.RealtimePunctuationEngine`.
    """

    def __init__(
        self, model_dir: str, realtime_model_dir: str, device: str, backend: RequestedBackend = "auto"
    ) -> None:
        bound_kernel_caches()
        threads, place = replica_threads(), replica_device(device)
        engine = _load(Path(model_dir), threads, place, backend)
        realtime = _load_realtime(Path(realtime_model_dir), threads, place, backend)
        engine.punctuate([["你", "好"]])
        realtime.punctuate([PunctuationBlock(("你", "好"))])
        config, metrics = PunctuationConfig(), StageMetrics()
        self._queue = BatchQueue(engine.punctuate, config.max_batch_words, report=metrics.batch)
        # On a thread of their own: files are long, and a person who speaks does not wait for them.
        self._live = BatchQueue(
            realtime.punctuate, config.max_live_batch_words, report=metrics.batch, live=True
        )

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        config = PunctuationConfig(**user_config)
        self._queue.budget = config.max_batch_words
        self._live.budget = config.max_live_batch_words
        self._queue.wait_seconds = self._live.wait_seconds = config.batch_wait_seconds

    async def punctuate(self, request: PunctuationRequest) -> list[str]:
        """The full-width mark after each word, ``""`` where there is none."""
        return await self._queue.submit(request.words, cost=len(request.words))

    async def punctuate_live(self, request: LivePunctuationRequest) -> PunctuatedBlock:
        """The marks of a session's next words, and the context to send with those that follow them."""
        block = PunctuationBlock(tuple(request.words), tuple(request.context))
        return await self._live.submit(block, cost=len(block.words) + len(block.context))

    async def load(self) -> StageLoad:
        """What this replica has to do."""
        return StageLoad.of([self._queue.load(), self._live.load()])

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """The same, for Serve's controller."""
        return (await self.load()).numbers()

    async def check_health(self) -> None:
        await asyncio.gather(self._queue.check(), self._live.check())
