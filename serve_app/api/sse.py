"""Server-sent events, as an answer that proves that it is alive while nothing happens.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

import asyncio
from collections.abc import AsyncIterator

from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse

PING_SECONDS = 15.0
"""Proxies commonly cut a connection over which nothing came for a minute."""

_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""Some proxies collect an answer until it is whole unless they are told not to."""


async def event_response(events: AsyncIterator[bytes], *, wait: float = PING_SECONDS) -> StreamingResponse:
    """Answer with ``events``, each encoded by ``fastapi.sse.format_sse_event``.

    What goes wrong before the first event is raised here, where it can still become an answer with a
    status of its own; after ``wait`` seconds without one the answer begins all the same. Later errors are
    the iterator's to tell, as an event.
    """
    pump = _Pump(events)
    await pump.begin(wait)
    return EventSourceResponse(pump.run(), headers=_HEADERS)


class _Pump:
    def __init__(self, events: AsyncIterator[bytes]) -> None:
        self._events = events
        self._next: asyncio.Task[bytes | None] | None = None

    async def begin(self, wait: float) -> None:
        try:
            if await self._within(wait):
                assert self._next is not None
                self._next.result()
        except BaseException:
            await self._close()
            raise

    async def run(self) -> AsyncIterator[bytes]:
        try:
            while True:
                if not await self._within(PING_SECONDS):
                    yield KEEPALIVE_COMMENT
                    continue
                assert self._next is not None
                event, self._next = await self._next, None
                if event is None:
                    return
                yield event
        finally:
            await self._close()

    async def _within(self, seconds: float) -> bool:
        """Whether the next event, or the end, is there within ``seconds``."""
        if self._next is None:
            self._next = asyncio.create_task(self._advance())
        done, _ = await asyncio.wait({self._next}, timeout=seconds)
        return bool(done)

    async def _advance(self) -> bytes | None:
        return await anext(self._events, None)

    async def _close(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        close = getattr(self._events, "aclose", None)
        if close is not None:
            await close()
