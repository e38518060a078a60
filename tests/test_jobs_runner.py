"""The worker of jobs: what it does once, what it does again, and what it leaves to others."""

import asyncio
import os
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from sqlalchemy import func, select

from deployments.messages import Priority
from serve_app.errors import NotFound, Overloaded, UpstreamLost
from serve_app.jobs import schema
from serve_app.jobs.queue import JobQueue
from serve_app.jobs.types import JobSpec, JobStatus
from serve_app.transcriber import TranscriptionOptions
from tests.jobs_world import FAST, OWNER, JobsWorld, JumpingClock, tones
from tests.test_file_pipeline import characters

LEVELS = [*range(1, 13)]


@pytest.fixture
def world(tmp_path: Path) -> JobsWorld:
    return JobsWorld.at(tmp_path)


async def test_a_job_runs_behind_all_others_and_tells_how_far_it_is(world: JobsWorld) -> None:
    job = await world.submit(LEVELS)
    assert (job.status, job.seconds_total) == (JobStatus.QUEUED, None)
    async with world.running(segments_in_flight=1):
        states = [state async for state in world.jobs.watch(OWNER, job.id)]
        await world.until(lambda: not world.spool.has(job.id))
    assert await world.text(job) == characters(LEVELS)
    assert world.graph.priorities == {Priority.BACKGROUND}
    done = [state.seconds_done for state in states]
    assert done == sorted(done)
    last = states[-1]
    assert last.seconds_done == last.seconds_total == pytest.approx(len(LEVELS) * 4.5)
    assert last.started_at is not None
    assert last.finished_at is not None
    assert last.expires_at is not None
    assert last.created_at <= last.started_at <= last.finished_at < last.expires_at


async def test_the_partial_result_grows_from_the_begin(world: JobsWorld) -> None:
    job = await world.submit(LEVELS)
    async with world.running(segments_in_flight=1):
        seen = ""
        async for _ in world.jobs.watch(OWNER, job.id):
            for transcript in await world.jobs.transcripts(OWNER, job.id):
                now = "".join(word.text for word in transcript.words)
                assert now.startswith(seen)
                seen = now
    assert seen == characters(LEVELS)


@pytest.mark.parametrize("in_flight", [1, 4])
async def test_killed_after_any_result_it_goes_on_behind_it(tmp_path: Path, in_flight: int) -> None:
    undisturbed = JobsWorld.at(tmp_path / "undisturbed")
    job = await undisturbed.submit(LEVELS)
    async with undisturbed.running(segments_in_flight=in_flight):
        await undisturbed.ended(job)
    (whole,) = await undisturbed.jobs.transcripts(OWNER, job.id)
    for results in range(1, len(LEVELS) + 1):
        world = JobsWorld.at(tmp_path / str(results))
        job = await world.submit(LEVELS)
        doomed = world.queue(JumpingClock())
        doomed.saves = results
        async with world.running(doomed, segments_in_flight=in_flight):
            await asyncio.wait_for(doomed.died.wait(), 20)
        kept = await rows(world, job.id)
        assert kept >= results
        in_first = world.graph.recognized.copy()
        world.clock.ahead = 61
        async with world.running(segments_in_flight=in_flight):
            ended = await world.ended(job)
        assert (ended.status, ended.attempts) == (JobStatus.COMPLETED, 2)
        assert await world.jobs.transcripts(OWNER, job.id) == (whole,)
        second = world.graph.recognized - in_first
        assert sum(second.values()) == len(LEVELS) - kept


async def rows(world: JobsWorld, job_id: str) -> int:
    with world.database.read() as connection:
        query = select(func.count()).where(schema.checkpoints.c.job_id == job_id)
        return connection.execute(query).scalar_one()


async def test_nobody_else_takes_a_job_whose_worker_lives(world: JobsWorld) -> None:
    world.graph.gate.clear()
    job = await world.submit(LEVELS)
    timing = replace(FAST, lease=0.3)
    async with world.running(timing=timing), world.running(timing=timing):
        await asyncio.sleep(1)
        assert (await world.jobs.get(OWNER, job.id)).attempts == 1
        world.graph.gate.set()
        assert await world.text(job) == characters(LEVELS)
    assert set(world.graph.recognized.values()) == {1}


async def test_a_worker_that_was_away_too_long_changes_nothing_any_more(world: JobsWorld) -> None:
    job = await world.submit(LEVELS)
    world.graph.gate.clear()
    sleepy = replace(FAST, renew=60, poll=60)
    async with world.running(timing=sleepy):
        await world.until(lambda: world.graph.priorities)
        world.clock.ahead = 61
        async with world.running():
            await world.until(lambda: second_attempt(world, job.id))
            world.graph.gate.set()
            assert await world.text(job) == characters(LEVELS)
    ended = await world.jobs.get(OWNER, job.id)
    assert ended.attempts == 2


