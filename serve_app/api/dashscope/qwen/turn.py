"""One turn: audio up to where the client commits it, changes the session, or finishes."""

from typing import Protocol

from serve_app.api.dashscope.audio import LiveAudio, read_format
from serve_app.api.dashscope.conversing import converse
from serve_app.api.dashscope.errors import TimedOut
from serve_app.api.dashscope.qwen.narration import (
    Items,
    ManualNarration,
    Narration,
    SentenceNarration,
    failed,
)
from serve_app.api.dashscope.qwen.wire import Request, SessionConfig, Verb, failure
from serve_app.api.hotwords import HotwordsTold
from serve_app.errors import AsrError, Overloaded
from serve_app.live import LiveService
from serve_app.pipeline.live.events import LiveOptions
from serve_app.pipeline.live.session import LiveSession


class Conversation(Protocol):
    """The connection, as a turn sees it."""

    async def receive(self) -> bytes | Request:
        """The next audio, or the next request.

        Raises:
            TimedOut: nothing came for too long.
        """
        ...

    async def send(self, message: str) -> None:
        """Send an event."""
        ...


class Turn:
    """Recognizes one stretch of audio. Used once."""

    def __init__(
        self,
        conversation: Conversation,
        config: SessionConfig,
        options: LiveOptions,
        items: Items,
        offset: float,
    ) -> None:
        """``options``: how to listen for ``config``; ``offset``: seconds of audio before this turn."""
        self._talk = conversation
        self._options = options
        self._audio = LiveAudio(read_format(config.format), config.sample_rate)
        hotwords = HotwordsTold(options)
        self._manual = ManualNarration(items, config.language, hotwords) if config.manual else None
        self._narration: Narration = self._manual or SentenceNarration(
            items, config.language, offset, hotwords
        )
        self._is_cleared = False

    @property
    def seconds(self) -> float:
        """Audio of this turn up to now."""
        return self._audio.seconds

    async def run(self, live: LiveService, first: bytes) -> Request | None:
        """Tell all of a turn whose audio begins with ``first``.

        Returns:
            The request that ended it, or ``None`` if an error did, which was told.

        Raises:
            Overloaded: there are as many sessions as there may be.
            TimedOut: nothing came for too long; what had been said was told.
        """
        try:
            async with live.open(self._options) as session:
                request = await converse(session, self._hear(session, first), self._tell(session))
        except (Overloaded, TimedOut):
            raise
        except AsrError as error:
            item = self._narration.open_item
            await self._talk.send(failure(error) if item is None else failed(item, error))
            return None
        if self._manual is not None and not self._is_cleared:
            for message in self._manual.complete(self.seconds):
                await self._talk.send(message)
        return request

    async def _hear(self, session: LiveSession, data: bytes) -> Request:
        message: bytes | Request = data
        while isinstance(message, bytes):
            for samples in self._audio.decoded(message):
                await session.push(samples)
            message = await self._talk.receive()
        if message.verb is Verb.CLEAR:
            self._is_cleared = True
            await session.aclose()
            return message
        if self._manual is not None:
            for told in self._manual.commit():
                await self._talk.send(told)
        await session.push(self._audio.flush())
        await session.finish()
        return message

    async def _tell(self, session: LiveSession) -> None:
        async for event in session.events():
            if self._is_cleared:
                return
            for message in self._narration.tell(event):
                await self._talk.send(message)
