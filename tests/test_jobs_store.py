"""The store of jobs: several processes at once, orders that come twice, limits, and nothing lost."""

import asyncio
import errno
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import fields, replace
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.messages import Recognition, Word
from serve_app import errors
from serve_app.api.openai.errors import error_object
from serve_app.audio.decode import RawPcm
from serve_app.errors import Conflict, NotFound, Overloaded
from serve_app.jobs import codec, faults
from serve_app.jobs.database import Database, WrongSchema, database_url
from serve_app.jobs.queue import JobQueue
from serve_app.jobs.service import DatabaseJobs
from serve_app.jobs.store import NewJob
from serve_app.jobs.types import Job, JobSpec, JobStatus, Webhook
from serve_app.pipeline.finishing import Correction, TextOptions
from serve_app.pipeline.hotwords import Hotword
from serve_app.pipeline.speakers.types import SpeakerOptions, Voiceprint
from serve_app.pipeline.types import Sentence, Speaker, TimedWord
from serve_app.settings import Settings
from serve_app.transcriber import TranscriptionOptions

ROOT = Path(__file__).parent.parent
SPEC = JobSpec(
    options=TranscriptionOptions(
        language="zh",
        raw=RawPcm(8000),
        channel=1,
        text=TextOptions(itn=True, corrections=(Correction("甲", "乙"),), longest_sentence=20),
        hotwords=(Hotword("词", 2.5), Hotword("other")),
        end_silence_ms=300,
        speech_noise_threshold=0.4,
        speakers=SpeakerOptions(least=2, most=4, known=(Voiceprint("Ann", (0.6, -0.8)),)),
    ),
    split_channels=True,
    filename="a.wav",
    webhook=Webhook("https://example.com/hook", "whsec_c2VjcmV0"),
    metadata={"b": "2", "a": "1 \ud800 \0"},
    response_format="srt",
    protocol="aliyun",
    extra={"callback": "aliyun"},
)


def settings(directory: Path, **more: object) -> Settings:
    return Settings.model_validate({"data_dir": directory / "data", **more})


@pytest.fixture
def jobs(tmp_path: Path) -> DatabaseJobs:
    return DatabaseJobs(settings(tmp_path))


async def submit(
    jobs: DatabaseJobs, owner: str = "me", spec: JobSpec = SPEC, **more: str
) -> tuple[Job, bool]:
    return await jobs.submit(owner, spec, BytesIO(more.pop("audio", "audio").encode()), **more)


async def test_an_order_comes_back_as_it_was_given(jobs: DatabaseJobs) -> None:
    job, is_new = await submit(jobs)
    assert is_new
    assert job.spec == SPEC
    assert await jobs.get("me", job.id) == job


words = st.builds(TimedWord, st.text(), *[st.floats(allow_nan=False)] * 3, st.text())
recognized = st.builds(Word, st.text(), st.integers(), st.integers(), st.floats(allow_nan=False))


speakers = st.builds(Speaker, st.integers(1), st.text(), st.none() | st.text(), st.floats(allow_nan=False))
sentences = st.builds(Sentence, st.lists(words).map(tuple), st.none() | speakers)


@given(sentences, st.lists(recognized).map(tuple).map(Recognition))
def test_results_are_kept_without_loss(sentence: Sentence, recognition: Recognition) -> None:
    assert codec.load_sentence(codec.dump_sentence(sentence)) == sentence
    assert codec.load_recognition(codec.dump_recognition(recognition)) == recognition


def test_results_of_before_there_were_speakers_are_still_read() -> None:
    sentence = Sentence((TimedWord("好", 0.5, 0.7, -0.1, "。"),))
    assert codec.load_sentence('[["好",0.5,0.7,-0.1,"。"]]') == sentence


def test_an_order_is_the_same_whatever_voices_its_owner_has_enrolled() -> None:
    known = SpeakerOptions(count=2, known=(Voiceprint("Ann", (1.0, 0.0)),))
    orders = [
        JobSpec(options=TranscriptionOptions(speakers=speakers))
        for speakers in (known, replace(known, known=()), replace(known, count=3), None)
    ]
    first, same, *others = (NewJob("id", "me", order, "hash").fingerprint for order in orders)
    assert first == same
    assert len({first, *others}) == 3


