"""Dynamic batching: what waits while a batch runs becomes the next batch.

A batch is formed at the moment in which the model is free, from the oldest waiting items, up to a budget.
Under light load an item runs at once and alone; under heavy load batches fill by themselves, so that no
artificial wait is needed. (``@serve.batch`` forms batches when items arrive and lets them queue ready-made
behind the running one; without a wait it therefore batches next to nothing, and with one it adds that
wait to every request.)

No Ray here: a queue can be tested, or used by the direct benchmark, by itself.
"""

import asyncio
import contextvars
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Generic, TypeVar

from deployments.load import LoadMeter, StageLoad, Visit

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger("ray.serve")


class Priority(IntEnum):
    """Who waits for an item; lower values go first."""

    LIVE = 0
    """A person who speaks."""
    REQUEST = 1
    """A client that holds its connection open."""
    BACKGROUND = 2
    """A job, which nobody watches."""


_BACKGROUND_PATIENCE = 6


@dataclass(frozen=True, slots=True)
class BatchReport:
    """How one batch went. All times in seconds; ``fill`` is the share of the budget that it used.

    ``traceparents``: the span to which each item belongs, ``None`` where nobody follows it.
    """

    items: int
    fill: float
    audio_seconds: float
    seconds: float
    waits: tuple[float, ...]
    traceparents: tuple[str | None, ...] = ()


