"""The ``Ingress`` deployment: it holds no model; it speaks the protocols and drives the graph."""

import asyncio
import logging
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve._private.common import ReplicaState
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.metrics import Gauge, Histogram

from deployments.load import IngressLoad
from serve_app.handles import ModelHandles, ServeGraph
from serve_app.http import create_app
from serve_app.models import ServedModels
from serve_app.pipeline.speakers.types import SpeakerTuning
from serve_app.services import READY, Services
from serve_app.settings import Settings

logger = logging.getLogger("ray.serve")

_WAKE_SECONDS = 5
_LATENCIES = [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 30]


@serve.deployment(
    name="Ingress",
    # A long upload, or a live connection, is one ongoing request for all its life, and refusals need room
    # beside them: this is above max_concurrent_files and max_live_sessions together.
    max_ongoing_requests=600,
    # What a live session, or a long file, has to come to its end when this replica is replaced.
    graceful_shutdown_timeout_s=600,
)
@serve.ingress()
class Ingress:
    """The FastAPI application, built once per replica over the handles of the other deployments."""

    def __init__(
        self,
        settings: Settings,
        models: ModelHandles,
        jobs: DeploymentHandle[Any],
        tuning: SpeakerTuning,
    ) -> None:
        self._settings = settings
        self._tuning = tuning
        self._graph = ServeGraph(models, ServedModels(settings))
        self._jobs = jobs
        self._wakes: set[asyncio.Task[None]] = set()
        self._application = serve.get_replica_context().app_name

    def __serve_build_asgi_app__(self) -> Any:
        self._app = self._build()
        return self._app

    def _build(self) -> FastAPI:
        metrics = _ServeLiveMetrics()
        return create_app(
            self._settings,
            self._graph,
            self._deployment_states,
            metrics,
            self._wake,
            self._tuning,
            behind_proxy=True,
        )

    async def end_live_connections(self) -> None:
        """The server is being stopped: live clients get what is left to tell, and a close."""
        services: Services = self._app.state.services
        services.live.end()

    async def load(self) -> IngressLoad:
        """Whom this replica serves."""
        services: Services = self._app.state.services
        return IngressLoad(
            services.live.active,
            self._settings.max_live_sessions,
            services.transcriber.active,
            self._settings.max_concurrent_files,
        )

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """The same, for Serve's controller."""
        return (await self.load()).numbers()

    async def _wake(self) -> None:
        """Have a worker look for jobs now. Nobody waits for it: workers look by themselves before long."""
        wake = asyncio.create_task(self._call_jobs())
        self._wakes.add(wake)
        wake.add_done_callback(self._wakes.discard)

    async def _call_jobs(self) -> None:
        try:
            async with asyncio.timeout(_WAKE_SECONDS):
                await self._jobs.wake.remote()
        except (RayError, RayServeException, TimeoutError) as error:
            logger.debug("no worker of jobs was woken: %r", error)

    async def _deployment_states(self) -> dict[str, str]:
        """``READY`` where a replica runs, also while others start or stop; else Serve's own word."""
        status = await asyncio.to_thread(serve.status)
        deployments = status.applications[self._application].deployments
        return {
            name: READY if deployment.replica_states.get(ReplicaState.RUNNING) else deployment.status.value
            for name, deployment in deployments.items()
        }


class _ServeLiveMetrics:
    """Implements :class:`serve_app.live.LiveMetrics`. Serve adds deployment, replica and application."""

    def __init__(self) -> None:
        self._sessions = Gauge("asr_live_sessions", "Live sessions that are open.")
        self._first_partial = Histogram(
            "asr_live_first_partial_seconds",
            "From a session's first audio to its first partial text.",
            _LATENCIES,
        )
        self._final_after_end = Histogram(
            "asr_live_final_after_end_seconds",
            "From the end of a session's audio to its last event.",
            _LATENCIES,
        )

    def sessions(self, count: int) -> None:
        self._sessions.set(count)

    def first_partial(self, seconds: float) -> None:
        self._first_partial.observe(seconds)

    def final_after_end(self, seconds: float) -> None:
        self._final_after_end.observe(seconds)