def second_attempt(world: JobsWorld, job_id: str) -> bool:
    with world.database.read() as connection:
        query = select(schema.jobs.c.attempts).where(schema.jobs.c.id == job_id)
        return bool(connection.execute(query).scalar_one() == 2)


async def test_a_worker_that_is_asked_to_stop_leaves_its_jobs_to_others_at_once(world: JobsWorld) -> None:
    world.graph.gate.clear()
    job = await world.submit(LEVELS)
    async with world.running():
        await world.until(lambda: world.graph.priorities)
    assert (await world.jobs.get(OWNER, job.id)).status is JobStatus.QUEUED
    world.graph.gate.set()
    async with world.running():
        assert await world.text(job) == characters(LEVELS)


async def test_a_canceled_job_stops_while_it_runs(world: JobsWorld) -> None:
    world.graph.gate.clear()
    job = await world.submit(LEVELS)
    async with world.running():
        await world.until(lambda: world.graph.priorities)
        canceled = await world.jobs.cancel(OWNER, job.id)
        assert canceled.status is JobStatus.CANCELED
        assert canceled.finished_at is not None
        world.graph.gate.set()
        other = await world.submit([20])
        assert await world.text(other) == characters([20])
    assert (await world.jobs.get(OWNER, job.id)) == canceled
    assert not world.spool.has(job.id)
    assert (await world.jobs.cancel(OWNER, other.id)).status is JobStatus.COMPLETED


async def test_the_work_on_a_canceled_job_ends(world: JobsWorld) -> None:
    world.graph.delay = 60
    job = await world.submit(LEVELS)
    async with world.running():
        await world.until(lambda: world.graph.running)
        await world.jobs.cancel(OWNER, job.id)
        await world.until(lambda: world.graph.running == 0)


async def test_a_deleted_job_is_gone_with_all_of_it(world: JobsWorld) -> None:
    world.graph.delay = 60
    job = await world.submit(LEVELS)
    async with world.running():
        await world.until(lambda: world.graph.running)
        await world.jobs.delete(OWNER, job.id)
        await world.until(lambda: world.graph.running == 0)
        with pytest.raises(NotFound):
            await world.jobs.get(OWNER, job.id)
    assert list((world.directory / "data" / "jobs").iterdir()) == []


@pytest.mark.parametrize(
    "fault", [UpstreamLost("The model was lost."), Overloaded("Busy.", 1), RuntimeError("odd")]
)
async def test_what_passes_is_tried_again(world: JobsWorld, fault: Exception) -> None:
    world.graph.faults = [fault] * 2
    job = await world.submit(LEVELS)
    async with world.running(segments_in_flight=1):
        assert await world.text(job) == characters(LEVELS)
    assert (await world.jobs.get(OWNER, job.id)).attempts > 1
    assert world.graph.faults == []


@pytest.mark.parametrize(
    ("fault", "attempts", "code"),
    [
        (UpstreamLost("The model was lost."), FAST.failures, "model_unavailable"),
        (RuntimeError("secret detail"), FAST.faults, "internal_error"),
    ],
)
async def test_what_does_not_pass_ends_the_job(
    world: JobsWorld, fault: Exception, attempts: int, code: str
) -> None:
    world.graph.faults = [fault] * 100
    job = await world.submit(LEVELS)
    async with world.running(segments_in_flight=1):
        ended = await world.ended(job)
    assert (ended.status, ended.attempts) == (JobStatus.FAILED, attempts)
    assert ended.error is not None
    assert ended.error.code == code
    assert "secret" not in ended.error.message


async def test_a_job_that_takes_its_worker_with_it_is_given_up(world: JobsWorld) -> None:
    job = await world.submit(LEVELS)
    for _ in range(FAST.failures):
        assert await asyncio.to_thread(world.queue().claim, "a worker that dies", 60) is not None
        world.clock.ahead += 61
    async with world.running():
        ended = await world.ended(job)
    assert ended.status is JobStatus.FAILED
    assert ended.error is not None
    assert "interrupted" in ended.error.message
    assert not world.graph.recognized


async def test_bad_audio_fails_at_once_and_says_why(world: JobsWorld) -> None:
    job, _ = await world.jobs.submit(OWNER, JobSpec(), BytesIO(b"this is no audio at all" * 100))
    async with world.running():
        ended = await world.ended(job)
        await world.until(lambda: not world.spool.has(job.id))
    assert (ended.status, ended.attempts) == (JobStatus.FAILED, 1)
    assert ended.error is not None
    assert ended.error.code in ("invalid_audio", "unsupported_format")


async def test_a_url_that_may_not_be_fetched_fails_the_job(world: JobsWorld) -> None:
    job, _ = await world.jobs.submit(OWNER, JobSpec(url="http://127.0.0.1:9/a.wav"))
    async with world.running():
        ended = await world.ended(job)
    assert ended.error is not None
    assert ended.error.code == "download_failed"


