"""One connection to ``/ws/v1/asr/qwen``: one recognition, from ``start`` to ``final``.

A message that cannot be taken is told by ``error``, and everything goes on. What ends the connection is told
by ``error`` as well, after what had been said up to then.
"""

import json
import logging
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_app.api.dashscope.audio import LiveAudio
from serve_app.api.dashscope.conversing import converse
from serve_app.api.hotwords import HotwordsTold
from serve_app.api.qwen.errors import InvalidMessage, InvalidState, TimedOut, close_code, failure
from serve_app.api.qwen.intake import Intake
from serve_app.api.qwen.narration import Narration
from serve_app.api.qwen.wire import Request, Start, Verb, parse_request, read_start, task_id_of
from serve_app.api.sockets import NORMAL, OutOfTime, Patience, close_socket, serve_socket
from serve_app.errors import AsrError, Internal, InvalidParameter
from serve_app.pipeline.live.session import LiveSession
from serve_app.services import Services

logger = logging.getLogger("ray.serve")


class QwenAsrConnection:
    """Speaks the protocol over an accepted socket."""

    def __init__(self, socket: WebSocket, services: Services) -> None:
        settings, live = services.settings, services.live
        self._socket = socket
        self._live = live
        self._backlog = Intake(settings.max_audio_bytes)
        self._patience = Patience(settings.live_idle_timeout_sec, settings.live_max_connection_sec, live)
        self._task_id = task_id_of(socket.query_params.get("task_id"))
        self._has_complained = False
        """Whether the client was told that its audio came too early."""

    async def run(self) -> None:
        """Serve the client until it goes, or has to; nothing of it is left afterwards."""
        cause = await serve_socket(self._socket, self._backlog, self._work())
        if cause is None:
            return
        if not isinstance(cause, AsrError):
            logger.error("a connection to Qwen3-ASR failed", exc_info=cause)
            cause = Internal("The server met an unexpected fault; its log holds the details.")
        await self.refuse(cause)

    async def refuse(self, error: AsrError) -> None:
        """Tell why there is nothing more to be had on this connection, and close it."""
        try:
            await self._send(failure(error, self._task_id))
            await close_socket(self._socket, close_code(error), error.message)
        except WebSocketDisconnect:
            logger.debug("the client of a connection left while it was being closed")

    async def _work(self) -> None:
        start = await self._start()
        async with self._live.open(start.options) as session:
            await self._send({"type": "started", "task_id": self._task_id, "params": start.told})
            await converse(session, self._hear(session, start), self._tell(session, start))
        await close_socket(self._socket, NORMAL, "The recognition is finished.")

    async def _start(self) -> Start:
        """What the first message asks for that can be taken."""
        while True:
            message = await self._receive()
            if isinstance(message, bytes):
                await self._complain_of_audio()
            elif message.verb is Verb.STOP:
                await self._complain(InvalidState("There is nothing to stop; send start first."))
            else:
                try:
                    return read_start(message.payload, self._live)
                except InvalidParameter as error:
                    await self._complain(error)

    async def _hear(self, session: LiveSession, start: Start) -> None:
        audio = LiveAudio(start.parameters.format, start.parameters.sample_rate)
        while True:
            message = await self._receive()
            if isinstance(message, bytes):
                for samples in audio.decoded(message):
                    await session.push(samples)
            elif message.verb is Verb.STOP:
                await session.push(audio.flush())
                await session.finish()
                return
            else:
                await self._complain(InvalidState("Recognition is under way; send stop to end it."))

    async def _tell(self, session: LiveSession, start: Start) -> None:
        narration = Narration(HotwordsTold(start.options))
        async for event in session.events():
            for message in narration.tell(event):
                await self._send({"type": message["type"], "task_id": self._task_id, **message})

    async def _receive(self) -> bytes | Request:
        """The next audio, or the next message that can be taken.

        Raises:
            TimedOut: nothing came for too long, or the connection has been there for too long.
        """
        while True:
            try:
                received = await self._patience.wait_for(self._backlog)
            except OutOfTime as error:
                raise TimedOut(str(error)) from error
            if isinstance(received, bytes):
                if received:
                    return received
                continue
            try:
                return parse_request(received)
            except InvalidMessage as error:
                await self._complain(error)

    async def _complain_of_audio(self) -> None:
        """Once: nobody wants to read it for each frame."""
        if not self._has_complained:
            self._has_complained = True
            await self._complain(InvalidState("Audio came before the start; send start first."))

    async def _complain(self, error: AsrError) -> None:
        """Send why a message could not be taken; everything goes on."""
        await self._send(failure(error, self._task_id))

    async def _send(self, message: dict[str, Any]) -> None:
        text = json.dumps(message, ensure_ascii=False)
        # An id may hold half a surrogate pair, which no message can carry.
        await self._socket.send_text(text.encode("utf-8", "replace").decode())