@dataclass(slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    cost: float
    audio_seconds: float
    priority: Priority
    result: "asyncio.Future[Result]"
    visit: Visit
    traceparent: str | None
    since: float = field(default_factory=time.perf_counter)


class BatchQueue(Generic[Item, Result]):
    """Runs items through a blocking function in batches, on one thread of its own.

    One thread, because an engine uses all the CPUs of its replica by itself. ``budget``, ``max_items`` and
    ``wait_seconds`` may be changed at any time.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], list[Result]],
        budget: float,
        wait_seconds: float = 0.0,
        patience: float = 5.0,
        report: Callable[[BatchReport], None] = lambda report: None,
        max_items: int | None = None,
        *,
        live: bool = False,
        traceparent: Callable[[], str | None] = lambda: None,
    ) -> None:
        """``work`` gets a batch and returns one result per item, in order.

        Args:
            budget: most cost of one batch; an item that costs more runs alone.
            wait_seconds: how long a batch below its budget waits for more items.
            patience: seconds after which a request's item counts as live; background work counts as a
                request's after six times as long, and never for more.
            report: called after each batch, on the event loop.
            max_items: most items of one batch, whatever they cost; ``None``: any number.
            live: whether all items are of live sessions, whatever their priority.
            traceparent: tells to which span the item belongs that is being submitted.
        """
        self.budget = budget
        self.max_items = max_items
        self.wait_seconds = wait_seconds
        self._patience = patience
        self._work = work
        self._report = report
        self._is_live = live
        self._traceparent = traceparent
        self._meter = LoadMeter()
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._arrival = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._runner: asyncio.Task[None] | None = None

    async def submit(
        self,
        item: Item,
        cost: float = 1.0,
        audio_seconds: float = 0.0,
        *,
        priority: Priority = Priority.REQUEST,
    ) -> Result:
        """Run one item with whatever else waits; raise what its work raised.

        A batch holds items of one priority, the first one of which any wait; those that have waited long
        rise by one, so that none waits for ever. Cancelling the caller takes an item that still waits out of
        the queue.
        """
        loop = asyncio.get_running_loop()
        if self._runner is None or self._runner.done():
            # A context of its own: what it logs is not on behalf of whoever came first.
            self._runner = loop.create_task(self._run(), context=contextvars.Context())
        live = self._is_live or priority is Priority.LIVE
        with self._meter.visit(cost, audio_seconds, live=live) as visit:
            result = loop.create_future()
            entry = _Waiting[Item, Result](
                item, cost, audio_seconds, priority, result, visit, self._traceparent()
            )
            self._waiting.append(entry)
            self._arrival.set()
            return await entry.result

    def load(self) -> StageLoad:
        """What waits and runs, and how fast it went so far."""
        return self._meter.load()

    async def check(self) -> None:
        """Return once the thread has finished what it was given: hangs if it hangs."""
        await asyncio.get_running_loop().run_in_executor(self._thread, lambda: None)

    async def _run(self) -> None:
        while True:
            await self._arrival.wait()
            await self._linger()
            batch = self._take()
            if not batch:
                self._arrival.clear()
                continue
            await self._run_batch(batch)

    async def _linger(self) -> None:
        deadline = time.perf_counter() + self.wait_seconds
        while not self._is_full(len(self._waiting), sum(entry.cost for entry in self._waiting)):
            remaining = deadline - time.perf_counter()
            if remaining <= 0:
                return
            self._arrival.clear()
            try:
                await asyncio.wait_for(self._arrival.wait(), remaining)
            except TimeoutError:
                self._arrival.set()
                return

    def _is_full(self, items: int, cost: float) -> bool:
        return cost >= self.budget or (self.max_items is not None and items >= self.max_items)

    def _take(self) -> list[_Waiting[Item, Result]]:
        """The oldest item of the first priority, and all others of it that fit beside it."""
        batch: list[_Waiting[Item, Result]] = []
        kept: deque[_Waiting[Item, Result]] = deque()
        cost = 0.0
        waiting = [entry for entry in self._waiting if not entry.result.done()]
        priorities = [self._priority(entry) for entry in waiting]
        first = min(priorities, default=Priority.LIVE)
        for entry, priority in zip(waiting, priorities, strict=True):
            is_full = cost + entry.cost > self.budget or self._is_full(len(batch), 0.0)
            if (batch and is_full) or priority != first:
                kept.append(entry)
            else:
                batch.append(entry)
                cost += entry.cost
        self._waiting = kept
        return batch

    def _priority(self, entry: _Waiting[Item, Result]) -> Priority:
        if entry.priority is Priority.LIVE:
            return entry.priority
        background = entry.priority is Priority.BACKGROUND
        patience = self._patience * (_BACKGROUND_PATIENCE if background else 1)
        late = time.perf_counter() - entry.since > patience
        return Priority(entry.priority - 1) if late else entry.priority

    async def _run_batch(self, batch: list[_Waiting[Item, Result]]) -> None:
        items = [entry.item for entry in batch]
        began = time.perf_counter()
        with self._meter.working([entry.visit for entry in batch]):
            outcomes = await asyncio.get_running_loop().run_in_executor(
                self._thread, lambda: run_split(self._work, items)
            )
        seconds = time.perf_counter() - began
        for entry, outcome in zip(batch, outcomes, strict=True):
            if entry.result.done():
                continue
            if isinstance(outcome, Failed):
                entry.result.set_exception(outcome.error)
            else:
                entry.result.set_result(outcome)
        self._report(
            BatchReport(
                items=len(batch),
                fill=sum(entry.cost for entry in batch) / self.budget,
                audio_seconds=sum(entry.audio_seconds for entry in batch),
                seconds=seconds,
                waits=tuple(began - entry.since for entry in batch),
                traceparents=tuple(entry.traceparent for entry in batch),
            )
        )


@dataclass(frozen=True, slots=True)
class Failed:
    """What an item's work raised, while its batch mates did well."""

    error: Exception


def run_split(work: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]) -> list[Result | Failed]:
    """Run a batch; where it raises, run its halves, down to single items.

    One bad item then fails alone, and a batch that is too large for the memory gets through in parts.
    """
    try:
        results = work(items)
        if len(results) != len(items):
            raise RuntimeError(f"{len(items)} items gave {len(results)} results")
        return [*results]
    except Exception as error:
        if len(items) == 1:
            logger.exception("an item could not be processed")
            return [Failed(error)]
        logger.warning("a batch of %d failed; retrying in halves: %r", len(items), error)
        middle = len(items) // 2
        return run_split(work, items[:middle]) + run_split(work, items[middle:])
