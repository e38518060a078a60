"""Jobs over a graph that stands in for the models: workers that can be killed, and a clock that jumps."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy.exc import OperationalError

from deployments.messages import AudioSlice, Priority, Recognition, RecognitionOptions
from serve_app.fetching import Fetcher
from serve_app.jobs.database import Database, database_url
from serve_app.jobs.lease import Lease, Progress
from serve_app.jobs.queue import JobQueue
from serve_app.jobs.runner import Runner, Timing
from serve_app.jobs.service import DatabaseJobs, retention_seconds, spool_dir
from serve_app.jobs.spool import Spool
from serve_app.jobs.types import Job, JobError, JobSpec, JobStatus
from serve_app.jobs.worker import Worker
from serve_app.pipeline.graph import DEFAULT_RECOGNITION
from serve_app.pipeline.types import Sentence, Transcript
from serve_app.settings import Settings
from serve_app.speakers.service import SpeakerService
from serve_app.transcriber import Transcriber
from tests import audio_files
from tests.test_file_pipeline import MARK, ToneGraph, recording, samples_of

OWNER = "somebody"
FAST = Timing(poll=0.01, lease=60, renew=0.05, first_pause=0.01, longest_pause=0.02)


class JumpingClock:
    """The time of day, and as much later as a test says."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class CountingGraph(ToneGraph):
    """Counts what is recognized, by its first level. ``gate`` holds recognition up; ``faults`` are raised
    one after the other before anything is recognized."""

    def __init__(self) -> None:
        super().__init__()
        self.recognized: Counter[int] = Counter()
        self.priorities: set[Priority] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.faults: list[Exception] = []

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        self.priorities.add(priority)
        await self.gate.wait()
        if self.faults:
            raise self.faults.pop(0)
        samples = samples_of(audio)
        self.recognized[int(samples[samples != 0][0]) // MARK] += 1
        return await super().transcribe(audio, priority=priority, options=options)


class MortalQueue(JobQueue):
    """Once ``dead``, or after ``saves`` more results, nothing reaches the database any more: as for a
    process that was killed, whatever its code still tries."""

    dead = False
    saves: int | None = None
    died: asyncio.Event
    loop: asyncio.AbstractEventLoop

    def save(self, lease: Lease, progress: Progress) -> None:
        self._live()
        super().save(lease, progress)
        if self.saves is not None and progress.recognized:
            self.saves -= len(progress.recognized)
            if self.saves <= 0:
                self.dead = True
                self.loop.call_soon_threadsafe(self.died.set)

    def claim(self, worker: str, seconds: float) -> Lease | None:
        self._live()
        return super().claim(worker, seconds)

    def replace(self, lease: Lease, channel: int, sentences: Sequence[Sentence]) -> None:
        self._live()
        super().replace(lease, channel, sentences)

    def join(self, lease: Lease, language: str | None, whole: Transcript) -> None:
        self._live()
        super().join(lease, language, whole)

    def finish(self, lease: Lease, error: JobError | None = None) -> None:
        self._live()
        super().finish(lease, error)

    def put_back(self, lease: Lease, pause: float = 0.0, *, blameless: bool = False) -> None:
        self._live()
        super().put_back(lease, pause, blameless=blameless)

    def _live(self) -> None:
        if self.dead:
            raise OperationalError("killed", None, RuntimeError("killed"))


@dataclass
class JobsWorld:
    """One database and spool directory, with what works on it."""

    directory: Path
    settings: Settings
    graph: CountingGraph = field(default_factory=CountingGraph)
    clock: JumpingClock = field(default_factory=JumpingClock)

    @classmethod
    def at(cls, directory: Path, **settings: Any) -> "JobsWorld":
        return cls(directory, Settings(data_dir=directory / "data", **settings))

    def __post_init__(self) -> None:
        self.database = Database(database_url(self.settings))
        self.jobs = DatabaseJobs(self.settings, watch_seconds=0.02)
        self.spool = Spool(spool_dir(self.settings))

    def queue(self, clock: JumpingClock | None = None) -> MortalQueue:
        queue = MortalQueue(self.database, retention_seconds(self.settings), clock or self.clock)
        queue.died, queue.loop = asyncio.Event(), asyncio.get_running_loop()
        return queue

    @asynccontextmanager
    async def running(
        self, queue: JobQueue | None = None, timing: Timing = FAST, **limits: int
    ) -> AsyncIterator[Runner]:
        queue = queue or self.queue()
        transcriber = Transcriber(self.graph, self.settings)
        enrolled = SpeakerService(self.settings, self.graph).voiceprints
        worker = Worker(queue, self.spool, transcriber, Fetcher(self.settings), enrolled)
        runner = Runner(queue, self.spool, worker, timing=timing)
        for name, value in limits.items():
            setattr(runner, name, value)
        task = asyncio.create_task(runner.run())
        try:
            yield runner
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def submit(self, levels: Sequence[int], spec: JobSpec | None = None, **options: Any) -> Job:
        job, _ = await self.jobs.submit(OWNER, spec or JobSpec(), tones(levels), **options)
        return job

    async def ended(self, job: Job, seconds: float = 30) -> Job:
        async with asyncio.timeout(seconds):
            async for state in self.jobs.watch(OWNER, job.id):
                job = state
        return job

    async def text(self, job: Job) -> str:
        """What the completed job's words are, without marks."""
        job = await self.ended(job)
        assert job.status is JobStatus.COMPLETED, job.error
        transcripts = await self.jobs.transcripts(OWNER, job.id)
        return "|".join("".join(word.text for word in transcript.words) for transcript in transcripts)

    async def until(self, condition: Callable[[], object], seconds: float = 20) -> None:
        for _ in range(int(seconds / 0.005)):
            if condition():
                return
            await asyncio.sleep(0.005)
        raise AssertionError("nothing more happens")


def tones(levels: Sequence[int], *more: Sequence[int]) -> BytesIO:
    """A wav file with a channel for each list of levels; each level is a segment of its own."""
    channels = [recording(item, pause=4) / 32768 for item in (levels, *more)]
    audio = (np.stack(channels, 1) if more else channels[0]).astype(np.float32)
    return BytesIO(audio_files.wav(audio, 16_000))
