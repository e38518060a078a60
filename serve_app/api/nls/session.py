"""One WebSocket connection: it carries any number of tasks, one after another.

An error of a message (unreadable, of another task, out of place) is told by ``TaskFailed`` and changes
nothing. An error of the task, or of the connection, is told in the same way, and then the connection is
closed: that is what those clients wait for who do not look at ``TaskFailed``.
"""

import logging
from dataclasses import replace

from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_app.api.backlog import Backlog
from serve_app.api.nls import frames
from serve_app.api.nls.errors import IdleTimeout, InvalidMessage, NlsError, close_code
from serve_app.api.nls.narration import Told
from serve_app.api.nls.task import Task
from serve_app.api.nls.wire import Dialect, Directive, Start, Verb, parse_directive, read_start
from serve_app.api.sockets import OutOfTime, Patience, close_socket, serve_socket
from serve_app.errors import AsrError, Internal
from serve_app.services import Services

logger = logging.getLogger("ray.serve")


class NlsConnection:
    """Speaks the protocol over an accepted socket."""

    def __init__(self, socket: WebSocket, services: Services, dialect: Dialect) -> None:
        settings, live = services.settings, services.live
        self._socket = socket
        self._live = live
        self._speakers = services.speakers
        self._owner = ""
        self._dialect = dialect
        self._backlog = Backlog(settings.max_audio_bytes)
        self._patience = Patience(settings.nls_idle_timeout_sec, settings.live_max_connection_sec, live)
        self._task_id = ""
        """Of the task that is under way, or was the last one."""
        self._is_done = False
        """Whether the last task came to its end, so that what follows of it is no mistake."""
        self._has_complained = False
        """Whether the client was told that its audio came without a task."""

    async def run(self, owner: str) -> None:
        """Serve the client until it goes, or has to; nothing of it is left afterwards.

        ``owner`` is its id (:class:`serve_app.api.access.Client`).
        """
        self._owner = owner
        cause = await serve_socket(self._socket, self._backlog, self._work())
        if cause is None:
            return
        if not isinstance(cause, AsrError):
            logger.error("an NLS connection failed", exc_info=cause)
            cause = Internal("The server met an unexpected fault; its log holds the details.")
        await self.refuse(cause)

    async def refuse(self, error: AsrError, token: str | None = None) -> None:
        """Tell why there is nothing more to be had on this connection, and close it."""
        try:
            if not (isinstance(error, IdleTimeout) and self._is_done):
                await self._socket.send_text(frames.failure(error, self._task_id, token))
            await close_socket(self._socket, close_code(error), error.message)
        except WebSocketDisconnect:
            logger.debug("the client of an NLS connection left while it was being closed")

    async def receive(self) -> bytes | Directive:
        """The next audio, or the next directive to start or to stop.

        Raises:
            IdleTimeout: nothing came for too long, or the connection has been there for too long.
        """
        while True:
            try:
                received = await self._patience.wait_for(self._backlog)
            except OutOfTime as error:
                raise IdleTimeout(f"Websocket session is idle for too long time: {error}") from error
            if isinstance(received, bytes):
                if received:
                    return received
                continue
            try:
                directive = parse_directive(received)
            except NlsError as error:
                await self.complain(error)
                continue
            if directive.verb is not Verb.CONTROL:
                return directive

    async def tell(self, start: Start, told: Told) -> None:
        """Send an event of a task."""
        name, payload = told
        await self._socket.send_text(frames.event(start.service.value, name, start.task_id, payload))

    async def complain(self, error: NlsError) -> None:
        """Send why a message could not be taken; everything goes on."""
        await self._socket.send_text(frames.failure(error, error.task_id or self._task_id))

    async def _work(self) -> None:
        while True:
            message = await self.receive()
            if isinstance(message, bytes):
                await self._pass_over()
            elif message.verb is Verb.START:
                await self._run(message)
            elif not (self._is_done and message.task_id in (None, self._task_id)):
                await self.complain(
                    InvalidMessage("There is no task to stop; start one first.", message.task_id)
                )

    async def _run(self, directive: Directive) -> None:
        self._is_done, self._task_id = False, directive.task_id or ""
        start = read_start(directive, self._dialect, self._live)
        self._task_id = start.task_id
        if start.speakers is not None:
            speakers = await start.speakers.options(self._speakers, self._owner)
            start = replace(start, options=replace(start.options, speakers=speakers))
        await Task(self, start).run(self._live)
        self._is_done = True

    async def _pass_over(self) -> None:
        """Audio outside of a task: what is still on its way after the stop, or a mistake, told once."""
        if not (self._is_done or self._has_complained):
            self._has_complained = True
            await self.complain(
                InvalidMessage("Audio came before a task was started; send it after …Started.")
            )
