"""What a replica says of the work that it has."""

import asyncio
import threading

import pytest

from deployments.batching import BatchQueue, Priority
from deployments.load import LoadMeter, StageLoad


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_a_queue_tells_what_waits_and_what_runs() -> None:
    go, began = threading.Event(), threading.Event()

    def work(items: object) -> list[int]:
        began.set()
        go.wait(30)
        return [0]

    queue: BatchQueue[int, int] = BatchQueue(work, budget=1)
    first = asyncio.create_task(queue.submit(1, audio_seconds=7))
    await asyncio.to_thread(began.wait, 30)
    second = asyncio.create_task(queue.submit(2, audio_seconds=5))
    gone = asyncio.create_task(queue.submit(3, audio_seconds=100))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    load = queue.load()
    assert (load.waiting_items, load.waiting_audio_seconds) == (1, 5)
    assert (load.running_items, load.running_audio_seconds) == (1, 7)
    assert load.busy > 0
    go.set()
    await asyncio.gather(first, second)
    idle = queue.load()
    assert (idle.waiting_items, idle.running_items, idle.drain_seconds) == (0, 0, 0)
    assert idle.audio_per_busy_second > 0


def test_speed_gives_the_time_that_a_queue_needs() -> None:
    clock = Clock()
    meter = LoadMeter(clock)
    for _ in range(3):
        with meter.visit(20, 40, live=False) as visit, meter.working([visit]):
            clock.now += 2
    assert meter.load().audio_per_busy_second == pytest.approx(20, rel=0.05)
    with meter.visit(30, 60, live=False):
        clock.now += 1.5
        load = meter.load()
    assert load.drain_seconds == pytest.approx(3, rel=0.05)
    assert load.oldest_wait_seconds == 1.5
    assert load.busy == pytest.approx(0.6)


def test_an_engine_that_is_never_idle_has_a_speed() -> None:
    clock = Clock()
    meter = LoadMeter(clock)
    with meter.visit(10, 10, live=False) as long, meter.working([long]):
        for _ in range(5):
            with meter.visit(4, 8, live=True) as short, meter.working([short]):
                clock.now += 2
        load = meter.load()
        assert load.audio_per_busy_second == pytest.approx(4, rel=0.2)
        assert load.busy == 1
        clock.now += 20
        assert meter.load().busy == 1
    assert meter.load().running_items == 0


async def test_only_live_items_have_a_lag() -> None:
    for live, priority in ((False, Priority.REQUEST), (False, Priority.LIVE), (True, Priority.REQUEST)):
        queue: BatchQueue[int, int] = BatchQueue(list, budget=8, live=live)
        await queue.submit(1, priority=priority)
        assert (queue.load().lag_seconds > 0) is (live or priority is Priority.LIVE)


def test_lags_are_forgotten() -> None:
    clock = Clock()
    meter = LoadMeter(clock)
    with meter.visit(1, 1, live=True):
        clock.now += 3
    assert meter.load().lag_seconds == 3
    clock.now += 11
    assert meter.load() == StageLoad()


def test_a_replica_with_two_queues_has_the_work_of_both() -> None:
    one = StageLoad(waiting_items=1, waiting_audio_seconds=2, busy=0.2, lag_seconds=0.5, drain_seconds=1)
    two = StageLoad(waiting_items=3, busy=0.7, audio_per_busy_second=50, drain_seconds=2)
    both = StageLoad.of([one, two])
    assert both.waiting_items == 4
    assert (both.busy, both.lag_seconds, both.drain_seconds) == (0.7, 0.5, 3)
    assert both.audio_per_busy_second == 50
    assert both.numbers()["waiting_audio_seconds"] == 2.0