async def test_a_server_that_has_a_bad_moment_is_asked_again(tmp_path: Path) -> None:
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        body = b"" if asked == 1 else tones(LEVELS).read()
        status = "503 Busy" if asked == 1 else "200 OK"
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    world = JobsWorld.at(tmp_path, allow_private_urls="127.0.0.1")
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        job, _ = await world.jobs.submit(OWNER, JobSpec(url=f"http://127.0.0.1:{port}/a.wav"))
        async with world.running():
            assert await world.text(job) == characters(LEVELS)
    assert asked == 2


async def test_split_channels_are_transcribed_one_by_one(world: JobsWorld) -> None:
    left, right = [1, 2, 3, 4], [5, 6, 7, 8]
    spec = JobSpec(split_channels=True)
    first_only = JobSpec(split_channels=True, first_channel_only=True)
    picked = JobSpec(options=TranscriptionOptions(channel=1))
    jobs = [
        (await world.jobs.submit(OWNER, item, tones(left, right)))[0] for item in (spec, first_only, picked)
    ]
    async with world.running():
        texts = [await world.text(job) for job in jobs]
    assert texts == [f"{characters(left)}|{characters(right)}", characters(left), characters(right)]
    ended = await world.jobs.get(OWNER, jobs[0].id)
    assert ended.seconds_done == ended.seconds_total == pytest.approx(2 * 4 * 4.5)


async def test_killed_in_the_second_channel_it_goes_on_there(world: JobsWorld) -> None:
    left, right = [1, 2, 3, 4], [5, 6, 7, 8]
    spec = JobSpec(split_channels=True)
    job, _ = await world.jobs.submit(OWNER, spec, tones(left, right))
    doomed = world.queue(JumpingClock())
    doomed.saves = 6
    async with world.running(doomed, segments_in_flight=1):
        await asyncio.wait_for(doomed.died.wait(), 20)
    before = world.graph.recognized.copy()
    kept = await rows(world, job.id)
    assert kept >= 6
    world.clock.ahead = 61
    async with world.running():
        assert await world.text(job) == f"{characters(left)}|{characters(right)}"
    again = world.graph.recognized - before
    assert sum(again.values()) == 8 - kept
    assert set(again) <= set(right)


async def test_no_more_jobs_run_at_once_than_may(world: JobsWorld) -> None:
    world.graph.gate.clear()
    for level in range(1, 6):
        await world.submit([level])
    async with world.running(max_running=2) as runner:
        await asyncio.sleep(0.3)
        running = await world.jobs.list(OWNER, status=JobStatus.RUNNING)
        assert len(running) == 2
        runner.max_running = 4
        runner.wake()
        await asyncio.sleep(0.3)
        assert len(await world.jobs.list(OWNER, status=JobStatus.RUNNING)) == 4
        world.graph.gate.set()


async def test_what_has_expired_is_removed_and_what_nobody_needs(tmp_path: Path) -> None:
    world = JobsWorld.at(tmp_path, job_retention_hours=1)
    stray = tmp_path / "data" / "jobs" / "job_stray"
    stray.mkdir(parents=True)
    os.utime(stray, (0, 0))
    async with world.running(timing=replace(FAST, clean=0.02)):
        job = await world.submit([1])
        await world.text(job)
        await world.until(lambda: not stray.exists())
        world.clock.ahead = 3500
        await asyncio.sleep(0.2)
        await world.jobs.get(OWNER, job.id)
        world.clock.ahead = 3700
        await world.until(lambda: not count(world))
    with pytest.raises(NotFound):
        await world.jobs.get(OWNER, job.id)


async def test_the_recording_of_a_job_that_waits_is_never_removed(world: JobsWorld) -> None:
    world.graph.gate.clear()
    jobs = [await world.submit([level]) for level in range(1, 6)]
    async with world.running(timing=replace(FAST, clean=0.02, abandoned=-1), max_running=1):
        await asyncio.sleep(0.3)
        assert all(world.spool.has(job.id) for job in jobs)
        world.graph.gate.set()
        for job in jobs:
            await world.text(job)


def count(world: JobsWorld) -> int:
    with world.database.read() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM asr_jobs").scalar_one())


async def test_a_database_that_is_away_for_a_while_stops_nothing_for_good(world: JobsWorld) -> None:
    job = await world.submit(LEVELS)
    queue = world.queue()
    queue.dead = True
    async with world.running(queue):
        await asyncio.sleep(0.2)
        queue.dead = False
        assert await world.text(job) == characters(LEVELS)


async def test_two_workers_share_what_there_is(world: JobsWorld) -> None:
    jobs = [await world.submit([level, level + 10]) for level in range(1, 11)]
    other = JobQueue(world.database, 1000, world.clock)
    async with world.running(max_running=2), world.running(other, max_running=2):
        for level, job in enumerate(jobs, 1):
            assert await world.text(job) == characters([level, level + 10])
    assert set(world.graph.recognized.values()) == {1}
