"""One WebSocket connection: a session that can be reconfigured, and the audio that comes over it.

An error of a message is told and changes nothing. What ends a session of recognition is told, too, and the
next audio begins a new one. Only what ends the connection itself closes it.
"""

import json
import logging
import time
from collections.abc import Callable

from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_app.api.backlog import Backlog, Message
from serve_app.api.realtime import dialects, events
from serve_app.api.realtime.audio import InputAudio
from serve_app.api.realtime.config import Config
from serve_app.api.realtime.errors import EmptyCommit, Mistake, SessionExpired
from serve_app.api.realtime.events import Event
from serve_app.api.realtime.items import Conversation
from serve_app.api.realtime.messages import ClientEvent, Refused, parse_event
from serve_app.api.realtime.narration import CommittedItems, DetectedItems, Ending
from serve_app.api.realtime.speakers import Speakers
from serve_app.api.realtime.stretch import Stretch
from serve_app.api.sockets import (
    FAULT,
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
from serve_app.pipeline.live.events import LiveOptions
from serve_app.pipeline.live.session import LiveSession
from serve_app.services import Services

logger = logging.getLogger("ray.serve")

_LEAST_COMMIT_MS = 100
_MAX_TEXTS = 20_000
"""Events that may wait: several minutes of audio in events of 20 ms."""


class RealtimeConnection:
    """Speaks the protocol over an accepted socket. ``begin`` opens a live session, one at a time."""

    def __init__(
        self,
        socket: WebSocket,
        services: Services,
        config: Config,
        begin: Callable[[LiveOptions], LiveSession],
        speakers: Speakers,
        *,
        beta: bool,
    ) -> None:
        """Raises :class:`Mistake` if ``config`` cannot be served."""
        settings = services.settings
        self._socket = socket
        self._begin = begin
        self._live = services.live
        self._transcriber = services.transcriber
        self._conversation = Conversation(config, beta=beta)
        self._speakers = speakers
        self._conversation.options = self._options_of(config, dialects.GA_NAMES)
        self._backlog = Backlog(settings.max_audio_bytes, max_texts=_MAX_TEXTS)
        self._patience = Patience(
            settings.live_idle_timeout_sec, settings.live_max_connection_sec, services.live
        )
        self._shown = shown(services, settings.live_max_connection_sec)
        self._audio = InputAudio(config.format)
        self._stretch: Stretch | None = None
        self._offset = 0.0
        """How much audio there was before the stretch, in seconds."""
        self._has_complained = False
        """Whether the client was told that its binary frames are not read."""

    async def run(self) -> None:
        """Serve the client until it goes, or has to; nothing of it is left afterwards."""
        cause = await serve_socket(self._socket, self._backlog, self._work())
        if cause is None:
            return
        if not isinstance(cause, AsrError):
            logger.error("a realtime connection failed", exc_info=cause)
            cause = Internal("The server met an unexpected fault; its log holds the details.")
        await refuse(self._socket, cause)

    async def _work(self) -> None:
        try:
            await self._tell_session("created", beta=self._conversation.beta)
            while True:
                await self._take(await self._patience.wait_for(self._backlog))
        except OutOfTime as error:
            if self._stretch is not None and self._is_detecting:
                await self._end("other")
            raise SessionExpired(str(error)) from error
        finally:
            if self._stretch is not None:
                await self._stretch.abandon()

    async def _take(self, message: Message) -> None:
        if isinstance(message, bytes):
            if not self._has_complained:
                self._has_complained = True
                await self._complain(
                    Mistake(
                        "Binary messages are not read; send audio in base64 in input_audio_buffer.append.",
                        code="invalid_message",
                    )
                )
            return
        self._has_complained = False
        try:
            event = parse_event(message)
        except Refused as refused:
            await self._complain(refused.mistake, refused.event_id)
            return
        try:
            await self._apply(event)
        except AsrError as error:
            await self._complain(error, event.id)

    async def _apply(self, event: ClientEvent) -> None:
        match event.kind:
            case "input_audio_buffer.append":
                await self._append(event.audio)
            case "input_audio_buffer.commit":
                await self._commit()
            case "input_audio_buffer.clear":
                await self._clear()
            case kind:
                beta = kind.startswith("transcription_session")
                await self._update(event.session, beta=beta)
                await self._tell_session("updated", beta=beta)

    async def _append(self, data: bytes) -> None:
        if not data:
            return
        await self._leave_broken()
        stretch = self._stretch or self._begin_stretch()
        stretch.seconds += self._audio.seconds(data)
        try:
            for samples in self._audio.decoded(data):
                await stretch.push(samples)
        except InvalidAudio:
            self._audio = InputAudio(self._conversation.config.format)
            raise

    async def _commit(self) -> None:
        await self._leave_broken()
        if not self._has_enough:
            seconds = 0.0 if self._stretch is None else max(0.0, self._stretch.uncommitted)
            raise EmptyCommit(1000 * seconds, _LEAST_COMMIT_MS)
        await self._end("commit")

    async def _clear(self) -> None:
        if self._stretch is not None:
            if self._is_detecting:
                await self._end("clear")
            else:
                await self._leave()
        self._audio = InputAudio(self._conversation.config.format)
        await self._send(events.cleared())

    async def _update(self, session: object, *, beta: bool) -> None:
        """Raises :class:`Mistake`, and then nothing is changed."""
        names = dialects.BETA_NAMES if beta else dialects.GA_NAMES
        changes = dialects.beta_changes(session) if beta else dialects.ga_changes(session)
        config = dialects.updated(self._conversation.config, changes, names)
        await self._speakers.ask(config, names)
        options = self._options_of(config, names)
        detects = config.turn_detection is not None
        is_heard_anew = (
            options != self._conversation.options or config.format != self._conversation.config.format
        )
        if self._stretch is not None and is_heard_anew and (self._is_detecting or detects):
            if self._is_detecting or self._has_enough:
                await self._end("other")
            else:
                await self._leave()
        elif config.format != self._conversation.config.format:
            await self._flush()
            self._audio = InputAudio(config.format)
        if self._stretch is None:
            self._audio = InputAudio(config.format)
        self._conversation.config, self._conversation.options = config, options

    @property
    def _is_detecting(self) -> bool:
        return self._conversation.config.turn_detection is not None

    @property
    def _has_enough(self) -> bool:
        """Whether there is enough audio to commit."""
        return self._stretch is not None and round(1000 * self._stretch.uncommitted) >= _LEAST_COMMIT_MS

    def _options_of(self, config: Config, names: dict[str, str]) -> LiveOptions:
        speakers = self._speakers.options if config.diarizes else None
        return config.live_options(self._live, self._transcriber, names, speakers)

    def _begin_stretch(self) -> Stretch:
        options = self._conversation.options
        uncut = options.uncut_ms / 1000
        narration = (
            DetectedItems(self._conversation, self._offset, uncut)
            if self._is_detecting
            else CommittedItems(self._conversation, self._offset, uncut)
        )
        self._stretch = Stretch(self._begin(options), narration, self._send)
        return self._stretch

    async def _flush(self) -> None:
        """Hand on what the decoder still holds; the audio ends, or goes on in another format."""
        if self._stretch is not None:
            await self._stretch.push(self._audio.flush())

    async def _end(self, ending: Ending) -> None:
        """End the stretch and tell all of it, before anything else is done."""
        assert self._stretch is not None
        await self._flush()
        await self._stretch.end(ending)
        await self._leave()

    async def _leave_broken(self) -> None:
        """Go on after an error. Without detection it takes a commit, or a clear, to do so."""
        if self._stretch is not None and self._stretch.is_broken and self._is_detecting:
            await self._leave()

    async def _leave(self) -> None:
        """Forget the stretch."""
        assert self._stretch is not None
        stretch, self._stretch = self._stretch, None
        await stretch.abandon()
        self._offset += stretch.seconds
        self._audio = InputAudio(self._conversation.config.format)

    async def _tell_session(self, what: str, *, beta: bool) -> None:
        spelled = dialects.beta_session if beta else dialects.ga_session
        session = spelled(self._conversation.config, self._shown)
        # The beta's SDK knows no transcription_session.created.
        kind = f"{'transcription_session' if beta and what == 'updated' else 'session'}.{what}"
        await self._send(events.session_event(kind, session))

    async def _complain(self, error: AsrError, event_id: str | None = None) -> None:
        await self._send(events.error_event(error, event_id))

    async def _send(self, event: Event) -> None:
        await self._socket.send_text(json.dumps(event, ensure_ascii=False))


def shown(services: Services, seconds: float | None) -> dialects.Shown:
    """A new session, which can be had for ``seconds``, or for as long as one likes."""
    return dialects.Shown(
        id=events.new_id("sess"),
        model=services.live.models.default.id,
        silence_ms=services.live.defaults.max_sentence_silence_ms,
        expires_at=None if seconds is None else int(time.time() + seconds),
    )


async def refuse(socket: WebSocket, error: AsrError) -> None:
    """Tell why there is nothing more to be had on a connection, and close it."""
    try:
        await socket.send_text(json.dumps(events.error_event(error), ensure_ascii=False))
        await close_socket(socket, _close_code(error), error.message)
    except WebSocketDisconnect:
        logger.debug("the client of a realtime connection left while it was being closed")


def _close_code(error: AsrError) -> int:
    match error:
        case SessionExpired():
            return NORMAL
        case Overloaded():
            return TRY_AGAIN_LATER
        case AudioTooLarge():
            return TOO_BIG
        case Internal():
            return FAULT
    return POLICY_VIOLATION
