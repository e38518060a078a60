"""One live session of a connection: the audio up to a commit, a clear, or a change of how it is heard."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator

from starlette.websockets import WebSocketDisconnect

from deployments.messages import Pcm
from serve_app.api.realtime.events import Event
from serve_app.api.realtime.narration import Ending, Narration
from serve_app.errors import AsrError, Internal
from serve_app.pipeline.live.session import LiveSession

logger = logging.getLogger("ray.serve")

Send = Callable[[Event], Awaitable[None]]


class Stretch:
    """Feeds a session and sends what is told of it. Has to be ended, or abandoned."""

    def __init__(self, session: LiveSession, narration: Narration, send: Send) -> None:
        self._session = session
        self._narration = narration
        self._send = send
        # What one cause has to tell must not be mixed with what another one has.
        self._turn = asyncio.Lock()
        self._telling = asyncio.create_task(self._tell())
        self.seconds = 0.0
        """How much audio came, before it was decoded."""

    @property
    def uncommitted(self) -> float:
        """How much of the audio belongs to no item yet, in seconds."""
        return self.seconds - self._narration.committed_until

    @property
    def is_broken(self) -> bool:
        """Whether the session ended with an error, which was told."""
        return self._telling.done()

    async def push(self, samples: Pcm) -> None:
        """Take audio, unless the session is broken; waits while it is behind."""
        if self.is_broken:
            return
        try:
            await self._session.push(samples)
        except AsrError:
            # Who reads the events tells of it.
            await asyncio.wait({self._telling})

    async def end(self, ending: Ending) -> None:
        """No audio follows: tell all there is to tell of it, and close the session."""
        try:
            async with self._turn:
                await self._send_all(self._narration.end(ending))
            await self._session.finish()
            await asyncio.wait({self._telling})
        finally:
            await self.abandon()

    async def abandon(self) -> None:
        """Close the session; what was not told is not."""
        self._telling.cancel()
        await asyncio.gather(self._telling, return_exceptions=True)
        await self._session.aclose()

    async def _tell(self) -> None:
        try:
            await self._tell_all()
        except WebSocketDisconnect:
            logger.debug("the client of a realtime connection left")
        except Exception:
            logger.exception("a realtime connection could not tell its events")
            fault = Internal("The server met an unexpected fault; its log holds the details.")
            await self._send_all(self._narration.fail(fault))

    async def _tell_all(self) -> None:
        try:
            async for event in self._session.events():
                async with self._turn:
                    await self._send_all(self._narration.tell(event))
        except AsrError as error:
            async with self._turn:
                await self._send_all(self._narration.fail(error))

    async def _send_all(self, told: Iterator[Event]) -> None:
        for event in told:
            await self._send(event)
