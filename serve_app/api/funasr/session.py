"""One WebSocket connection: it carries any number of utterances, one after another.

FunASR's protocol has one kind of result and no kind of error; what the clients need of them is in
``docs/funasr.md``. Two tasks work on a connection: one reads the socket at all times, the other works off
what was read, in its order.
"""

import json
import logging

from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_app.api.backlog import Backlog
from serve_app.api.funasr.replies import Reply, acknowledgement, failure, result
from serve_app.api.funasr.utterance import HangUp, Recognizers, Utterance
from serve_app.api.funasr.wire import ClientMessage, Config, parse_message
from serve_app.api.sockets import (
    FAULT,
    GOING_AWAY,
    NORMAL,
    POLICY_VIOLATION,
    TOO_BIG,
    TRY_AGAIN_LATER,
    OutOfTime,
    Patience,
    close_socket,
    serve_socket,
)
from serve_app.errors import AsrError, AudioTooLarge, Internal, InvalidAudio, Overloaded

logger = logging.getLogger("ray.serve")


class FunasrConnection:
    """Speaks the protocol over an accepted socket."""

    def __init__(self, socket: WebSocket, recognizers: Recognizers) -> None:
        self._socket = socket
        self._by = recognizers
        settings = recognizers.settings
        self._patience = Patience(
            settings.live_idle_timeout_sec, settings.live_max_connection_sec, recognizers.live
        )
        self._backlog = Backlog(settings.max_audio_bytes)
        self._is_hearing = False
        self._is_expecting = True
        """Whether an end message is to be answered although no audio came before it."""
        self.config = Config()
        self.owner = ""

    async def run(self, owner: str) -> None:
        """Serve the client until it goes, or has to; nothing of it is left afterwards.

        ``owner`` is its id (:class:`serve_app.api.access.Client`).
        """
        self.owner = owner
        cause = await serve_socket(self._socket, self._backlog, self._work())
        if cause is not None:
            await self._hang_up(cause)

    async def refuse(self, error: AsrError) -> None:
        """Tell why the client may not use the server, and close."""
        code = TRY_AGAIN_LATER if isinstance(error, Overloaded) else POLICY_VIOLATION
        await self._hang_up(HangUp(code, error.message, error))

    async def receive(self) -> bytes | ClientMessage:
        """The next audio or message that matters; raises :class:`HangUp` if nothing comes for too long."""
        while True:
            try:
                received = await self._patience.wait_for(self._backlog)
            except OutOfTime as error:
                raise self._idle(str(error)) from error
            if isinstance(received, bytes):
                if received:
                    return received
                continue
            message = parse_message(received)
            if message.is_known:
                return message

    def apply(self, message: ClientMessage) -> None:
        """Let a message change ``config``.

        Raises:
            InvalidParameter, ModelNotFound: it cannot be taken; ``config`` is as it was.
        """
        if message.error is not None:
            raise message.error
        config = self.config.merged(message.changes)
        self._by.defaults(config)
        self.config = config

    async def send(self, reply: Reply) -> None:
        """Send a reply, with what all replies carry."""
        reply = {**reply, "wav_name": self.config.wav_name}
        await self._socket.send_text(json.dumps(reply, ensure_ascii=False))

    async def _work(self) -> None:
        while True:
            message = await self.receive()
            if isinstance(message, bytes):
                await self._hear(message)
            else:
                await self._control(message)

    async def _control(self, message: ClientMessage) -> None:
        """Take a message outside of an utterance."""
        error: AsrError | None = None
        try:
            self.apply(message)
        except AsrError as fault:
            error = fault
            await self.send(failure(self.config.result_mode, fault))
        if not message.ends:
            self._is_expecting = self._is_expecting or error is None
            return
        if error is None and self._is_expecting:
            await self.send(result(self.config.result_mode, "", final=True))
        await self._end(message, error)

    async def _hear(self, first: bytes) -> None:
        """Recognize an utterance; after an error, pass over the rest of it."""
        utterance = Utterance(self, self._by, first)
        error: AsrError | None = None
        self._is_hearing = True
        try:
            await utterance.recognize()
        except AsrError as fault:
            error = fault
            await self.send(failure(self.config.result_mode, fault))
        finally:
            self._is_hearing = False
        end = utterance.end or await self._skip()
        if end is not None:
            await self._end(end, error)

    async def _skip(self) -> ClientMessage | None:
        """Pass over audio up to the message that ends it; ``None`` if the client begins anew instead."""
        while True:
            message = await self.receive()
            if isinstance(message, bytes):
                continue
            if message.ends:
                return message
            if message.error is None:
                await self._control(message)
                return None

    async def _end(self, message: ClientMessage, error: AsrError | None) -> None:
        self._is_expecting = False
        if message.acknowledge:
            await self.send(acknowledgement(self.config.mode or "offline", error))

    def _idle(self, reason: str) -> HangUp:
        if not self._is_hearing:
            return HangUp(NORMAL, reason)
        return HangUp(GOING_AWAY, reason, InvalidAudio(f"{reason} The utterance was never ended."))

    async def _hang_up(self, cause: BaseException) -> None:
        match cause:
            case HangUp():
                hang_up = cause
            case AudioTooLarge():
                hang_up = HangUp(TOO_BIG, cause.message, cause)
            case _:
                logger.error("a FunASR connection failed", exc_info=cause)
                fault = Internal("The server met an unexpected fault; its log holds the details.")
                hang_up = HangUp(FAULT, fault.message, fault)
        try:
            if hang_up.error is not None:
                await self.send(failure(self.config.result_mode, hang_up.error))
            await close_socket(self._socket, hang_up.code, hang_up.reason)
        except WebSocketDisconnect:
            logger.debug("the client of a FunASR connection left while it was being closed")
