"""The ``Ingress`` deployment: it holds no model; it speaks the protocols and drives the graph."""

import asyncio
import logging
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.load import IngressLoad
from deployments.tracing import UNOBSERVED, Observability, observe_process
from serve_app.departure import Departure
from serve_app.deployment_states import DeploymentStates
from serve_app.handles import ModelHandles, ServeGraph
from serve_app.http import create_app
from serve_app.models import ServedModels
from serve_app.observability.serving import ServeMeter
from serve_app.overview.cluster import ClusterOverview
from serve_app.pipeline.speakers.types import SpeakerTuning
from serve_app.services import Services
from serve_app.settings import Settings
from serve_app.tracing import Tracing

logger = logging.getLogger("ray.serve")

_WAKE_SECONDS = 5
_WITHOUT_MODEL = ("Ingress", "Jobs")


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
        *,
        observability: Observability = UNOBSERVED,
    ) -> None:
        resource = observe_process(observability)
        self._tracing = Tracing(observability.tracing, resource)
        self._settings = settings
        self._tuning = tuning
        served = ServedModels(settings)
        self._models = [model.id for model in served]
        self._application = serve.get_replica_context().app_name
        self._states = DeploymentStates(self._application)
        self._graph = ServeGraph(models, served, self._states)
        self._jobs = jobs
        self._wakes: set[asyncio.Task[None]] = set()

    def __serve_build_asgi_app__(self) -> Any:
        self._app = self._build()
        services: Services = self._app.state.services
        # Serve asks for the application on the event loop that the replica lives on.
        self._departure = asyncio.create_task(Departure(services.live.end).run())
        return self._app

    def _build(self) -> FastAPI:
        limits = IngressLoad(
            max_live_sessions=self._settings.max_live_sessions,
            max_concurrent_files=self._settings.max_concurrent_files,
        )
        meter = ServeMeter([*self._graph.stages], limits)
        # Serve makes a replica on the event loop that it lives on.
        self._sampling = asyncio.create_task(meter.keep())
        return create_app(
            self._settings,
            self._graph,
            self._own_states,
            meter,
            self._wake,
            self._tuning,
            behind_proxy=True,
            overview=self._overview(),
            tracing=self._tracing,
        )

    async def _own_states(self) -> dict[str, str]:
        """Of the deployments that this replica needs: while a config changes, there may be others."""
        needed = {*self._graph.stages, *_WITHOUT_MODEL}
        return {name: state for name, state in (await self._states()).items() if name in needed}

    def _overview(self) -> ClusterOverview:
        return ClusterOverview(self._application, self._models, self._graph.stages, "Ingress", self._jobs)

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
