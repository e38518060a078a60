"""The overview of an application of Ray Serve, as one of its replicas sees it."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any, TypeVar

from ray import serve
from ray.exceptions import RayError
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationDetails, DeploymentDetails, ReplicaDetails

from deployments.load import IngressLoad, StageLoad
from serve_app.overview.types import (
    DeploymentView,
    JobsView,
    LoadView,
    Overview,
    ReplicaView,
    TrafficView,
)

logger = logging.getLogger("ray.serve")

Told = TypeVar("Told")

_TOLD_WITHIN_SECONDS = 2.0
_KEPT_SECONDS = 1.0
_RUNNING = "RUNNING"


class ClusterOverview:
    """Asks Serve's controller, and the replicas themselves. However many look, it asks once a second."""

    def __init__(
        self, application: str, models: Sequence[str], stages: Mapping[str, Any], ingress: str, jobs: Any
    ) -> None:
        """``stages`` are the handles of the deployments that have a load, by their names; ``ingress`` is a
        name, since a deployment is not given its own handle; ``jobs`` is a handle."""
        self._application = application
        self._models = [*models]
        self._stages: Mapping[str, DeploymentHandle[Any]] = stages
        self._ingress = ingress
        self._jobs: DeploymentHandle[Any] = jobs
        self._lock = asyncio.Lock()
        self._kept: Overview | None = None

    async def __call__(self) -> Overview:
        async with self._lock:
            if self._kept is None or time.time() - self._kept.time > _KEPT_SECONDS:
                self._kept = await self._look()
            return self._kept

    async def _look(self) -> Overview:
        details, loads, traffic, jobs = await asyncio.gather(
            asyncio.to_thread(self._details), self._loads(), self._traffic(), self._count_jobs()
        )
        now = time.time()
        deployments = [
            _deployment(details.deployments[name], loads.get(name, []), now)
            for name in sorted(details.deployments)
        ]
        return Overview(
            version=version("asr-serve"),
            time=now,
            models=self._models,
            deployments=deployments,
            traffic=_traffic(traffic),
            jobs=jobs,
        )

    def _details(self) -> ApplicationDetails:
        client = _get_global_client()
        assert client is not None, "this runs in a replica"
        return ApplicationDetails.model_validate(
            client.get_serve_details()["applications"][self._application]
        )

    async def _loads(self) -> dict[str, list[StageLoad]]:
        told = await asyncio.gather(*(_told(handle, StageLoad) for handle in self._stages.values()))
        return dict(zip(self._stages, told, strict=True))

    async def _traffic(self) -> list[IngressLoad]:
        return await _told(self._replicas, IngressLoad)

    @cached_property
    def _replicas(self) -> DeploymentHandle[Any]:
        # Once: each handle has a router, which the controller keeps telling of replicas.
        return serve.get_deployment_handle(self._ingress, self._application)

    async def _count_jobs(self) -> JobsView | None:
        try:
            async with asyncio.timeout(_TOLD_WITHIN_SECONDS):
                queued, running = await self._jobs.counts.remote()
        except (RayError, RayServeException, TimeoutError) as error:
            logger.debug("nobody counted the jobs: %r", error)
            return None
        return JobsView(queued=queued, running=running)


async def _told(handle: DeploymentHandle[Any], kind: type[Told]) -> list[Told]:
    """What the replicas say of their load; nothing of those that do not say it in time."""
    try:
        answers = await handle.broadcast("load").results_async(
            timeout_s=_TOLD_WITHIN_SECONDS, return_exceptions=True
        )
    except (RayError, RayServeException, TimeoutError) as error:
        logger.debug("%s did not tell its load: %r", handle.deployment_name, error)
        return []
    return [answer for answer in answers if isinstance(answer, kind)]


def _deployment(details: DeploymentDetails, loads: Sequence[StageLoad], now: float) -> DeploymentView:
    replicas = [_replica(replica, now) for replica in details.replicas]
    return DeploymentView(
        name=details.name,
        status=details.status.value,
        message=details.message,
        running=sum(replica.state == _RUNNING for replica in replicas),
        target=details.target_num_replicas,
        replicas=replicas,
        load=_load(loads),
    )


def _replica(details: ReplicaDetails, now: float) -> ReplicaView:
    return ReplicaView(
        id=details.replica_id,
        state=details.state.value,
        node=details.node_ip,
        pid=details.pid,
        seconds=round(now - details.start_time_s, 1),
    )


def _load(loads: Sequence[StageLoad]) -> LoadView | None:
    if not loads:
        return None
    together = StageLoad.of(loads)
    return LoadView(
        replicas=len(loads),
        waiting_items=together.waiting_items,
        waiting_audio_seconds=together.waiting_audio_seconds,
        running_items=together.running_items,
        running_audio_seconds=together.running_audio_seconds,
        oldest_wait_seconds=together.oldest_wait_seconds,
        lag_seconds=together.lag_seconds,
        busy=sum(load.busy for load in loads) / len(loads),
        audio_per_busy_second=together.audio_per_busy_second,
        drain_seconds=max(load.drain_seconds for load in loads),
    )


def _traffic(loads: Sequence[IngressLoad]) -> TrafficView | None:
    if not loads:
        return None
    return TrafficView(
        ingress_replicas=len(loads),
        live_sessions=sum(load.live_sessions for load in loads),
        max_live_sessions=sum(load.max_live_sessions for load in loads),
        files=sum(load.files for load in loads),
        max_concurrent_files=sum(load.max_concurrent_files for load in loads),
    )
