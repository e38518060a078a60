"""Small calls sent as a few larger ones: who shares a call, and that one caller's trouble stays its own."""

import asyncio
from collections.abc import Sequence

import pytest

from serve_app.coalescing import Coalescer


class Service:
    """Doubles numbers; keeps what each call brought. Calls go on while ``gate`` is open."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: Exception | None = None

    async def send(self, numbers: Sequence[int]) -> list[int | BaseException]:
        self.calls.append(list(numbers))
        await self.gate.wait()
        if self.fault:
            raise self.fault
        return [2 * number if number >= 0 else ValueError(number) for number in numbers]


def coalescer(service: Service, spacing: float, *, items: int = 8, calls: int = 8) -> Coalescer[int, int]:
    return Coalescer(service.send, max_items=items, max_calls=calls, spacing=spacing)


async def test_a_caller_alone_does_not_wait() -> None:
    service = Service()
    double = coalescer(service, spacing=3600)
    assert await asyncio.wait_for(double.submit(4), 10) == 8


async def test_those_who_come_soon_after_share_a_call() -> None:
    service = Service()
    double = coalescer(service, spacing=0.2)
    assert await double.submit(0) == 0
    assert await asyncio.gather(*map(double.submit, [1, 2, 3])) == [2, 4, 6]
    assert service.calls == [[0], [1, 2, 3]]


async def test_a_full_call_is_followed_by_the_next_at_once() -> None:
    service = Service()
    double = coalescer(service, spacing=3600, items=2)
    work = asyncio.gather(*map(double.submit, range(6)))
    assert await asyncio.wait_for(work, 10) == [0, 2, 4, 6, 8, 10]
    assert service.calls == [[0, 1], [2, 3], [4, 5]]


async def test_calls_do_not_wait_for_each_other_until_there_are_too_many() -> None:
    service = Service()
    service.gate.clear()
    double = coalescer(service, spacing=0, calls=2)
    tasks = []
    for number in range(4):
        tasks.append(asyncio.create_task(double.submit(number)))
        for _ in range(10):
            await asyncio.sleep(0)
    assert service.calls == [[0], [1]]
    service.gate.set()
    assert await asyncio.gather(*tasks) == [0, 2, 4, 6]
    assert service.calls == [[0], [1], [2, 3]]


async def test_one_bad_request_fails_alone() -> None:
    double = coalescer(Service(), spacing=0)
    results = await asyncio.gather(*map(double.submit, [1, -2, 3]), return_exceptions=True)
    assert (results[0], results[2]) == (2, 6)
    assert isinstance(results[1], ValueError)


async def test_a_call_that_fails_is_told_to_all_and_the_next_one_works() -> None:
    service = Service()
    service.fault = ConnectionError("lost")
    double = coalescer(service, spacing=0, calls=1)
    results = await asyncio.gather(*map(double.submit, [1, 2]), return_exceptions=True)
    assert results == [service.fault, service.fault]
    service.fault = None
    assert await double.submit(3) == 6


async def test_who_gives_up_is_not_sent_and_takes_nobody_along() -> None:
    service = Service()
    service.gate.clear()
    double = coalescer(service, spacing=0, calls=1)
    first, second = (asyncio.create_task(double.submit(number)) for number in (1, 2))
    await asyncio.sleep(0.01)
    third, fourth = (asyncio.create_task(double.submit(number)) for number in (3, 4))
    await asyncio.sleep(0.01)
    first.cancel()
    third.cancel()
    await asyncio.sleep(0.01)
    service.gate.set()
    assert [await second, await fourth] == [4, 8]
    assert service.calls == [[1, 2], [4]]


async def test_a_call_without_replies_is_an_error_and_no_hang() -> None:
    async def send(numbers: Sequence[int]) -> list[int | BaseException]:
        return []

    double = Coalescer(send, max_items=8, max_calls=8, spacing=0)
    with pytest.raises(RuntimeError, match="gave 0 replies"):
        await asyncio.wait_for(double.submit(1), 10)
