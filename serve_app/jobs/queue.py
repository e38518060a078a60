"""Jobs in the database, as their workers see them. Everything here blocks: call it on a thread.

A worker holds a job by a lease: its name and a time on the job's row. Each change says whose lease it
relies on, so that a worker which was away for too long changes nothing any more.
"""

import time
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import and_, case, delete, func, or_, select, update

from serve_app.jobs import schema
from serve_app.jobs.database import Database
from serve_app.jobs.lease import Lease, LeaseLost
from serve_app.jobs.notebook import JobNotebook, held_by, still
from serve_app.jobs.rows import end_job, job_of
from serve_app.jobs.store import Clock
from serve_app.jobs.types import JobError, JobStatus

_CANDIDATES = 8
_CHUNK = 500


class JobQueue(JobNotebook):
    """``retention``: seconds for which a job is kept after its end."""

    def __init__(self, database: Database, retention: float, clock: Clock = time.time) -> None:
        super().__init__(database)
        self._retention = retention
        self._clock = clock

    def claim(self, worker: str, seconds: float) -> Lease | None:
        """Take the oldest job that waits, or whose worker has gone, for ``seconds``; ``None``: there is none.

        Of several workers that want the same job, one gets it, on any database: the row must still be as it
        was seen.
        """
        jobs, now = schema.jobs, self._clock()
        free = or_(
            and_(jobs.c.status == JobStatus.QUEUED.value, jobs.c.available_at <= now),
            and_(jobs.c.status == JobStatus.RUNNING.value, jobs.c.lease_until < now),
        )
        oldest = select(jobs.c.id, jobs.c.attempts).where(free).order_by(jobs.c.created_at, jobs.c.id)
        with self._database.read() as connection:
            candidates = connection.execute(oldest.limit(_CANDIDATES)).all()
        for candidate in candidates:
            with self._database.write() as connection:
                taken = connection.execute(
                    update(jobs)
                    .where(jobs.c.id == candidate.id, jobs.c.attempts == candidate.attempts, free)
                    .values(
                        status=JobStatus.RUNNING.value,
                        lease_owner=worker,
                        lease_until=now + seconds,
                        started_at=func.coalesce(jobs.c.started_at, now),
                        attempts=jobs.c.attempts + 1,
                        failures=jobs.c.failures + 1,
                    )
                )
                if taken.rowcount:
                    row = connection.execute(select(jobs).where(jobs.c.id == candidate.id)).one()
                    return Lease(job_of(row), worker, row.failures)
        return None

    def held(self, worker: str) -> set[tuple[str, int]]:
        """The keys of the leases that a worker has."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(schema.jobs.c.id, schema.jobs.c.attempts).where(*held_by(worker))
            )
            return {(row.id, row.attempts) for row in rows}

    def renew(self, worker: str, job_ids: Collection[str], seconds: float) -> None:
        """Prolong the leases that a worker has of these jobs to ``seconds`` from now."""
        with self._database.write() as connection:
            connection.execute(
                update(schema.jobs)
                .where(*held_by(worker), schema.jobs.c.id.in_(job_ids))
                .values(lease_until=self._clock() + seconds)
            )

    def failures(self, lease: Lease) -> int:
        """Attempts in a row, this one too, that brought nothing new: 0 if it did. Raises ``LeaseLost``."""
        with self._database.read() as connection:
            found: int | None = connection.scalar(select(schema.jobs.c.failures).where(*still(lease)))
        if found is None:
            raise LeaseLost
        return found

    def finish(self, lease: Lease, error: JobError | None = None) -> None:
        """Complete a job, or fail it. Raises ``LeaseLost``."""
        status = JobStatus.COMPLETED if error is None else JobStatus.FAILED
        values: dict[str, Any] = {"status": status.value}
        if error is not None:
            values |= {"error_code": error.code, "error_message": error.message}
        with self._database.write() as connection:
            ended = end_job(
                connection,
                lease.job.id,
                *still(lease),
                now=self._clock(),
                retention=self._retention,
                **values,
            )
            if not ended:
                raise LeaseLost

    def put_back(self, lease: Lease, pause: float = 0.0, *, blameless: bool = False) -> None:
        """Let any worker take the job after ``pause`` seconds; ``blameless``: the attempt does not count as
        one that failed. No effect on a lease that was lost."""
        with self._database.write() as connection:
            connection.execute(
                update(schema.jobs)
                .where(*still(lease))
                .values(
                    status=JobStatus.QUEUED.value,
                    available_at=self._clock() + pause,
                    failures=case(
                        (schema.jobs.c.failures > 0, schema.jobs.c.failures - int(blameless)), else_=0
                    ),
                    lease_owner=None,
                    lease_until=None,
                )
            )

    def counts(self) -> tuple[int, int]:
        """Jobs that wait, and jobs that run."""
        status = schema.jobs.c.status
        with self._database.read() as connection:
            queued, running = (
                connection.scalar(select(func.count()).select_from(schema.jobs).where(status == wanted.value))
                for wanted in (JobStatus.QUEUED, JobStatus.RUNNING)
            )
        return queued or 0, running or 0

    def oldest(self) -> float:
        """Seconds since the oldest job was created that has not begun; 0 if there is none."""
        jobs = schema.jobs.c
        waiting = select(func.min(jobs.created_at)).where(jobs.status == JobStatus.QUEUED.value)
        with self._database.read() as connection:
            created = connection.scalar(waiting)
        return 0.0 if created is None else max(0.0, self._clock() - created)

    def expire(self) -> list[str]:
        """Forget the jobs whose time is over; their ids."""
        with self._database.write() as connection:
            ids = [
                *connection.scalars(
                    select(schema.jobs.c.id).where(schema.jobs.c.expires_at <= self._clock()).limit(_CHUNK)
                )
            ]
            connection.execute(delete(schema.jobs).where(schema.jobs.c.id.in_(ids)))
        return ids

    def unfinished(self, job_ids: Sequence[str]) -> Collection[str]:
        """Those of ``job_ids`` that have not ended."""
        found: set[str] = set()
        with self._database.read() as connection:
            for begin in range(0, len(job_ids), _CHUNK):
                found |= {
                    *connection.scalars(
                        select(schema.jobs.c.id).where(
                            schema.jobs.c.id.in_(job_ids[begin : begin + _CHUNK]),
                            schema.jobs.c.finished_at.is_(None),
                        )
                    )
                }
        return found
