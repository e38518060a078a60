"""Before Serve ends an ingress replica, live clients that are still there get what is left to tell.

A replica that is to go gets no new requests, and ``graceful_shutdown_timeout_s`` for those that it has. What
lasts longer is cut off, and a replica is not told when its time begins: it has to ask.
"""

import asyncio
import logging
from collections.abc import Callable

from ray import serve
from ray.exceptions import RayError
from ray.serve._private.common import ReplicaState
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException

logger = logging.getLogger("ray.serve")

_LOOK_SECONDS = 10
_GOODBYE_SECONDS = 20
"""What live connections have for their last sentence."""


def time_until_goodbye(grace: float) -> float:
    """Seconds from when a replica learns that it is to go until its live connections are ended.

    ``grace`` is what Serve gives it, in seconds; up to :data:`_LOOK_SECONDS` of these have passed by then.
    """
    return max(0.0, grace - _LOOK_SECONDS - _GOODBYE_SECONDS)


class Departure:
    """Finds out that the replica it runs in is to go, and ends its live connections before Serve cuts them
    off."""

    def __init__(self, end: Callable[[], None]) -> None:
        """``end`` ends them in the order of their protocols."""
        self._end = end
        context = serve.get_replica_context()
        self._application = context.app_name
        self._deployment = context.deployment
        self._replica = context.replica_tag

    async def run(self) -> None:
        """Wait for it; ends once it has happened."""
        grace = await asyncio.to_thread(self._grace)
        while grace is None:
            await asyncio.sleep(_LOOK_SECONDS)
            grace = await asyncio.to_thread(self._grace)
        seconds = time_until_goodbye(grace)
        logger.info("This replica is to go: live connections that last are ended in %g s.", seconds)
        await asyncio.sleep(seconds)
        self._end()

    def _grace(self) -> float | None:
        """What this replica has for what it has begun, in seconds; ``None`` while it is not to go."""
        try:
            deployments = serve.status().applications[self._application].deployments
            ours = deployments.get(self._deployment)
            # Few replicas go, and details cost the controller more.
            if ours is None or not ours.replica_states.get(ReplicaState.STOPPING):
                return None
            client = _get_global_client()
            details = client.get_serve_details() if client is not None else {}
            deployment = details["applications"][self._application]["deployments"][self._deployment]
        except (RayError, RayServeException, KeyError) as error:
            # Nobody is told to go while the controller is away.
            logger.debug("the controller did not say who is to go: %r", error)
            return None
        states = {replica["replica_id"]: replica["state"] for replica in deployment["replicas"]}
        if states.get(self._replica) != ReplicaState.STOPPING:
            return None
        return float(deployment["deployment_config"]["graceful_shutdown_timeout_s"])
