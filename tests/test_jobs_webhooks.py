"""Webhooks of jobs: what is sent, how it is signed, how often it is tried."""

import asyncio
import base64
import functools
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path

import httpx
import pytest

from serve_app.errors import NotFound
from serve_app.jobs.outbox import Outbox
from serve_app.jobs.types import Job, JobSpec, JobStatus, Webhook
from serve_app.jobs.webhook import PAUSES, WebhookSender, event_body, signature
from tests.jobs_world import OWNER, JobsWorld, tones

URL = "https://example.com/hook?x=1"
SECRET = "whsec_" + base64.b64encode(b"a secret of the job").decode()


class Receiver:
    """Stands in for the other side; ``answers`` are given one after the other, then 204."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = [*answers]
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if self.answers else 204
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer, headers={"location": "https://example.com/elsewhere"})

    @property
    def ids(self) -> set[str]:
        return {request.headers["webhook-id"] for request in self.requests}


@pytest.fixture
def world(tmp_path: Path) -> JobsWorld:
    return JobsWorld.at(tmp_path)


@asynccontextmanager
async def sending(
    world: JobsWorld,
    receiver: Receiver,
    secret: str | None = None,
    pauses: tuple[float, ...] = (10, 100, 1000),
) -> AsyncIterator[None]:
    sender = WebhookSender(
        Outbox(world.database, world.clock),
        lambda: httpx.AsyncClient(transport=httpx.MockTransport(receiver)),
        secret,
        {None: event_body(lambda job: {"id": job.id}), "other": lambda job: {"other": job.status}},
        pauses,
        poll=0.01,
    )
    task = asyncio.create_task(sender.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def spec(secret: str | None = SECRET, **more: dict[str, str]) -> JobSpec:
    return JobSpec(webhook=Webhook(URL, secret), **more)  # type: ignore[arg-type]  # `extra` alone


async def ended(
    world: JobsWorld, status: JobStatus = JobStatus.CANCELED, order: JobSpec | None = None
) -> Job:
    order = order or spec()
    if status is JobStatus.CANCELED:
        job = await world.submit([1], order)
        return await world.jobs.cancel(OWNER, job.id)
    audio = tones([1]) if status is JobStatus.COMPLETED else BytesIO(b"no audio" * 100)
    job, _ = await world.jobs.submit(OWNER, order, audio)
    async with world.running():
        return await world.ended(job)


def verify(request: httpx.Request, key: bytes) -> None:
    """As the receiver does it: https://github.com/standard-webhooks/standard-webhooks."""
    signed = ".".join(
        (request.headers["webhook-id"], request.headers["webhook-timestamp"], request.content.decode())
    )
    expected = base64.b64encode(hmac.new(key, signed.encode(), hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == f"v1,{expected}"
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 60


def tried(world: JobsWorld, attempts: int) -> bool:
    """Whether the database knows what came of so many attempts."""
    with world.database.read() as connection:
        row = connection.exec_driver_sql("SELECT attempts, last_answer FROM asr_webhooks").one()
    return row.attempts == attempts and row.last_answer is not None


def test_the_signature_is_that_of_the_standard() -> None:
    # The vector that the libraries of Standard Webhooks test themselves with.
    assert (
        signature(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1614265330,
            b'{"test": 2432232314}',
        )
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELED])
async def test_each_end_is_told_once(world: JobsWorld, status: JobStatus) -> None:
    receiver = Receiver()
    job = await ended(world, status)
    assert job.status is status
    async with sending(world, receiver):
        await world.until(lambda: tried(world, 1))
        world.clock.ahead = 100_000
        await asyncio.sleep(0.2)
    (request,) = receiver.requests
    assert (request.method, str(request.url)) == ("POST", URL)
    assert request.headers["content-type"] == "application/json"
    body = json.loads(request.content)
    assert (body["type"], body["data"]) == (f"job.{status.value}", {"id": job.id})
    assert body["timestamp"].endswith("Z")
    verify(request, b"a secret of the job")


@pytest.mark.parametrize(
    ("of_job", "of_server", "key"),
    [("plain", None, b"plain"), (None, "the server's", b"the server's"), ("its own", "unused", b"its own")],
)
async def test_who_signs(world: JobsWorld, of_job: str | None, of_server: str | None, key: bytes) -> None:
    receiver = Receiver()
    await ended(world, order=spec(of_job))
    async with sending(world, receiver, of_server):
        await world.until(lambda: receiver.requests)
    verify(receiver.requests[0], key)


async def test_without_any_secret_it_is_not_signed(world: JobsWorld) -> None:
    receiver = Receiver()
    await ended(world, order=spec(None))
    async with sending(world, receiver):
        await world.until(lambda: receiver.requests)
    assert "webhook-signature" not in receiver.requests[0].headers


@pytest.mark.parametrize("trouble", [500, 404, 302, httpx.ConnectError("refused"), httpx.ReadTimeout("slow")])
async def test_trouble_is_tried_again_later_also_by_another_process(
    world: JobsWorld, trouble: int | Exception
) -> None:
    receiver = Receiver(trouble, trouble)
    await ended(world)
    async with sending(world, receiver):
        await world.until(lambda: tried(world, 1))
        await asyncio.sleep(0.1)
        assert len(receiver.requests) == 1
    async with sending(world, receiver):
        world.clock.ahead = 13
        await world.until(lambda: tried(world, 2))
        assert len(receiver.requests) == 2
    world.clock.ahead += 50
    async with sending(world, receiver):
        await asyncio.sleep(0.1)
        assert len(receiver.requests) == 2
        world.clock.ahead += 100
        await world.until(lambda: tried(world, 3))
        world.clock.ahead += 100_000
        await asyncio.sleep(0.1)
    assert len(receiver.requests) == 3
    assert len(receiver.ids) == 1
    for request in receiver.requests:
        verify(request, b"a secret of the job")


@pytest.mark.parametrize(("answers", "attempts"), [((500,) * 9, 4), ((410,), 1), ((500, 410), 2)])
async def test_when_it_is_given_up(world: JobsWorld, answers: tuple[int, ...], attempts: int) -> None:
    receiver = Receiver(*answers)
    await ended(world)
    async with sending(world, receiver):
        for number in range(1, attempts + 1):
            await world.until(functools.partial(tried, world, number))
            assert len(receiver.requests) == number
            world.clock.ahead += 2000
        await asyncio.sleep(0.1)
    assert len(receiver.requests) == attempts


def test_the_attempts_go_on_for_hours() -> None:
    assert [*PAUSES] == sorted(PAUSES)
    assert sum(PAUSES) > 12 * 3600


async def test_a_sender_that_died_over_it_is_followed_by_another(world: JobsWorld) -> None:
    receiver = Receiver()
    await ended(world)
    dead = Outbox(world.database, world.clock)
    assert len(await asyncio.to_thread(dead.claim, 10, 60)) == 1
    async with sending(world, receiver):
        await asyncio.sleep(0.1)
        assert not receiver.requests
        world.clock.ahead = 61
        await world.until(lambda: receiver.requests)


async def test_several_senders_send_each_once(world: JobsWorld) -> None:
    receiver = Receiver()
    for _ in range(10):
        await ended(world)
    async with sending(world, receiver), sending(world, receiver), sending(world, receiver):
        await world.until(lambda: len(receiver.ids) == 10)
        await asyncio.sleep(0.1)
    assert len(receiver.requests) == 10


async def test_other_apis_have_bodies_of_their_own(world: JobsWorld) -> None:
    receiver = Receiver()
    await ended(world, order=spec(extra={"callback": "other"}))
    async with sending(world, receiver):
        await world.until(lambda: receiver.requests)
    assert json.loads(receiver.requests[0].content) == {"other": "canceled"}


async def test_a_deleted_job_is_told_to_nobody(world: JobsWorld) -> None:
    receiver = Receiver()
    job = await world.submit([1], spec())
    await world.jobs.delete(OWNER, job.id)
    async with sending(world, receiver):
        await asyncio.sleep(0.1)
    assert not receiver.requests
    with pytest.raises(NotFound):
        await world.jobs.get(OWNER, job.id)
