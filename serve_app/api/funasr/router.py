"""``ws://host:port/``, where FunASR's clients connect, and the same under a path of its own."""

from contextlib import AsyncExitStack

from fastapi import APIRouter, WebSocket

from serve_app.api.access import Access
from serve_app.api.funasr.session import FunasrConnection
from serve_app.api.funasr.utterance import Recognizers
from serve_app.errors import AsrError

_SUBPROTOCOL = "binary"


def funasr_router(access: Access, recognizers: Recognizers) -> APIRouter:
    """The FunASR WebSocket, for clients with a valid key."""
    router = APIRouter(tags=["FunASR"])

    @router.websocket("/")
    @router.websocket("/ws/v1/asr/funasr")
    async def recognize(socket: WebSocket) -> None:
        """Recognize utterances."""
        # Some clients offer this subprotocol and others none; a selected one that was not offered is an
        # error to both.
        offered = socket.scope.get("subprotocols", [])
        await socket.accept(_SUBPROTOCOL if _SUBPROTOCOL in offered else None)
        connection = FunasrConnection(socket, recognizers)
        async with AsyncExitStack() as place:
            try:
                client = await place.enter_async_context(access.serve(socket))
            except AsrError as error:
                await connection.refuse(error)
                return
            await connection.run(client.id)

    return router
