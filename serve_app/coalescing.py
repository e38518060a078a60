"""Many small calls as a few larger ones."""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Request = TypeVar("Request")
Reply = TypeVar("Reply")


class Coalescer(Generic[Request, Reply]):
    """Sends requests of many callers in calls that begin at least ``spacing`` seconds apart.

    A request goes out at once if no call began within that time; otherwise it waits for the rest of it, and
    shares its call with all others that do. So a caller alone never waits, and the number of calls does not
    grow with that of callers.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Request]], Awaitable[Sequence[Reply | BaseException]]],
        *,
        max_items: int,
        max_calls: int,
        spacing: float,
    ) -> None:
        """``send`` gets requests and gives for each one its reply, or what its caller is to be raised.

        Args:
            max_items: most requests of one call; where more wait, several calls begin at once.
            max_calls: most calls under way.
        """
        self._send = send
        self._max_items = max_items
        self._spacing = spacing
        self._free = asyncio.Semaphore(max_calls)
        self._waiting: deque[tuple[Request, asyncio.Future[Reply]]] = deque()
        self._dispatcher: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[None]] = set()

    async def submit(self, request: Request) -> Reply:
        """The reply to one request; raises what its call, or the request itself, came to."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._dispatcher is None or self._dispatcher.done():
            # A context of its own: what is cancelled with one caller must not take the others along.
            self._dispatcher = asyncio.create_task(self._dispatch(), context=contextvars.Context())
        return await future

    async def _dispatch(self) -> None:
        while self._waiting:
            await self._free.acquire()
            call = asyncio.create_task(self._call(self._take()))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            if len(self._waiting) < self._max_items:
                await asyncio.sleep(self._spacing)

    async def _call(self, batch: Sequence[tuple[Request, "asyncio.Future[Reply]"]]) -> None:
        replies: Sequence[Reply | BaseException]
        try:
            replies = await self._send([request for request, _ in batch]) if batch else []
            if len(replies) != len(batch):
                raise RuntimeError(f"{len(batch)} requests gave {len(replies)} replies")
        except Exception as error:  # noqa: BLE001 - it is raised to every caller
            replies = [error] * len(batch)
        finally:
            self._free.release()
        for (_, future), reply in zip(batch, replies, strict=True):
            if future.done():
                continue
            if isinstance(reply, BaseException):
                future.set_exception(reply)
            else:
                future.set_result(reply)

    def _take(self) -> list[tuple[Request, "asyncio.Future[Reply]"]]:
        """The oldest requests whose callers still wait."""
        batch: list[tuple[Request, asyncio.Future[Reply]]] = []
        while self._waiting and len(batch) < self._max_items:
            entry = self._waiting.popleft()
            if not entry[1].done():
                batch.append(entry)
        return batch
