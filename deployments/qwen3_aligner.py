"""The ``Qwen3Aligner`` deployment: when known words were said, batched across requests."""

from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field
from ray import serve

from deployments.batching import BatchQueue
from deployments.engines.generative import AlignmentItem
from deployments.engines.kernel_caches import bound_kernel_caches
from deployments.engines.qwen3_languages import ALIGNED, LANGUAGES
from deployments.load import StageLoad
from deployments.messages import SAMPLE_RATE, AlignmentRequest, Times
from deployments.replica import StageMetrics, claim_device, model_directory, read_audio, replica_threads
from deployments.tracing import UNOBSERVED, Observability, observe, observed


class Qwen3AlignerConfig(BaseModel):
    """``user_config`` of the deployment; a change takes effect without a restart."""

    max_batch_seconds: float = Field(60, gt=0)
    """Seconds of audio in one batch; a segment that is longer runs alone."""

    batch_wait_seconds: float = Field(0.0, ge=0)
    """How long an incomplete batch waits for more."""


# Here and not in serve_config.yaml for the reason that is told at Qwen3ASR.
@serve.deployment(
    name="Qwen3Aligner",
    max_ongoing_requests=256,
    ray_actor_options={"num_cpus": 0},
    autoscaling_config={
        "initial_replicas": 1,
        "min_replicas": 1,
        "max_replicas": 2,
        "target_ongoing_requests": 8,
        "metrics_interval_s": 1,
        "look_back_period_s": 5,
        "upscale_delay_s": 5,
        "downscale_delay_s": 60,
        "policy": {
            "policy_function": "deployments.autoscaling:AudioPolicy",
            "policy_kwargs": {"target_wait_seconds": 5, "target_busy": 0.9, "hold_seconds": 600},
        },
    },
)
class Qwen3Aligner:
    """Serves an engine that implements :class:`deployments.engines.generative.AlignerEngine`."""

    def __init__(
        self,
        model_dir: str,
        device: str,
        precision: Literal["auto", "fp32", "bf16"],
        threads: int = 0,
        *,
        observability: Observability = UNOBSERVED,
    ) -> None:
        """``threads``: as in :class:`deployments.qwen3_asr.Qwen3Options`."""
        self._observed = observe(observability)
        self._metrics = StageMetrics()
        bound_kernel_caches()
        # Imported here, so that only replicas load the model libraries, not what builds or routes.
        from deployments.engines.qwen3_aligner import Qwen3AlignerEngine

        engine = Qwen3AlignerEngine(
            model_directory(model_dir),
            threads=replica_threads(threads),
            device=claim_device(device),
            precision=precision,
        )
        engine.align([AlignmentItem(np.zeros(SAMPLE_RATE, np.int16), ("喂",), LANGUAGES["zh"])])
        self._queue: BatchQueue[AlignmentItem, Times] = BatchQueue(
            engine.align,
            Qwen3AlignerConfig().max_batch_seconds,
            report=self._observed.reporting(self._metrics.batch),
            traceparent=self._observed.traceparent_now,
        )
        self._metrics.ready(self._queue.load)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        config = Qwen3AlignerConfig(**user_config)
        self._queue.budget = config.max_batch_seconds
        self._queue.wait_seconds = config.batch_wait_seconds

    @observed
    async def align(self, request: AlignmentRequest) -> Times:
        """Begin and end of each word, in milliseconds from the begin of the audio.

        Raises:
            ValueError: the model does not know the language.
        """
        if request.language not in ALIGNED:
            raise ValueError(f"Qwen3-ForcedAligner knows no language with the code {request.language!r}")
        samples = await read_audio(request.audio)
        seconds = request.audio.seconds
        item = AlignmentItem(samples, request.words, LANGUAGES[request.language])
        return await self._queue.submit(item, cost=seconds, audio_seconds=seconds, priority=request.priority)

    async def load(self) -> StageLoad:
        """What this replica has to do."""
        return self._queue.load()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """The same, for Serve's controller."""
        return self._queue.load().numbers()

    async def check_health(self) -> None:
        self._metrics.sample()
        await self._queue.check()
