"""Jobs in which speakers are told apart: what is kept, and that a worker's end changes nothing of it."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.jobs.lease import Lease, Progress
from serve_app.jobs.store import JobStore
from serve_app.jobs.types import Job, JobError, JobSpec, JobStatus
from serve_app.pipeline.speakers.types import SpeakerOptions
from serve_app.pipeline.types import Sentence, Transcript
from serve_app.transcriber import TranscriptionOptions
from tests.jobs_world import OWNER, JobsWorld, JumpingClock, MortalQueue, tones
from tests.test_file_pipeline import characters
from tests.test_file_speakers import said

LEVELS = [1, 2, 11, 12, 3, 13, 4, 5]
"""Those up to 10 are one voice, the others another; each is a segment of its own."""

TOLD_APART = JobSpec(options=TranscriptionOptions(speakers=SpeakerOptions()))
BY_CHANNEL = JobSpec(options=TranscriptionOptions(speakers=SpeakerOptions(by_channel=True)))
ONE, TWO = "说话人1", "说话人2"


@pytest.fixture
def world(tmp_path: Path) -> JobsWorld:
    return JobsWorld.at(tmp_path)


async def result(world: JobsWorld, job: Job) -> tuple[Transcript, ...]:
    ended = await world.ended(job)
    assert ended.status is JobStatus.COMPLETED, ended.error
    return await world.jobs.transcripts(OWNER, job.id)


async def submitted(world: JobsWorld, spec: JobSpec, *channels: Sequence[int]) -> Job:
    job, _ = await world.jobs.submit(OWNER, spec, tones(*channels))
    return job


async def test_the_result_has_speakers_and_what_comes_before_has_none(world: JobsWorld) -> None:
    job = await submitted(world, TOLD_APART, LEVELS)
    plain = await submitted(world, JobSpec(), LEVELS)
    world.graph.gate.clear()
    async with world.running(segments_in_flight=1, max_running=1):
        while len(said(await so_far(world, job))) == 0:
            world.graph.gate.set()
            await asyncio.sleep(0)
            world.graph.gate.clear()
            await asyncio.sleep(0.02)
        assert {sentence.speaker for sentence in await so_far(world, job)} == {None}
        world.graph.gate.set()
        (transcript,) = await result(world, job)
        (without,) = await result(world, plain)
    assert said(transcript.sentences) == [
        (ONE, characters([1, 2])),
        (TWO, characters([11, 12])),
        (ONE, characters([3])),
        (TWO, characters([13])),
        (ONE, characters([4, 5])),
    ]
    assert transcript.text == without.text
    assert {sentence.speaker for sentence in without.sentences} == {None}


async def so_far(world: JobsWorld, job: Job) -> list[Sentence]:
    return [each for part in await world.jobs.transcripts(OWNER, job.id) for each in part.sentences]


class LateQueue(MortalQueue):
    """Dies after all was kept, before the job has ended."""

    def finish(self, lease: Lease, error: JobError | None = None) -> None:
        self.dead = True
        self.loop.call_soon_threadsafe(self.died.set)
        self._live()


@pytest.mark.parametrize("spec", [TOLD_APART, BY_CHANNEL], ids=["voices", "channels"])
async def test_killed_at_any_time_a_job_comes_to_the_same_speakers(tmp_path: Path, spec: JobSpec) -> None:
    channels = [LEVELS] if spec is TOLD_APART else [LEVELS[:4], LEVELS[4:]]
    undisturbed = JobsWorld.at(tmp_path / "undisturbed")
    job = await submitted(undisturbed, spec, *channels)
    async with undisturbed.running(segments_in_flight=2):
        whole = await result(undisturbed, job)
    assert len(whole) == 1
    assert {label for label, _ in said(whole[0].sentences)} == {ONE, TWO}
    for results in (1, 3, 5, len(LEVELS), None):
        world = JobsWorld.at(tmp_path / str(results))
        job = await submitted(world, spec, *channels)
        doomed = mortal(world, results)
        async with world.running(doomed, segments_in_flight=2):
            await asyncio.wait_for(doomed.died.wait(), 20)
        in_first = sum(world.graph.recognized.values())
        if results is None:
            assert await world.jobs.transcripts(OWNER, job.id) == whole
        world.clock.ahead = 61
        async with world.running(segments_in_flight=2):
            assert await result(world, job) == whole
        if results is None:
            assert sum(world.graph.recognized.values()) == in_first == len(LEVELS)


def mortal(world: JobsWorld, results: int | None) -> MortalQueue:
    """Dies after so many results; ``None``: just before the end of the job."""
    if results is not None:
        doomed = world.queue(JumpingClock())
        doomed.saves = results
        return doomed
    late = LateQueue(world.database, 3600, JumpingClock())
    late.died, late.loop = asyncio.Event(), asyncio.get_running_loop()
    return late


class SeenQueue(MortalQueue):
    """Notes what a reader sees after each change."""

    def save(self, lease: Lease, progress: Progress) -> None:
        super().save(lease, progress)
        self.seen.append(self.store.transcripts(OWNER, lease.job.id))

    store: JobStore
    seen: list[tuple[Transcript, ...]]


async def test_a_result_that_is_whole_already_is_not_undone_meanwhile(world: JobsWorld) -> None:
    job = await submitted(world, TOLD_APART, LEVELS)
    doomed = mortal(world, None)
    async with world.running(doomed):
        await asyncio.wait_for(doomed.died.wait(), 20)
    whole = await world.jobs.transcripts(OWNER, job.id)
    world.clock.ahead = 61
    again = SeenQueue(world.database, 3600, world.clock)
    again.store, again.seen = JobStore(world.database, 3600), []
    async with world.running(again):
        assert await result(world, job) == whole
    assert {seen[0].sentences for seen in again.seen} == {whole[0].sentences}


async def test_channels_as_speakers_are_one_transcript_in_the_order_of_time(world: JobsWorld) -> None:
    job = await submitted(world, BY_CHANNEL, [0, 0, 3, 4], [1, 2, 0, 0], [0] * 4)
    async with world.running():
        (transcript,) = await result(world, job)
    assert said(transcript.sentences) == [(TWO, characters([1, 2])), (ONE, characters([3, 4]))]
    ended = await world.jobs.get(OWNER, job.id)
    assert ended.seconds_done == ended.seconds_total == pytest.approx(3 * 4 * 4.5)


async def test_too_many_channels_as_speakers_are_a_failed_job(world: JobsWorld) -> None:
    job = await submitted(world, BY_CHANNEL, *[[1]] * 9)
    async with world.running():
        ended = await world.ended(job)
    assert ended.status is JobStatus.FAILED
    assert ended.error is not None
    assert "9 channels; 8 at most" in ended.error.message


async def test_speakers_of_split_channels_are_told_apart_in_each(world: JobsWorld) -> None:
    spec = replace(TOLD_APART, split_channels=True)
    job = await submitted(world, spec, [1, 2, 11], [12, 13, 14])
    async with world.running():
        left, right = await result(world, job)
    assert said(left.sentences) == [(ONE, characters([1, 2])), (TWO, characters([11]))]
    assert said(right.sentences) == [(ONE, characters([12, 13, 14]))]