def test_results_have_no_parts_that_are_not_kept() -> None:
    assert [field.name for field in fields(Sentence)] == ["words", "speaker", "emotion", "events"]
    assert len(fields(Speaker)) == 4
    assert [field.name for field in fields(Recognition)] == [
        *("words", "language", "punctuated", "emotion", "events", "applied", "raw")
    ]
    assert len(fields(TimedWord)) == 5
    assert len(fields(Word)) == 5


def test_failed_jobs_are_told_the_codes_of_failed_requests() -> None:
    for cls in _subclasses(errors.AsrError) - {errors.Unauthenticated}:
        if cls.__module__ != errors.__name__:
            continue
        error = cls("It is busy.", 1) if issubclass(cls, errors.Overloaded) else cls("It went wrong.")
        assert faults.job_error(error).code == error_object(error)["code"], cls


def _subclasses(cls: type[errors.AsrError]) -> set[type[errors.AsrError]]:
    return {found for direct in cls.__subclasses__() for found in (direct, *_subclasses(direct))}


async def test_nobody_sees_the_jobs_of_others(jobs: DatabaseJobs) -> None:
    mine, _ = await submit(jobs)
    theirs, _ = await submit(jobs, "other")
    assert [job.id for job in await jobs.list("me")] == [mine.id]
    for asked in (jobs.get, jobs.cancel, jobs.delete, jobs.transcripts):
        with pytest.raises(NotFound):
            await asked("me", theirs.id)
    with pytest.raises(NotFound):
        await anext(jobs.watch("me", theirs.id))
    assert await jobs.list("me", after=theirs.id) == []
    assert (await jobs.get("other", theirs.id)).status is JobStatus.QUEUED


async def test_the_list_goes_from_the_newest_to_the_oldest_in_pages(jobs: DatabaseJobs) -> None:
    made = [(await submit(jobs))[0] for _ in range(5)]
    other, _ = await submit(jobs, spec=JobSpec())
    await jobs.cancel("me", made[1].id)
    listed = [job.id for job in await jobs.list("me", protocol="aliyun")]
    assert listed == [job.id for job in reversed(made)]
    pages: list[str] = []
    while page := await jobs.list("me", limit=2, after=pages[-1] if pages else None):
        pages += [job.id for job in page]
    assert pages == [other.id, *listed]
    assert [job.id for job in await jobs.list("me", status=JobStatus.CANCELED)] == [made[1].id]


async def test_a_key_gives_its_job_again(jobs: DatabaseJobs) -> None:
    first, _ = await submit(jobs, idempotency_key="key")
    assert await submit(jobs, idempotency_key="key") == (first, False)
    assert (await submit(jobs, "other", idempotency_key="key"))[1]
    assert (await submit(jobs, idempotency_key="another " * 1000))[1]
    for changed in ({"audio": "other audio"}, {"spec": JobSpec()}):
        with pytest.raises(Conflict):
            await submit(jobs, idempotency_key="key", **changed)
    assert len(await jobs.list("me")) == 2


async def test_a_key_that_comes_many_times_at_once_makes_one_job(tmp_path: Path) -> None:
    several = [DatabaseJobs(settings(tmp_path)) for _ in range(4)]
    answers = await asyncio.gather(
        *(submit(several[index % 4], idempotency_key="key") for index in range(16))
    )
    assert len({job.id for job, _ in answers}) == 1
    assert sum(is_new for _, is_new in answers) == 1
    assert len([*(tmp_path / "data" / "jobs").iterdir()]) == 1


async def test_a_full_queue_is_told_and_leaves_nothing_behind(tmp_path: Path) -> None:
    jobs = DatabaseJobs(settings(tmp_path, max_queued_jobs=2))
    first, _ = await submit(jobs)
    await submit(jobs, idempotency_key="key")
    for key in (None, "new"):
        with pytest.raises(Overloaded, match="2 jobs") as refused:
            await jobs.submit("me", SPEC, BytesIO(b"audio"), key)
        assert refused.value.retry_after > 0
    assert not (await submit(jobs, idempotency_key="key"))[1]
    assert len([*(tmp_path / "data" / "jobs").iterdir()]) == 2
    await jobs.cancel("me", first.id)
    assert (await submit(jobs))[1]


