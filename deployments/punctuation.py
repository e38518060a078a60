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
from deployments.replica import StageMetrics, claim_device, model_directory, replica_threads
from deployments.tracing import UNOBSERVED, Observability, observe, observed


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
        self,
        model_dir: str,
        realtime_model_dir: str,
        device: str,
        backend: RequestedBackend = "auto",
        *,
        observability: Observability = UNOBSERVED,
    ) -> None:
        self._observed = observe(observability)
        self._metrics = StageMetrics()
        bound_kernel_caches()
        threads, place = replica_threads(), claim_device(device)
        engine = _load(model_directory(model_dir), threads, place, backend)
        realtime = _load_realtime(model_directory(realtime_model_dir), threads, place, backend)
        engine.punctuate([["你", "好"]])
        realtime.punctuate([PunctuationBlock(("你", "好"))])
        config, report = PunctuationConfig(), self._observed.reporting(self._metrics.batch)
        followed = self._observed.traceparent_now
        self._queue = BatchQueue(
            engine.punctuate, config.max_batch_words, report=report, traceparent=followed
        )
        # On a thread of their own: files are long, and a person who speaks does not wait for them.
        self._live = BatchQueue(
            realtime.punctuate,
            config.max_live_batch_words,
            report=report,
            live=True,
            traceparent=followed,
        )
        self._metrics.ready(self._loads)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        config = PunctuationConfig(**user_config)
        self._queue.budget = config.max_batch_words
        self._live.budget = config.max_live_batch_words
        self._queue.wait_seconds = self._live.wait_seconds = config.batch_wait_seconds

    @observed
    async def punctuate(self, request: PunctuationRequest) -> list[str]:
        """The full-width mark after each word, ``""`` where there is none."""
        return await self._queue.submit(request.words, cost=len(request.words))

    @observed
    async def punctuate_live(self, request: LivePunctuationRequest) -> PunctuatedBlock:
        """The marks of a session's next words, and the context to send with those that follow them."""
        block = PunctuationBlock(tuple(request.words), tuple(request.context))
        return await self._live.submit(block, cost=len(block.words) + len(block.context))

    async def load(self) -> StageLoad:
        """What this replica has to do."""
        return self._loads()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """The same, for Serve's controller."""
        return self._loads().numbers()

    def _loads(self) -> StageLoad:
        return StageLoad.of([self._queue.load(), self._live.load()])

    async def check_health(self) -> None:
        self._metrics.sample()
        await asyncio.gather(self._queue.check(), self._live.check())
