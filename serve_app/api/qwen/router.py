"""``/ws/v1/asr/qwen``, where clients of funasr-api have Qwen3-ASR."""

from contextlib import AsyncExitStack

from fastapi import APIRouter, WebSocket

from serve_app.api.qwen.session import QwenAsrConnection
from serve_app.errors import AsrError
from serve_app.services import Services


def qwen_router(services: Services) -> APIRouter:
    """The WebSocket of Qwen3-ASR, for clients with a valid key."""
    router = APIRouter(tags=["Qwen3-ASR"])

    @router.websocket("/ws/v1/asr/qwen")
    async def recognize(socket: WebSocket) -> None:
        """Recognize live speech; who has no valid key is told so by a message."""
        await socket.accept()
        connection = QwenAsrConnection(socket, services)
        async with AsyncExitStack() as place:
            try:
                await place.enter_async_context(services.access.serve(socket))
            except AsrError as error:
                await connection.refuse(error)
                return
            await connection.run()

    return router
