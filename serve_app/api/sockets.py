"""What the live protocols do alike with a WebSocket."""

import asyncio
import json
import math
import time
from collections.abc import Coroutine
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from serve_app.api.backlog import Backlog, Message
from serve_app.errors import InvalidParameter
from serve_app.live import LiveService

NORMAL, GOING_AWAY, POLICY_VIOLATION, TOO_BIG, FAULT, TRY_AGAIN_LATER = 1000, 1001, 1008, 1009, 1011, 1013
"""WebSocket close codes (RFC 6455, section 7.4.1, and the registry that it founded)."""

_MAX_REASON = 123
"""Bytes that a close frame has for its reason (RFC 6455, section 5.5)."""


def json_object(text: str, longest: int) -> dict[str, Any]:
    """A text message that holds a JSON object, of at most ``longest`` characters.

    Raises:
        InvalidParameter: it holds something else, or is too long.
    """
    if len(text) > longest:
        raise InvalidParameter(f"The text message is longer than {longest} characters.")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"The text message is not JSON: it begins with {text[:40]!r}.") from error
    if not isinstance(message, dict):
        raise InvalidParameter(f"The text message must be a JSON object; it is {text[:40]!r}.")
    return message


class OutOfTime(Exception):
    """The client has been silent, or has been there, for as long as it may; the message says which."""


class Patience:
    """How long a connection may be silent, and how long it may be there in all. Seconds."""

    def __init__(self, idle: float, lifetime: float | None, live: LiveService) -> None:
        """``live`` ends it when the server stops."""
        self._idle = idle
        self._end = math.inf if lifetime is None else time.monotonic() + lifetime
        self._why = "The connection has been there for as long as this server holds one."
        self._timeout: asyncio.Timeout | None = None
        live.follow(self)

    def end(self) -> None:
        """The server stops: nothing more is waited for."""
        self._end, self._why = time.monotonic(), "The server is being stopped; please connect again."
        if self._timeout is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time())

    async def wait_for(self, backlog: Backlog) -> Message:
        """The next of what the client sent.

        Raises:
            OutOfTime: nothing came in time.
        """
        seconds, reason = self._idle, f"Nothing came for {self._idle:g} seconds."
        left = self._end - time.monotonic()
        if left < seconds:
            seconds, reason = left, self._why
        if seconds <= 0:
            # What waits already could be had without any time.
            raise OutOfTime(reason)
        try:
            async with asyncio.timeout(seconds) as self._timeout:
                return await backlog.get()
        except TimeoutError:
            raise OutOfTime(self._why if time.monotonic() >= self._end else reason) from None
        finally:
            self._timeout = None


async def serve_socket(
    socket: WebSocket, backlog: Backlog, work: Coroutine[Any, Any, None]
) -> BaseException | None:
    """Keep in ``backlog`` what an accepted socket brings, at all times, while ``work`` works it off.

    Ends with the client's leaving or with the work, and leaves neither a task nor anything in the backlog.

    Returns:
        Why the connection has to be closed: what ``work`` raised, or :class:`AudioTooLarge` if more waited
        than may. ``None`` if the client is gone.
    """
    reader = asyncio.create_task(_read(socket, backlog))
    worker = asyncio.create_task(work)
    try:
        await asyncio.wait({reader, worker}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        reader.cancel()
        worker.cancel()
        await asyncio.gather(reader, worker, return_exceptions=True)
        backlog.close()
    errors = [None if task.cancelled() else task.exception() for task in (reader, worker)]
    is_gone = not reader.cancelled() and errors[0] is None
    cause = errors[0] or errors[1]
    return None if is_gone or isinstance(cause, WebSocketDisconnect) else cause


async def close_socket(socket: WebSocket, code: int, reason: str) -> None:
    """Close with a reason, of which as much is sent as there is room for. Raises what sending raises."""
    await socket.close(code, reason.encode(errors="replace")[:_MAX_REASON].decode(errors="ignore"))


async def _read(socket: WebSocket, backlog: Backlog) -> None:
    """Keep what the client sends until it is gone. Raises :class:`AudioTooLarge`."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        data = message.get("bytes")
        await backlog.put(message.get("text") or "" if data is None else data)
