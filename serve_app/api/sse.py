"""Server-sent events, as an answer that proves that it is alive while nothing happens.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse
from starlette.types import Receive, Scope, Send

from serve_app.errors import AsrError, Internal

PING_SECONDS = 15.0
"""Proxies commonly cut a connection over which nothing came for a minute."""

_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""Some proxies collect an answer until it is whole unless they are told not to."""

ErrorEvent = Callable[[AsrError], bytes]
"""Gives an error as an event of one protocol."""

logger = logging.getLogger("ray.serve")


async def event_response(
    events: AsyncIterator[bytes],
    *,
    on_error: ErrorEvent | None = None,
    held: AsyncExitStack | None = None,
    wait: float = PING_SECONDS,
) -> StreamingResponse:
    """Answer with ``events``, each encoded by ``fastapi.sse.format_sse_event``.

    What goes wrong before the first event is raised here, where it can still become an answer with a
    status of its own; after ``wait`` seconds without one the answer begins all the same.

    Args:
        events: closed when the answer ends, or when its client is gone.
        on_error: how an error is told once the answer has begun, as its last event; without it, the
            connection just ends.
        held: what ``events`` works with, such as an upload; closed after ``events``, whatever happens.
    """
    pump = _Pump(events, on_error, held or AsyncExitStack())
    try:
        await pump.begin(wait)
    except BaseException:
        await pump.close()
        raise
    return _EventResponse(pump)


class _EventResponse(EventSourceResponse):
    """Closes its events when it ends. Their generator cannot do that: it does not even begin if the client
    was gone before the headers were sent, and nobody closes one that is left between two events."""

    def __init__(self, pump: "_Pump") -> None:
        super().__init__(pump.run(), headers=_HEADERS)
        self._pump = pump

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._pump.close()


class _Pump:
    def __init__(
        self, events: AsyncIterator[bytes], on_error: ErrorEvent | None, held: AsyncExitStack
    ) -> None:
        self._events = events
        self._on_error = on_error
        self._held = held
        self._next: asyncio.Task[bytes | None] | None = None
        self._closing: asyncio.Task[None] | None = None

    async def begin(self, wait: float) -> None:
        """Wait for the first event; raises what comes in its place."""
        if (step := await self._step(wait)) is not None:
            step.result()

    async def run(self) -> AsyncIterator[bytes]:
        try:
            while True:
                step = await self._step(PING_SECONDS)
                if step is None:
                    yield KEEPALIVE_COMMENT
                    continue
                self._next = None
                event = step.result()
                if event is None:
                    return
                yield event
        except Exception as error:
            if self._on_error is None:
                raise
            yield self._on_error(_told(error))

    async def close(self) -> None:
        """Stop what is under way and let go of what is held, even if the caller is cancelled meanwhile."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _step(self, seconds: float) -> "asyncio.Task[bytes | None] | None":
        """The step to the next event, or to the end, if it is done within ``seconds``."""
        if self._next is None:
            self._next = asyncio.create_task(self._advance())
        await asyncio.wait({self._next}, timeout=seconds)
        return self._next if self._next.done() else None

    async def _advance(self) -> bytes | None:
        return await anext(self._events, None)

    async def _close(self) -> None:
        async with self._held:
            if self._next is not None:
                self._next.cancel()
                await asyncio.gather(self._next, return_exceptions=True)
            close = getattr(self._events, "aclose", None)
            if close is not None:
                await close()


def _told(error: Exception) -> AsrError:
    if isinstance(error, AsrError):
        return error
    logger.error("unexpected fault in an answer that had begun", exc_info=error)
    return Internal("The server met an unexpected fault; its log holds the details.")
