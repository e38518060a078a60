"""Jobs as the protocols see them: over the database and the spool directory."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from deployments.origin import origin_now
from serve_app.jobs.database import Database, answering, data_dir, database_url
from serve_app.jobs.spool import Spool
from serve_app.jobs.store import JobStore, NewJob
from serve_app.jobs.threads import in_whole
from serve_app.jobs.types import Job, JobSpec, JobStatus
from serve_app.pipeline.types import Transcript
from serve_app.settings import Settings
from serve_app.stages import current_stage

Wake = Callable[[], Awaitable[None]]
"""Tells a worker that there is something to do. Nothing relies on it: workers look by themselves, too."""

_WATCH_SECONDS = 0.5


def spool_dir(settings: Settings) -> Path:
    return data_dir(settings) / "jobs"


def retention_seconds(settings: Settings) -> float:
    return settings.job_retention_hours * 3600


async def wake_nobody() -> None:
    """For a service whose workers are not within reach."""


class DatabaseJobs:
    """Implements :class:`serve_app.jobs.types.Jobs`. Opens nothing before it is used."""

    def __init__(
        self, settings: Settings, wake: Wake = wake_nobody, watch_seconds: float = _WATCH_SECONDS
    ) -> None:
        """``wake`` must not raise, nor wait for anything long; ``watch_seconds``: between looks at a job."""
        self._store = JobStore(Database(database_url(settings)), retention_seconds(settings))
        self._spool = Spool(spool_dir(settings))
        self._max_queued = settings.max_queued_jobs
        self._wake = wake
        self._watch_seconds = watch_seconds

    async def submit(
        self,
        owner: str,
        spec: JobSpec,
        recording: BinaryIO | None = None,
        idempotency_key: str | None = None,
    ) -> tuple[Job, bool]:
        if (recording is None) == (spec.url is None):
            raise ValueError("a job has either a recording or a URL")
        origin = origin_now()
        spec = spec if origin is None else replace(spec, traceparent=origin.traceparent)
        # The file is closed when this returns.
        with answering():
            job, is_new = await in_whole(self._submit, owner, spec, recording, idempotency_key)
        current_stage().set(job_id=job.id)
        if is_new:
            await self._wake()
        return job, is_new

    def _submit(
        self, owner: str, spec: JobSpec, recording: BinaryIO | None, idempotency_key: str | None
    ) -> tuple[Job, bool]:
        if idempotency_key is None:
            self._store.check_room(self._max_queued)
        job_id = f"job_{uuid.uuid4().hex}"
        is_new = False
        try:
            digest = self._spool.put(job_id, recording) if recording is not None else ""
            new = NewJob(job_id, owner, spec, digest, idempotency_key)
            job, is_new = self._store.add(new, self._max_queued)
            return job, is_new
        finally:
            if not is_new:
                self._spool.remove(job_id)

    async def get(self, owner: str, job_id: str) -> Job:
        with answering():
            return await asyncio.to_thread(self._store.get, owner, job_id)

    async def list(
        self,
        owner: str,
        *,
        limit: int = 20,
        after: str | None = None,
        status: JobStatus | None = None,
        protocol: str | None = None,
    ) -> list[Job]:
        with answering():
            return await asyncio.to_thread(self._store.list, owner, limit, after, status, protocol)

    async def cancel(self, owner: str, job_id: str) -> Job:
        with answering():
            job = await asyncio.to_thread(self._store.cancel, owner, job_id)
        await asyncio.to_thread(self._spool.remove, job_id)
        await self._wake()
        return job

    async def delete(self, owner: str, job_id: str) -> None:
        with answering():
            await asyncio.to_thread(self._store.delete, owner, job_id)
        await asyncio.to_thread(self._spool.remove, job_id)
        await self._wake()

    async def transcripts(self, owner: str, job_id: str) -> tuple[Transcript, ...]:
        with answering():
            return await asyncio.to_thread(self._store.transcripts, owner, job_id)

    async def watch(self, owner: str, job_id: str) -> AsyncIterator[Job]:
        last: Job | None = None
        while last is None or not last.status.is_final:
            job = await self.get(owner, job_id)
            if job != last:
                yield job
                last = job
            else:
                await asyncio.sleep(self._watch_seconds)
