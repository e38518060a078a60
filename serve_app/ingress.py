"""The ``Ingress`` deployment: it holds no model; it speaks the protocols and drives the graph."""

import asyncio
from typing import Any

from ray import serve
from ray.serve._private.common import ReplicaState
from ray.serve.handle import DeploymentHandle

from serve_app.handles import ServeGraph
from serve_app.http import READY, create_app
from serve_app.settings import Settings


@serve.deployment(
    name="Ingress",
    # A long upload is one ongoing request for all its life, and refusals need room beside the files.
    max_ongoing_requests=400,
    graceful_shutdown_timeout_s=600,
)
@serve.ingress()
class Ingress:
    """The FastAPI application, built once per replica over the handles of the other deployments."""

    def __init__(
        self,
        settings: Settings,
        vad: DeploymentHandle[Any],
        paraformer: DeploymentHandle[Any],
        punctuation: DeploymentHandle[Any],
    ) -> None:
        self._settings = settings
        self._graph = ServeGraph(vad, paraformer, punctuation)
        self._application = serve.get_replica_context().app_name

    def __serve_build_asgi_app__(self) -> Any:
        return create_app(self._settings, self._graph, self._deployment_states)

    async def _deployment_states(self) -> dict[str, str]:
        """``READY`` where a replica runs, also while others start or stop; else Serve's own word."""
        status = await asyncio.to_thread(serve.status)
        deployments = status.applications[self._application].deployments
        return {
            name: READY if deployment.replica_states.get(ReplicaState.RUNNING) else deployment.status.value
            for name, deployment in deployments.items()
        }
