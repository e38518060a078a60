"""``/ws/v1``, the address of Aliyun's SDKs, and ``/ws/v1/asr``, that of funasr-api's clients."""

from contextlib import AsyncExitStack

from fastapi import APIRouter, WebSocket

from serve_app.activity import note_error
from serve_app.api.access import bearer_token
from serve_app.api.nls.session import NlsConnection
from serve_app.api.nls.wire import Dialect
from serve_app.api.sockets import POLICY_VIOLATION
from serve_app.errors import AsrError, Unauthenticated
from serve_app.services import Services

_OFFICIAL, _LAVISH = Dialect(lavish=False), Dialect(lavish=True)


def nls_router(services: Services) -> APIRouter:
    """The NLS WebSocket, for clients with a valid key."""
    router = APIRouter(tags=["Aliyun NLS"])

    @router.websocket("/ws/v1")
    async def official(socket: WebSocket) -> None:
        """As Aliyun's gateway: who has no valid token gets the HTTP status 403 and no connection."""
        await _serve(services, socket, _OFFICIAL, refuses_early=True)

    @router.websocket("/ws/v1/asr")
    async def lavish(socket: WebSocket) -> None:
        """As funasr-api: who has no valid token is told so by ``TaskFailed``."""
        await _serve(services, socket, _LAVISH, refuses_early=False)

    return router


async def _serve(services: Services, socket: WebSocket, dialect: Dialect, *, refuses_early: bool) -> None:
    connection = NlsConnection(socket, services, dialect)
    async with AsyncExitStack() as place:
        try:
            client = await place.enter_async_context(services.access.serve(socket))
        except AsrError as error:
            if refuses_early and isinstance(error, Unauthenticated):
                note_error(error)
                # Closing what was not accepted is how ASGI says 403.
                await socket.close(POLICY_VIOLATION, error.message)
                return
            await socket.accept()
            await connection.refuse(error, bearer_token(socket))
            return
        await socket.accept()
        await connection.run(client.id)
