"""The ``ParaformerStreaming`` deployment: live recognition, one batch across streams.

A replica keeps what the model remembers of each stream. Calls of a stream find it by consistent hashing of
the ``session_id`` that their handle carries. Whoever holds the audio begins a new stream where a replica
no longer knows one (see :class:`deployments.messages.SessionNotFound`), so a replica may be lost at any time.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field
from ray import serve
from ray.serve.config import RequestRouterConfig

from deployments.batching import BatchQueue
from deployments.engines.backends import RequestedBackend, choose_backend
from deployments.engines.base import (
    EngineOptions,
    Precision,
    StreamChunk,
    StreamingAsrEngine,
    StreamResult,
    StreamState,
    Token,
)
from deployments.engines.kernel_caches import bound_kernel_caches
from deployments.instruments import Gauge
from deployments.load import StageLoad
from deployments.messages import (
    SAMPLE_RATE,
    Pcm,
    SessionNotFound,
    StreamOptions,
    StreamReply,
    StreamsFull,
    StreamStep,
    StreamTokens,
)
from deployments.metrics import STREAMS
from deployments.replica import StageMetrics, claim_device, model_directory, replica_threads
from deployments.stream_table import StreamTable, TableFull, UnknownStep
from deployments.tracing import UNOBSERVED, Observability, observe, observed

_FRAME_SAMPLES = 60 * SAMPLE_RATE // 1000
"""``chunk_size`` counts frames of 60 ms."""
_WARM_UP_BATCHES = (1, 8)

_ROUTER = RequestRouterConfig.model_validate(
    {
        "request_router_class": "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter",
        # A busy replica must not pass a call on: the others do not know the stream.
        "request_router_kwargs": {"num_fallback_replicas": 0},
    }
)


class ParaformerStreamingConfig(BaseModel):
    """``user_config`` of the deployment; a change takes effect without a restart, and no stream is lost."""

    max_batch_chunks: int = Field(64, ge=1)
    """Chunks, each of another stream, in one batch."""

    batch_wait_seconds: float = Field(0.0, ge=0)
    """How long an incomplete batch waits for more."""

    idle_seconds: float = Field(120, gt=0)
    """How long a stream is kept after its last audio."""

    max_streams: int = Field(512, ge=1)
    """Streams that one replica keeps at once."""


def _load(directory: Path, options: EngineOptions) -> StreamingAsrEngine:
    # Imported here, so that only replicas load the model libraries, not what builds or routes.
    if choose_backend(options.backend, directory, options.device, options.precision) == "onnx":
        from deployments.engines.paraformer_streaming_onnx import ParaformerStreamingOnnxEngine

        return ParaformerStreamingOnnxEngine(directory, threads=options.threads, device=options.device)
    from deployments.engines.paraformer_streaming import ParaformerStreamingEngine

    return ParaformerStreamingEngine(
        directory, threads=options.threads, device=options.device, precision=options.precision
    )


@serve.deployment(
    name="ParaformerStreaming",
    # Above max_streams: a call that found no room would not be answered but wait.
    max_ongoing_requests=1024,
    request_router_config=_ROUTER,
)
class ParaformerStreaming:
    """Serves an engine that implements :class:`deployments.engines.base.StreamingAsrEngine`."""

    def __init__(
        self,
        model_dir: str,
        device: str,
        precision: Precision,
        threads: int = 0,
        backend: RequestedBackend = "auto",
        *,
        observability: Observability = UNOBSERVED,
    ) -> None:
        """``threads``: 0 for as many as the replica has CPUs."""
        self._observed = observe(observability)
        self._metrics = StageMetrics()
        bound_kernel_caches()
        options = EngineOptions(replica_threads(threads), claim_device(device), precision, backend)
        engine = _load(model_directory(model_dir), options)
        _warm_up(engine)
        config = ParaformerStreamingConfig()
        self._queue = BatchQueue(engine.step, config.max_batch_chunks, report=self._metrics.batch, live=True)
        self._streams = StreamTable[StreamState](config.max_streams, config.idle_seconds)
        self._count = Gauge(STREAMS)
        self._metrics.ready(self._queue.load)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        config = ParaformerStreamingConfig(**user_config)
        self._queue.budget = config.max_batch_chunks
        self._queue.wait_seconds = config.batch_wait_seconds
        self._streams.max_streams = config.max_streams
        self._streams.idle_seconds = config.idle_seconds

    @observed
    async def step(self, request: StreamStep) -> StreamReply:
        """Recognize the next audio of a stream; see :class:`deployments.messages.StreamStep`.

        Raises:
            ValueError: no stream can be recognized with its options.
        """
        request.options.check()
        try:
            with self._streams.step(
                request.stream_id, request.number, request.options, final=request.final
            ) as step:
                tokens: list[Token] = []
                # Chunk by chunk, so that a stream that catches up shares its batches with the others.
                for samples, last in _chunks(request.samples, step.options):
                    final = request.final and last
                    result = await self._recognize(StreamChunk(samples, step.state, final, step.options))
                    step.state = result.state
                    tokens += result.tokens
                step.done()
        except UnknownStep as error:
            return SessionNotFound(request.stream_id, str(error))
        except TableFull:
            return StreamsFull(request.stream_id, self._streams.max_streams)
        finally:
            self._count.put(len(self._streams))
        return StreamTokens(tuple(tokens))

    async def drop(self, stream_id: str) -> None:
        """Forget a stream that will have no final step. An unknown one is no error."""
        self._streams.drop(stream_id)
        self._count.put(len(self._streams))

    async def load(self) -> StageLoad:
        """What this replica has to do."""
        return self._queue.load()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """The same, for Serve's controller."""
        return self._queue.load().numbers()

    async def check_health(self) -> None:
        # Called every few seconds: streams expire also where no new ones come.
        self._streams.sweep()
        self._count.put(len(self._streams))
        self._metrics.sample()
        await self._queue.check()

    async def _recognize(self, chunk: StreamChunk) -> StreamResult:
        return await self._queue.submit(chunk, audio_seconds=len(chunk.samples) / SAMPLE_RATE)


def _chunks(samples: Pcm, options: StreamOptions) -> Iterator[tuple[Pcm, bool]]:
    """Cut into chunks as the model takes them, each with whether it is the last; at least one."""
    stride = options.chunk_size[1] * _FRAME_SAMPLES
    begins = range(0, max(1, len(samples)), stride)
    for begin in begins:
        yield samples[begin : begin + stride], begin == begins[-1]


def _warm_up(engine: StreamingAsrEngine) -> None:
    """Whole streams of several chunks: first, middle and last ones take different ways through the model."""
    options = StreamOptions()
    for size in _WARM_UP_BATCHES:
        states: list[StreamState | None] = [None] * size
        for final in (False, False, True):
            silence = np.zeros(options.chunk_size[1] * _FRAME_SAMPLES, np.int16)
            results = engine.step([StreamChunk(silence, state, final, options) for state in states])
            states = [result.state for result in results]
