"""The ``Vad`` deployment: voice-activity detection, batched across recordings and live sessions.

It keeps no state: what detection remembers of a recording travels with each request, so that any replica
can take the next block, also after another one died.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field
from ray import serve

from deployments.batching import BatchQueue
from deployments.engines.backends import RequestedBackend, choose_backend
from deployments.engines.base import VadBlock, VadEngine, VadOptions, VadResult
from deployments.engines.kernel_caches import bound_kernel_caches
from deployments.load import StageLoad
from deployments.messages import SAMPLE_RATE, LiveVadRequest, VadRequest
from deployments.replica import StageMetrics, claim_device, model_directory, read_audio, replica_threads
from deployments.tracing import UNOBSERVED, Observability, observe, observed


class VadConfig(BaseModel):
    """``user_config`` of the deployment; a change takes effect without a restart."""

    max_batch_blocks: int = Field(8, ge=1)
    """Blocks, each of another recording, in one batch."""

    max_live_batch_blocks: int = Field(64, ge=1)
    """Blocks, each of another live session, in one batch."""

    batch_wait_seconds: float = Field(0.0, ge=0)
    """How long an incomplete batch waits for more."""


def _load(directory: Path, threads: int, device: str, backend: RequestedBackend) -> VadEngine:
    # Imported here, so that only replicas load the model libraries, not what builds or routes.
    if choose_backend(backend, directory, device) == "onnx":
        from deployments.engines.vad_onnx import FsmnVadOnnxEngine

        return FsmnVadOnnxEngine(directory, threads=threads, device=device)
    from deployments.engines.vad_fsmn import FsmnVadEngine

    return FsmnVadEngine(directory, threads=threads, device=device)


@serve.deployment(name="Vad", max_ongoing_requests=256)
class Vad:
    """Serves an engine that implements :class:`deployments.engines.base.VadEngine`."""

    def __init__(
        self,
        model_dir: str,
        device: str,
        backend: RequestedBackend = "auto",
        *,
        observability: Observability = UNOBSERVED,
    ) -> None:
        self._observed = observe(observability)
        self._metrics = StageMetrics()
        bound_kernel_caches()
        engine = _load(model_directory(model_dir), replica_threads(), claim_device(device), backend)
        engine.detect([VadBlock(np.zeros(SAMPLE_RATE, np.int16), None, True, VadOptions())])
        config = VadConfig()
        self._queue = BatchQueue(
            engine.detect,
            config.max_batch_blocks,
            report=self._observed.reporting(self._metrics.batch),
            traceparent=self._observed.traceparent_now,
        )
        # On a thread of their own: blocks of files are long, and a person who speaks does not wait for them.
        self._live = BatchQueue(
            engine.detect, config.max_live_batch_blocks, report=self._metrics.batch, live=True
        )
        self._metrics.ready(self._loads)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        config = VadConfig(**user_config)
        self._queue.budget = config.max_batch_blocks
        self._live.budget = config.max_live_batch_blocks
        self._queue.wait_seconds = self._live.wait_seconds = config.batch_wait_seconds

    @observed
    async def detect(self, request: VadRequest) -> VadResult:
        """Find the speech in the next block of a recording."""
        samples = await read_audio(request.audio)
        block = VadBlock(samples, request.state, request.final, request.options)
        return await self._queue.submit(block, audio_seconds=request.audio.seconds)

    async def detect_live(self, requests: Sequence[LiveVadRequest]) -> list[list[VadResult] | BaseException]:
        """Find the speech in the next audio of live sessions; for each its results, or what it came to."""
        return await asyncio.gather(*(self._follow(request) for request in requests), return_exceptions=True)

    @observed
    async def _follow(self, request: LiveVadRequest) -> list[VadResult]:
        """One result for each block, at least one; the last one holds the state."""
        results: list[VadResult] = []
        state = request.state
        begins = range(0, max(1, len(request.samples)), request.block)
        # Each block queues by itself, so that a session that sends much at once shares its batches.
        for begin in begins:
            samples = request.samples[begin : begin + request.block]
            block = VadBlock(samples, state, request.final and begin == begins[-1], request.options)
            result = await self._live.submit(block, audio_seconds=len(samples) / SAMPLE_RATE)
            results.append(replace(result, state=None))
            state = result.state
        return [*results[:-1], replace(results[-1], state=state)]

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
