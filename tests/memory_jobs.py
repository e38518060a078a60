"""A keeper of jobs in memory, whose jobs go on when a test says so, behind the real routes."""

import asyncio
import builtins
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO

from fastapi import FastAPI

from serve_app.api.access import Access
from serve_app.api.jobs.router import jobs_router
from serve_app.api.openai.errors import add_error_handlers
from serve_app.errors import Conflict, NotFound, Overloaded
from serve_app.fetching import Fetcher
from serve_app.jobs.types import Job, JobError, JobSpec, JobStatus
from serve_app.live import LiveService
from serve_app.pipeline.types import Sentence, TimedWord, Transcript
from serve_app.services import Services
from serve_app.settings import Settings
from serve_app.speakers.service import SpeakerService
from serve_app.transcriber import Transcriber
from tests.test_http_app import SilentGraph

BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BEGIN_EPOCH = 1767323045


def sentence(text: str, begin: float) -> Sentence:
    """Characters of 0.2 s each, and a mark."""
    step = 0.2
    words = [
        TimedWord(c, begin + i * step, begin + (i + 1) * step, -0.1, "。" if i == len(text) - 1 else "")
        for i, c in enumerate(text)
    ]
    return Sentence(tuple(words))


@dataclass
class _Kept:
    job: Job
    key: str | None
    recording: bytes | None
    said: dict[int, list[Sentence]] = field(default_factory=dict)


class MemoryJobs:
    """Implements :class:`serve_app.jobs.types.Jobs`."""

    def __init__(self, max_jobs: int = 1000) -> None:
        self.kept: dict[str, _Kept] = {}
        self._max_jobs = max_jobs

    def change(self, job_id: str, **changes: Any) -> None:
        kept = self.kept[job_id]
        kept.job = replace(kept.job, **changes)

    def run(self, job_id: str, *, done: float, total: float | None = 10.0, say: str = "") -> None:
        """Go on with a job, which recognizes ``say`` at ``done`` seconds."""
        if say:
            self.say(job_id, sentence(say, done))
        running = JobStatus.RUNNING
        started = BEGIN + timedelta(seconds=1)
        self.change(job_id, status=running, seconds_done=done, seconds_total=total, started_at=started)

    def say(self, job_id: str, said: Sentence, channel: int = 0) -> None:
        self.kept[job_id].said.setdefault(channel, []).append(said)

    def end(self, job_id: str, status: JobStatus, error: JobError | None = None) -> None:
        finished = BEGIN + timedelta(seconds=60)
        changes = {"status": status, "error": error, "finished_at": finished}
        self.change(job_id, **changes, expires_at=finished + timedelta(hours=1))

    async def submit(
        self,
        owner: str,
        spec: JobSpec,
        recording: BinaryIO | None = None,
        idempotency_key: str | None = None,
    ) -> tuple[Job, bool]:
        data = recording.read() if recording else None
        for kept in self.kept.values():
            if idempotency_key and (kept.job.owner, kept.key) == (owner, idempotency_key):
                if (kept.job.spec, kept.recording) != (spec, data):
                    raise Conflict("This idempotency key was used before, for another order.")
                return kept.job, False
        if len(self.kept) >= self._max_jobs:
            raise Overloaded("Many jobs are waiting; please try again later.", 30)
        number = len(self.kept) + 1
        created = BEGIN + timedelta(seconds=number - 1)
        job = Job(f"job_{number}", owner, spec, JobStatus.QUEUED, created)
        self.kept[job.id] = _Kept(job, idempotency_key, data)
        return job, True

    async def get(self, owner: str, job_id: str) -> Job:
        kept = self.kept.get(job_id)
        if kept is None or kept.job.owner != owner:
            raise NotFound(f"There is no job {job_id!r:.80}.")
        return kept.job

    async def list(
        self,
        owner: str,
        *,
        limit: int = 20,
        after: str | None = None,
        status: JobStatus | None = None,
        protocol: str | None = None,
    ) -> builtins.list[Job]:
        found = [
            kept.job
            for kept in reversed(self.kept.values())
            if kept.job.owner == owner and protocol in (None, kept.job.spec.protocol)
        ]
        if after is not None:
            ids = [job.id for job in found]
            found = found[ids.index(after) + 1 :] if after in ids else []
        return [job for job in found if status in (None, job.status)][:limit]

    async def cancel(self, owner: str, job_id: str) -> Job:
        if not (await self.get(owner, job_id)).status.is_final:
            self.end(job_id, JobStatus.CANCELED)
        return await self.get(owner, job_id)

    async def delete(self, owner: str, job_id: str) -> None:
        await self.get(owner, job_id)
        del self.kept[job_id]

    async def transcripts(self, owner: str, job_id: str) -> tuple[Transcript, ...]:
        job = await self.get(owner, job_id)
        said = self.kept[job_id].said
        return tuple(Transcript.of(job.seconds_total or 0.0, said[channel]) for channel in sorted(said))

    async def watch(self, owner: str, job_id: str) -> AsyncIterator[Job]:
        last: Job | None = None
        while last is None or not last.status.is_final:
            job = await self.get(owner, job_id)
            if job != last:
                yield job
            last = job
            await asyncio.sleep(0.01)


def app_of(jobs: MemoryJobs, **configured: Any) -> FastAPI:
    """The routes of jobs over ``jobs``."""
    settings, graph = Settings(**configured), SilentGraph()

    async def readiness() -> dict[str, str]:
        return {}

    app = FastAPI()
    add_error_handlers(app)
    services = Services(
        settings=settings,
        access=Access(settings),
        transcriber=Transcriber(graph, settings),
        live=LiveService(graph, settings, None),
        fetcher=Fetcher(settings),
        jobs=jobs,
        speakers=SpeakerService(settings, graph),
        readiness=readiness,
    )
    app.include_router(jobs_router(services))
    return app
