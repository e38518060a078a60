"""What the two sides of the store share: rows to jobs, and the end of a job."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from serve_app.jobs import schema
from serve_app.jobs.codec import load_spec
from serve_app.jobs.types import Job, JobError, JobStatus

JobRow = Row[Any]
"""A row of ``schema.jobs`` with all its columns."""


def job_of(row: JobRow) -> Job:
    error = None if row.error_code is None else JobError(row.error_code, row.error_message or "")
    return Job(
        id=row.id,
        owner=row.owner,
        spec=load_spec(row.spec),
        status=JobStatus(row.status),
        created_at=_time(row.created_at),
        started_at=None if row.started_at is None else _time(row.started_at),
        finished_at=None if row.finished_at is None else _time(row.finished_at),
        expires_at=None if row.expires_at is None else _time(row.expires_at),
        seconds_done=row.seconds_done,
        seconds_total=row.seconds_total,
        error=error,
        attempts=row.attempts,
    )


def end_job(
    connection: Connection, job_id: str, *where: Any, now: float, retention: float, **values: Any
) -> bool:
    """Give a job its last state, and its webhook to the outbox; ``False`` if ``where`` does not hold.

    ``retention``: how long it is kept, in seconds.
    """
    segments = (
        select(func.count()).select_from(schema.checkpoints).where(schema.checkpoints.c.job_id == job_id)
    )
    ended = connection.execute(
        update(schema.jobs)
        .where(schema.jobs.c.id == job_id, *where)
        .values(
            finished_at=now,
            expires_at=now + retention,
            lease_owner=None,
            lease_until=None,
            segments=segments.scalar_subquery(),
            **values,
        )
    )
    if not ended.rowcount:
        return False
    connection.execute(delete(schema.checkpoints).where(schema.checkpoints.c.job_id == job_id))
    spec = connection.scalar(select(schema.jobs.c.spec).where(schema.jobs.c.id == job_id))
    if spec is not None and load_spec(spec).webhook is not None:
        connection.execute(insert(schema.webhooks).values(job_id=job_id, event_at=now, next_at=now))
    return True


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
