"""One connection to ``/api-ws/v1/realtime``.

A message that cannot be taken is told by ``error``, and everything goes on; so it does after a turn that
failed. What ends the connection is told by ``error`` as well.
"""

import logging

from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_app.api.dashscope.errors import TimedOut, as_told, close_code
from serve_app.api.dashscope.qwen.intake import Intake
from serve_app.api.dashscope.qwen.narration import Items
from serve_app.api.dashscope.qwen.turn import Turn
from serve_app.api.dashscope.qwen.wire import (
    BadMessage,
    EmptyBuffer,
    Request,
    SessionConfig,
    Verb,
    event,
    failure,
    new_id,
    parse_request,
)
from serve_app.api.sockets import NORMAL, OutOfTime, Patience, close_socket, serve_socket
from serve_app.errors import InvalidParameter
from serve_app.live import LiveService
from serve_app.settings import Settings

logger = logging.getLogger("ray.serve")


class QwenConnection:
    """Speaks the protocol over an accepted socket."""

    def __init__(self, socket: WebSocket, live: LiveService, settings: Settings) -> None:
        self._socket = socket
        self._live = live
        self._backlog = Intake(settings.max_audio_bytes)
        self._patience = Patience(settings.live_idle_timeout_sec, settings.live_max_connection_sec, live)
        self._id = new_id("sess")
        named = socket.query_params.get("model") or ""
        self._served = live.models.meant(named)
        self._model = named or self._served.id
        self._config = SessionConfig()
        self._items = Items()
        self._seconds = 0.0
        """Audio of the turns that have ended."""

    async def run(self) -> None:
        """Serve the client until it goes, or has to; nothing of it is left afterwards."""
        cause = await serve_socket(self._socket, self._backlog, self._work())
        if cause is None:
            return
        error = as_told(cause)
        if error is not cause:
            logger.error("a connection of Qwen's protocol failed", exc_info=cause)
        try:
            await self.send(failure(error))
            await close_socket(self._socket, close_code(error), error.message)
        except WebSocketDisconnect:
            logger.debug("the client of a connection left while it was being closed")

    async def send(self, message: str) -> None:
        """Send an event."""
        await self._socket.send_text(message)

    async def receive(self) -> bytes | Request:
        """The next audio, or the next request that has an effect.

        Raises:
            TimedOut: nothing came for too long, or the connection has been there for too long.
        """
        while True:
            try:
                received = await self._patience.wait_for(self._backlog)
            except OutOfTime as error:
                raise TimedOut(f"The session timed out: {error}") from error
            if isinstance(received, bytes):
                if received:
                    return received
                continue
            try:
                request = parse_request(received)
                if request.verb is not Verb.UPDATE:
                    return request
                before, self._config = self._config, self._updated(request)
            except BadMessage as error:
                await self.send(failure(error, error.event_id))
                continue
            if self._config != before:
                return request
            await self._describe("session.updated")

    def _updated(self, request: Request) -> SessionConfig:
        """The configuration that a request wants; raises :class:`BadMessage`."""
        config = self._config.updated(request)
        try:
            config.options(self._served, self._live)
        except InvalidParameter as error:
            param = "corpus" if error.param == "context" else error.param
            raise BadMessage(error.message, param, request.event_id) from error
        return config

    async def _work(self) -> None:
        await self._describe("session.created")
        while True:
            message: bytes | Request | None = await self.receive()
            if not isinstance(message, bytes):
                await self._answer(message, is_empty=True)
            else:
                message = await self._turn(message)
                await self._answer(message, is_empty=False)
            if message is not None and message.verb is Verb.FINISH:
                await close_socket(self._socket, NORMAL, "The session is finished.")
                return

    async def _turn(self, first: bytes) -> Request | None:
        options = self._config.options(self._served, self._live)
        turn = Turn(self, self._config, options, self._items, self._seconds)
        try:
            return await turn.run(self._live, first)
        finally:
            self._seconds += turn.seconds

    async def _answer(self, request: Request | None, *, is_empty: bool) -> None:
        """What follows a request, once the turn that it ended is told. ``is_empty``: there was none."""
        match request.verb if request is not None else None:
            case Verb.UPDATE:
                await self._describe("session.updated")
            case Verb.CLEAR:
                await self.send(event("input_audio_buffer.cleared"))
            case Verb.FINISH:
                await self.send(event("session.finished"))
            case Verb.COMMIT if is_empty and self._config.manual and request is not None:
                error = EmptyBuffer("There is no audio to commit; append some first.")
                await self.send(failure(error, request.event_id))

    async def _describe(self, name: str) -> None:
        session = self._config.told(self._id, self._model, self._live.defaults)
        await self.send(event(name, session=session))
