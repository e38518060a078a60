"""Webhooks in the database: which are due, and what came of them. Everything here blocks."""

import time
from dataclasses import dataclass

from sqlalchemy import select, update

from serve_app.jobs import schema
from serve_app.jobs.database import Database
from serve_app.jobs.rows import job_of
from serve_app.jobs.store import Clock
from serve_app.jobs.types import Job


@dataclass(frozen=True, slots=True)
class Delivery:
    """A notice that is to be sent now. ``attempt`` counts from 1; ``event_at``: when the job ended."""

    job: Job
    event_at: float
    attempt: int


class Outbox:
    """One row for each job that has ended and named a webhook."""

    def __init__(self, database: Database, clock: Clock = time.time) -> None:
        self._database = database
        self._clock = clock

    def claim(self, most: int, seconds: float) -> list[Delivery]:
        """Take what is due. Another sender sees it again only after ``seconds``: if this one has died."""
        hooks, now = schema.webhooks, self._clock()
        with self._database.read() as connection:
            due = connection.execute(
                select(hooks).where(hooks.c.next_at <= now).order_by(hooks.c.next_at).limit(most)
            ).all()
        taken = []
        for row in due:
            with self._database.write() as connection:
                claimed = connection.execute(
                    update(hooks)
                    .where(hooks.c.job_id == row.job_id, hooks.c.attempts == row.attempts)
                    .values(attempts=row.attempts + 1, next_at=now + seconds, last_answer=None)
                )
                if claimed.rowcount:
                    job = connection.execute(select(schema.jobs).where(schema.jobs.c.id == row.job_id)).one()
                    taken.append(Delivery(job_of(job), row.event_at, row.attempts + 1))
        return taken

    def settle(self, delivery: Delivery, answer: str, pause: float | None) -> None:
        """Note what came of a delivery: ``pause`` seconds until the next one, ``None`` for the end of it."""
        hooks = schema.webhooks
        with self._database.write() as connection:
            connection.execute(
                update(hooks)
                .where(hooks.c.job_id == delivery.job.id, hooks.c.attempts == delivery.attempt)
                .values(last_answer=answer, next_at=None if pause is None else self._clock() + pause)
            )
