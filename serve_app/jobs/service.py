"""Jobs in a database, with their recordings in a directory."""

from collections.abc import AsyncIterator
from typing import BinaryIO

from serve_app.errors import NotFound
from serve_app.jobs.types import Job, JobSpec, JobStatus
from serve_app.pipeline.types import Transcript
from serve_app.settings import Settings


class DatabaseJobs:
    """Implements :class:`serve_app.jobs.types.Jobs`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def submit(
        self,
        owner: str,
        spec: JobSpec,
        recording: BinaryIO | None = None,
        idempotency_key: str | None = None,
    ) -> tuple[Job, bool]:
        raise NotFound("There are no jobs yet.")

    async def get(self, owner: str, job_id: str) -> Job:
        raise NotFound("There are no jobs yet.")

    async def list(
        self, owner: str, *, limit: int = 20, after: str | None = None, status: JobStatus | None = None
    ) -> list[Job]:
        return []

    async def cancel(self, owner: str, job_id: str) -> Job:
        raise NotFound("There are no jobs yet.")

    async def delete(self, owner: str, job_id: str) -> None:
        raise NotFound("There are no jobs yet.")

    async def transcripts(self, owner: str, job_id: str) -> tuple[Transcript, ...]:
        raise NotFound("There are no jobs yet.")

    async def watch(self, owner: str, job_id: str) -> AsyncIterator[Job]:
        yield await self.get(owner, job_id)
