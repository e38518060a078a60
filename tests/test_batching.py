"""The batch queue: what is batched with what, and that one item's trouble stays its own."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from deployments.batching import BatchQueue, BatchReport, Priority


class Work:
    """Doubles numbers; holds each batch until told to go on, and remembers what was in it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.started = threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.started.set()
        assert self.go.wait(10)
        if any(item < 0 for item in items):
            raise ValueError(f"negative: {items}")
        return [2 * item for item in items]


async def submit_all(
    queue: BatchQueue[int, int], items: Sequence[int], cost: float = 1.0
) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(queue.submit(item, cost)) for item in items]
    await asyncio.sleep(0)
    return tasks


@pytest.fixture
def work() -> Work:
    return Work()


async def occupied(work: Work, queue: BatchQueue[int, int]) -> asyncio.Task[int]:
    """Keep the model busy with item 0, so that what is submitted next has to wait."""
    (task,) = await submit_all(queue, [0])
    await asyncio.to_thread(work.started.wait, 10)
    return task


async def test_what_waits_while_a_batch_runs_becomes_the_next_batch(work: Work) -> None:
    queue = BatchQueue(work, budget=8)
    first = await occupied(work, queue)
    rest = await submit_all(queue, [1, 2, 3])
    work.go.set()
    assert await asyncio.gather(first, *rest) == [0, 2, 4, 6]
    assert work.batches == [[0], [1, 2, 3]]


async def test_a_batch_keeps_to_its_budget_and_small_items_fill_it_up(work: Work) -> None:
    queue = BatchQueue(work, budget=10)
    tasks = [await occupied(work, queue)]
    for item, cost in ((1, 6), (2, 5), (3, 4), (4, 30), (5, 5)):
        tasks += await submit_all(queue, [item], cost)
    work.go.set()
    assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8, 10]
    assert work.batches == [[0], [1, 3], [2, 5], [4]]


async def test_the_budget_changes_while_it_runs(work: Work) -> None:
    queue = BatchQueue(work, budget=1)
    tasks = [await occupied(work, queue), *await submit_all(queue, [1, 2, 3])]
    queue.budget = 2
    work.go.set()
    await asyncio.gather(*tasks)
    assert work.batches == [[0], [1, 2], [3]]


async def test_a_batch_has_no_more_items_than_it_may(work: Work) -> None:
    queue = BatchQueue(work, budget=100, wait_seconds=30, max_items=2)
    tasks = await submit_all(queue, [0, 1])
    await asyncio.to_thread(work.started.wait, 10)
    tasks += await submit_all(queue, [2, 3, 4, 5])
    work.go.set()
    assert await asyncio.wait_for(asyncio.gather(*tasks), 10) == [0, 2, 4, 6, 8, 10]
    assert work.batches == [[0, 1], [2, 3], [4, 5]]


async def test_a_wait_collects_items_that_come_one_after_another(work: Work) -> None:
    work.go.set()
    queue = BatchQueue(work, budget=3, wait_seconds=30)
    tasks = await submit_all(queue, [1])
    await asyncio.sleep(0.05)
    tasks += await submit_all(queue, [2])
    await asyncio.sleep(0.05)
    assert work.batches == []
    tasks += await submit_all(queue, [3])
    assert await asyncio.wait_for(asyncio.gather(*tasks), 10) == [2, 4, 6]
    assert work.batches == [[1, 2, 3]]


async def test_one_bad_item_fails_alone(work: Work) -> None:
    queue = BatchQueue(work, budget=8)
    first = await occupied(work, queue)
    tasks = await submit_all(queue, [1, 2, -3, 4, 5])
    work.go.set()
    results = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert [r for r in results if isinstance(r, int)] == [0, 2, 4, 8, 10]
    assert isinstance(results[3], ValueError)
    assert str(results[3]) == "negative: [-3]"


async def test_a_cancelled_item_is_not_worked_on(work: Work) -> None:
    queue = BatchQueue(work, budget=8)
    first = await occupied(work, queue)
    gone, stays = await submit_all(queue, [1, 2])
    gone.cancel()
    await asyncio.sleep(0)
    work.go.set()
    assert (await first, await stays) == (0, 4)
    assert work.batches == [[0], [2]]


async def test_a_batch_with_too_few_results_is_an_error_and_no_hang() -> None:
    queue: BatchQueue[int, int] = BatchQueue(lambda items: [], budget=8)
    with pytest.raises(RuntimeError, match="gave 0 results"):
        await asyncio.wait_for(queue.submit(1), 10)


async def test_each_batch_is_reported(work: Work) -> None:
    reports: list[BatchReport] = []
    queue = BatchQueue(work, budget=8, report=reports.append)
    first = await occupied(work, queue)
    tasks = [asyncio.create_task(queue.submit(item, cost=2, audio_seconds=2)) for item in (1, 2)]
    await asyncio.sleep(0)
    work.go.set()
    await asyncio.gather(first, *tasks)
    await queue.check()
    assert [(r.items, r.fill, r.audio_seconds) for r in reports] == [(1, 1 / 8, 0), (2, 0.5, 4)]
    assert len(reports[1].waits) == 2


async def test_urgent_items_go_before_others_and_alone(work: Work) -> None:
    queue = BatchQueue(work, budget=8)
    first = await occupied(work, queue)
    rest = await submit_all(queue, [1, 2])
    urgent = asyncio.create_task(queue.submit(3, priority=Priority.LIVE))
    await asyncio.sleep(0)
    work.go.set()
    assert await asyncio.gather(first, *rest, urgent) == [0, 2, 4, 6]
    assert work.batches == [[0], [3], [1, 2]]


async def test_urgent_items_do_not_hold_others_up_for_ever(work: Work) -> None:
    queue = BatchQueue(work, budget=2, patience=0.0)
    first = await occupied(work, queue)
    rest = await submit_all(queue, [1])
    urgent = [asyncio.create_task(queue.submit(item, priority=Priority.LIVE)) for item in (2, 3)]
    await asyncio.sleep(0.01)
    work.go.set()
    await asyncio.gather(first, *rest, *urgent)
    assert work.batches == [[0], [1, 2], [3]]
