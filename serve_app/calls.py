"""Calls over Serve handles: bounded retries, errors of our own tree, an end when nobody waits any more."""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ray.exceptions import (
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RaySystemError,
    WorkerCrashedError,
)
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle

from serve_app.activity import note_retry
from serve_app.errors import Overloaded, UpstreamLost
from serve_app.stages import current_stage

logger = logging.getLogger("ray.serve")

States = Callable[[], Awaitable[Mapping[str, str]]]

LOST = (
    RayActorError,
    WorkerCrashedError,
    NodeDiedError,
    # Ray ends workers itself where a node runs out of memory.
    OutOfMemoryError,
    RaySystemError,
    ReplicaUnavailableError,
)
"""What a call raises whose replica is gone."""

_ATTEMPTS = 5
_FIRST_PAUSE = 0.2
_LOOK_SECONDS = 20
_BUSY = "The server is busy; please send the request again later."
_RETRY_AFTER_SECONDS = 5


async def call_pure(name: str, send: Callable[[], Any], states: States | None = None) -> Any:
    """Call a deployment; where its replica dies, call again, with growing pauses.

    Args:
        name: of the deployment.
        send: begins a call, and gives what is to be awaited.
        states: tells which deployments there are; see :func:`while_there`.

    Raises:
        Overloaded: there is no room for the call.
        UpstreamLost: no replica could answer.
    """
    pause = _FIRST_PAUSE
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return await while_there(name, send(), states)
        except LOST as error:
            logger.warning("%s: replica lost (%s), attempt %d", name, type(error).__name__, attempt)
            note_retry(name)
            current_stage().event("retry", deployment=name, attempt=attempt, error=type(error).__name__)
        except BackPressureError as error:
            raise busy() from error
        except DeploymentUnavailableError as error:
            raise unavailable(name) from error
        await asyncio.sleep(pause)
        pause *= 2
    raise UpstreamLost(f"The {name} model was lost {_ATTEMPTS} times while it worked on this request.")


async def while_there(name: str, response: Awaitable[Any], states: States | None) -> Any:
    """Await a call for as long as its deployment is part of the application.

    Calls that wait for a replica are not told when Serve removes their deployment (Ray 2.60): they would wait
    for ever, and with them the session or file that they are for.

    Args:
        name: of the deployment.
        response: the call; canceled when this is.
        states: of the application's deployments, by name; without it, all are taken to be there.

    Raises:
        UpstreamLost: the deployment is gone.
    """
    if states is None:
        return await response
    call = asyncio.ensure_future(response)
    try:
        while not (await asyncio.wait([call], timeout=_LOOK_SECONDS))[0]:
            if await _is_removed(name, states):
                raise unavailable(name)
        return call.result()
    finally:
        call.cancel()


async def _is_removed(name: str, states: States) -> bool:
    try:
        return name not in await states()
    except (RayError, RayServeException) as error:
        logger.debug("whether %s is still there could not be asked: %r", name, error)
        return False


def busy() -> Overloaded:
    """There is no room for a call."""
    return Overloaded(_BUSY, _RETRY_AFTER_SECONDS)


def unavailable(name: str) -> UpstreamLost:
    """Serve gave a deployment up."""
    return UpstreamLost(f"The {name} model is not available; see the server's log.")


def send_hashed(handle: DeploymentHandle[Any], argument: Any) -> Any:
    """Call a deployment whose router is consistent hashing; to be awaited.

    In a context of its own: there, Serve gives the call an id of its own. Else all calls that one client's
    request makes share its id, by which this router tells calls apart that wait for a replica: of two at
    the same time, one would get the replica of the other, or wait for ever (seen in Ray 2.60).
    """
    return contextvars.Context().run(handle.remote, argument)


async def ended_with_caller(response: Any) -> Any:
    """Await a call; if nobody waits for it any more, it ends in the replica too.

    Serve does that by itself only where the client's whole request is canceled, and only for calls that were
    made in its context.
    """
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise
