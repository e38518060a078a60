"""The addresses of DashScope's clients, all below ``/api-ws/v1`` and ``/api/v1``."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Protocol

from fastapi import APIRouter, WebSocket

from serve_app.api.access import Access, Client
from serve_app.api.dashscope.errors import error_response
from serve_app.api.dashscope.files.router import files_router
from serve_app.api.dashscope.qwen.session import QwenConnection
from serve_app.api.dashscope.session import InferenceConnection
from serve_app.api.sockets import POLICY_VIOLATION
from serve_app.errors import AsrError
from serve_app.services import Services


class Connection(Protocol):
    """Speaks a protocol over an accepted socket."""

    async def run(self) -> None: ...


def dashscope_router(services: Services) -> APIRouter:
    """DashScope's WebSockets and tasks, for clients with a valid key."""
    router = APIRouter(tags=["DashScope"])
    router.include_router(files_router(services))
    live, settings = services.live, services.settings

    # Clients write the address with a slash at its end, and without.
    @router.websocket("/api-ws/v1/inference")
    @router.websocket("/api-ws/v1/inference/")
    async def infer(socket: WebSocket) -> None:
        """Run tasks of Paraformer's and Fun-ASR's clients."""
        await _serve(services.access, socket, lambda client: InferenceConnection(socket, services, client.id))

    @router.websocket("/api-ws/v1/realtime")
    @router.websocket("/api-ws/v1/realtime/")
    async def realtime(socket: WebSocket) -> None:
        """Transcribe for clients of Qwen's realtime models."""
        await _serve(services.access, socket, lambda _: QwenConnection(socket, live, settings))

    return router


async def _serve(access: Access, socket: WebSocket, connect: Callable[[Client], Connection]) -> None:
    async with AsyncExitStack() as place:
        try:
            client = await place.enter_async_context(access.serve(socket))
        except AsrError as error:
            await _refuse(socket, error)
            return
        await socket.accept()
        await connect(client).run()


async def _refuse(socket: WebSocket, error: AsrError) -> None:
    """Answer the handshake with an HTTP status: 401 for a wrong key."""
    if "websocket.http.response" in socket.scope.get("extensions", {}):
        await socket.send_denial_response(error_response(error))
    else:
        # A server that knows no other way makes a 403 of it.
        await socket.close(POLICY_VIOLATION, error.message)
