"""One WebSocket connection: it carries any number of utterances, one after another.

FunASR's protocol has one kind of result and no kind of error; what the clients need of them is in
``docs/funasr.md``. Two tasks work on a connection: one reads the socket at all times, the other works off
what was read, in its order.
"""

import asyncio
import json
import logging

from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_app.api.backlog import Backlog
from serve_app.api.funasr.replies import Reply, acknowledgement, failure, result
from serve_app.api.funasr.utterance import TOO_BIG, HangUp, Recognizers, Utterance
from serve_app.api.funasr.wire import ClientMessage, Config, parse_message
from serve_app.errors import AsrError, AudioTooLarge, Internal, InvalidAudio

logger = logging.getLogger("ray.serve")

NORMAL, GOING_AWAY, POLICY_VIOLATION, FAULT = 1000, 1001, 1008, 1011
_MAX_REASON = 123
"""Bytes that a WebSocket close frame has for its reason (RFC 6455, section 5.5)."""


class FunasrConnection:
    """Speaks the protocol over an accepted socket."""

    def __init__(self, socket: WebSocket, recognizers: Recognizers) -> None:
        self._socket = socket
        self._by = recognizers
        self._idle_seconds = recognizers.settings.live_idle_timeout_sec
        self._backlog = Backlog(recognizers.settings.max_audio_bytes)
        self._is_hearing = False
        self._is_expecting = True
        """Whether an end message is to be answered although no audio came before it."""
        self.config = Config()

    async def run(self) -> None:
        """Serve the client until it goes, or has to; nothing of it is left afterwards."""
        reader = asyncio.create_task(self._read())
        worker = asyncio.create_task(self._work())
        try:
            await asyncio.wait({reader, worker}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reader.cancel()
            worker.cancel()
            await asyncio.gather(reader, worker, return_exceptions=True)
            self._backlog.close()
        errors = [None if task.cancelled() else task.exception() for task in (reader, worker)]
        is_gone = not reader.cancelled() and errors[0] is None
        if not is_gone:
            await self._hang_up(errors[0] or errors[1])

    async def refuse(self, error: AsrError) -> None:
        """Tell why the client may not use the server, and close."""
        await self._hang_up(HangUp(POLICY_VIOLATION, error.message, error))

    async def receive(self) -> bytes | ClientMessage:
        """The next audio or message that matters; raises :class:`HangUp` if nothing comes for too long."""
        while True:
            try:
                async with asyncio.timeout(self._idle_seconds):
                    received = await self._backlog.get()
            except TimeoutError:
                raise self._idle() from None
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
            InvalidParameter: it cannot be taken; ``config`` is as it was.
        """
        if message.error is not None:
            raise message.error
        self.config = self.config.merged(message.changes)

    async def send(self, reply: Reply) -> None:
        """Send a reply, with what all replies carry."""
        reply = {**reply, "wav_name": self.config.wav_name}
        if self.config.hotwords and "text" in reply:
            reply["hotwords_applied"] = False
        await self._socket.send_text(json.dumps(reply, ensure_ascii=False))

    async def _read(self) -> None:
        """Keep what the client sends until it is gone. Raises :class:`AudioTooLarge`."""
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            data = message.get("bytes")
            await self._backlog.put(message.get("text") or "" if data is None else data)

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

    def _idle(self) -> HangUp:
        reason = f"Nothing came for {self._idle_seconds:g} seconds."
        if not self._is_hearing:
            return HangUp(NORMAL, reason)
        return HangUp(GOING_AWAY, reason, InvalidAudio(f"{reason} The utterance was never ended."))

    async def _hang_up(self, cause: BaseException | None) -> None:
        match cause:
            case WebSocketDisconnect():
                return
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
            reason = hang_up.reason.encode()[:_MAX_REASON].decode(errors="ignore")
            await self._socket.close(hang_up.code, reason)
        except WebSocketDisconnect:
            logger.debug("the client of a FunASR connection left while it was being closed")
