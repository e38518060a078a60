"""One connection to ``/api-ws/v1/inference``: it carries any number of tasks, one after another.

Whatever goes wrong is told by ``task-failed``, after which the connection is closed, as DashScope does it.
"""

import logging
from dataclasses import replace

from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_app.activity import note_error
from serve_app.api.backlog import Backlog
from serve_app.api.dashscope.errors import TaskError, TimedOut, as_told, close_code, error_code
from serve_app.api.dashscope.task import Task
from serve_app.api.dashscope.wire import Action, Message, Payload, event, parse_message, read_start
from serve_app.api.sockets import OutOfTime, Patience, close_socket, serve_socket
from serve_app.errors import AsrError
from serve_app.services import Services

logger = logging.getLogger("ray.serve")


class InferenceConnection:
    """Speaks the protocol over an accepted socket."""

    def __init__(self, socket: WebSocket, services: Services, owner: str) -> None:
        """``owner`` is the client's id (:class:`serve_app.api.access.Client`)."""
        settings, live = services.settings, services.live
        self._socket = socket
        self._live = live
        self._speakers = services.speakers
        self._owner = owner
        self._backlog = Backlog(settings.max_audio_bytes)
        self._patience = Patience(settings.live_idle_timeout_sec, settings.live_max_connection_sec, live)
        self._task_id = ""
        """Of the task that is under way, or was the last one."""
        self._is_done = False
        """Whether the last task came to its end, so that what follows of it is no mistake."""

    async def run(self) -> None:
        """Serve the client until it goes, or has to; nothing of it is left afterwards."""
        cause = await serve_socket(self._socket, self._backlog, self._work())
        if cause is None:
            return
        error = as_told(cause)
        if error is not cause:
            logger.error("a DashScope connection failed", exc_info=cause)
        try:
            # Between two tasks there is none that could fail.
            if not (isinstance(error, TimedOut) and self._is_done):
                await self._socket.send_text(self._failure(error))
            await close_socket(self._socket, close_code(error), error.message)
        except WebSocketDisconnect:
            logger.debug("the client of a DashScope connection left while it was being closed")

    async def receive(self) -> bytes | Message:
        """The next audio, or the next message.

        Raises:
            TimedOut: nothing came for too long, or the connection has been there for too long.
            TaskError: a message that cannot be read.
        """
        while True:
            try:
                received = await self._patience.wait_for(self._backlog)
            except OutOfTime as error:
                raise TimedOut(f"The request timed out: {error}") from error
            if isinstance(received, str):
                return parse_message(received)
            if received:
                return received

    async def tell(self, name: str, payload: Payload) -> None:
        """Send an event of the task."""
        await self._socket.send_text(event(name, self._task_id, payload))

    async def _work(self) -> None:
        while True:
            message = await self.receive()
            if isinstance(message, bytes):
                if not self._is_done:
                    raise TaskError("Audio came before a task; send it after task-started.")
            elif message.action is Action.RUN:
                await self._run(message)
            elif not (self._is_done and message.task_id == self._task_id):
                raise TaskError("There is no such task; send run-task first.", message.task_id)

    async def _run(self, message: Message) -> None:
        self._is_done, self._task_id = False, message.task_id
        start = read_start(message, self._live)
        if start.speakers is not None:
            speakers = await start.speakers.options(self._speakers, self._owner)
            start = replace(start, options=replace(start.options, speakers=speakers))
        await Task(self, start).run(self._live)
        self._is_done = True

    def _failure(self, error: AsrError) -> str:
        note_error(error)
        task_id = error.task_id if isinstance(error, TaskError) else None
        header = {"error_code": error_code(error), "error_message": error.message}
        return event("task-failed", task_id or self._task_id, {}, **header)
