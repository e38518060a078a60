"""What Serve's controller tells of an application's deployments, also while it cannot be asked."""

import asyncio
import logging

from ray import serve
from ray.serve._private.common import DeploymentStatus, ReplicaState
from ray.serve.schema import DeploymentStatusOverview

from serve_app.services import READY

logger = logging.getLogger("ray.serve")

_PATIENCE_SECONDS = 2.0
# One that takes in a new `user_config` has requests wait for a moment.
_SERVING = (ReplicaState.RUNNING, ReplicaState.UPDATING)
_AS_MANY_AS_WANTED = (DeploymentStatus.HEALTHY, DeploymentStatus.UPSCALING, DeploymentStatus.DOWNSCALING)


class DeploymentStates:
    """Implements :data:`serve_app.services.Readiness`.

    The controller lives on the head node, and replicas work on while that is away. So what it told last
    holds until it tells something else. It is asked once at a time, however many want to know: a question
    that nobody answers holds a thread until the head is back.
    """

    def __init__(self, application: str) -> None:
        self._application = application
        self._asking: asyncio.Task[dict[str, str]] | None = None
        self._told: dict[str, str] = {}

    async def __call__(self) -> dict[str, str]:
        """``READY`` where a replica runs, also while others start or stop, and where none has to run; else
        Serve's own word. Empty if nothing was ever told."""
        if self._asking is None:
            self._asking = asyncio.create_task(asyncio.to_thread(self._ask))
        asking = self._asking
        answered, _ = await asyncio.wait([asking], timeout=_PATIENCE_SECONDS)
        if not answered:
            logger.warning("Serve's controller does not answer; what it told last is taken to be so still")
            return self._told
        if self._asking is asking:
            self._asking = None
        # While Serve builds the graph of a changed config it lists none, and the replicas of before serve on.
        self._told = asking.result() or self._told
        return self._told

    def _ask(self) -> dict[str, str]:
        deployments = serve.status().applications[self._application].deployments
        return {
            name: READY if _is_ready(deployment) else deployment.status.value
            for name, deployment in deployments.items()
        }


def _is_ready(deployment: DeploymentStatusOverview) -> bool:
    # One that its autoscaling took to zero replicas answers, too: the first request waits for its model.
    serves = any(deployment.replica_states.get(state) for state in _SERVING)
    return serves or deployment.status in _AS_MANY_AS_WANTED