async def test_a_full_disk_is_told_and_leaves_nothing_behind(
    jobs: DatabaseJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(Overloaded, match="full"):
            await submit(jobs)
    assert [*(tmp_path / "data" / "jobs").iterdir()] == []
    assert await jobs.list("me") == []
    await submit(jobs)


def test_a_database_that_cannot_grow_is_told(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/jobs.sqlite3")
    with pytest.raises(Overloaded, match="full"):
        grow(database)


def grow(database: Database) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
        for number in range(1000):
            connection.exec_driver_sql(f"CREATE TABLE t{number} (x)")


def test_a_new_database_that_another_process_writes_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite3"
    other = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
    other.execute("CREATE TABLE something (x)")
    other.execute("BEGIN IMMEDIATE")
    later = threading.Timer(0.3, other.close)
    later.start()
    with Database(f"sqlite:///{file}").read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
    later.join()


def test_tables_of_another_version_are_not_touched(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.sqlite3"
    with Database(url).write() as connection:
        connection.exec_driver_sql("UPDATE asr_schema SET version = 99")
    with pytest.raises(WrongSchema, match="99"), Database(url).read():
        pass


def claim_all(url: str, name: str, start: "multiprocessing.synchronize.Event", results: object) -> None:
    """Run by a process of its own."""
    queue = JobQueue(Database(url), 1000)
    start.wait()
    claimed = []
    while (lease := queue.claim(name, 60)) is not None:
        claimed.append(lease.job.id)
    results.put(claimed)  # type: ignore[attr-defined]


async def test_processes_that_claim_at_once_get_each_job_once(tmp_path: Path) -> None:
    made = settings(tmp_path)
    jobs = DatabaseJobs(made)
    ids = [(await submit(jobs))[0].id for _ in range(60)]
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    workers = [
        context.Process(target=claim_all, args=(database_url(made), f"worker {number}", start, results))
        for number in range(3)
    ]
    for worker in workers:
        worker.start()
    start.set()
    claimed = [await asyncio.to_thread(results.get, timeout=60) for _ in workers]
    for worker in workers:
        worker.join(30)
    assert Counter(job_id for some in claimed for job_id in some) == Counter(ids)


SUBMITTER = """
import asyncio, os, signal, sys
from io import BytesIO
from pathlib import Path
from serve_app.jobs.service import DatabaseJobs
from serve_app.jobs.types import JobSpec
from serve_app.settings import Settings

class Killer(BytesIO):
    def read(self, size=-1):
        if len(sys.argv) > 2 and self.tell():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(size)

jobs = DatabaseJobs(Settings(data_dir=Path(sys.argv[1])))
job, _ = asyncio.run(jobs.submit("me", JobSpec(), Killer(b"audio" * 1_000_000)))
print(job.id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def submit_and_die(directory: Path, *more: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", SUBMITTER, str(directory), *more],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    return result.stdout.strip()


async def test_what_was_taken_in_outlives_a_kill(jobs: DatabaseJobs, tmp_path: Path) -> None:
    job_id = await asyncio.to_thread(submit_and_die, tmp_path / "data")
    assert (await jobs.get("me", job_id)).status is JobStatus.QUEUED
    recording = tmp_path / "data" / "jobs" / job_id / "recording"
    assert recording.read_bytes() == b"audio" * 1_000_000


async def test_what_was_not_taken_in_whole_is_no_job(jobs: DatabaseJobs, tmp_path: Path) -> None:
    assert await asyncio.to_thread(submit_and_die, tmp_path / "data", "early") == ""
    assert await jobs.list("me") == []


async def test_recordings_are_for_nobody_elses_eyes(jobs: DatabaseJobs, tmp_path: Path) -> None:
    await submit(jobs)
    assert (tmp_path / "data").stat().st_mode & 0o077 == 0
