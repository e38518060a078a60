"""Jobs in the database, as their owners see them. Everything here blocks: call it on a thread."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, Select, and_, delete, func, insert, or_, select
from sqlalchemy.exc import IntegrityError

from serve_app.errors import Conflict, NotFound, Overloaded
from serve_app.jobs import schema
from serve_app.jobs.codec import dump_spec, load_sentence
from serve_app.jobs.database import Database
from serve_app.jobs.rows import JobRow, end_job, job_of
from serve_app.jobs.types import Job, JobSpec, JobStatus
from serve_app.pipeline.types import Transcript

Clock = Callable[[], float]
"""Seconds of the Unix epoch. Machines that share a database must agree on it within a second or two."""

_QUEUE_RETRY_SECONDS = 30


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job that comes in. ``recording_hash``: SHA-256 of what was uploaded, ``""`` for a URL."""

    id: str
    owner: str
    spec: JobSpec
    recording_hash: str
    idempotency_key: str | None = None

    @property
    def fingerprint(self) -> str:
        """The same for the same order, also if its owner has enrolled another voice meanwhile."""
        spec, speakers = replace(self.spec, traceparent=None), self.spec.options.speakers
        if speakers is not None:
            spec = replace(spec, options=replace(spec.options, speakers=replace(speakers, known=())))
        return hashlib.sha256(f"{dump_spec(spec)}\n{self.recording_hash}".encode()).hexdigest()


class JobStore:
    """``retention``: seconds for which a job is kept after its end."""

    def __init__(self, database: Database, retention: float, clock: Clock = time.time) -> None:
        self._database = database
        self._retention = retention
        self._clock = clock

    def check_room(self, max_queued: int) -> None:
        """Raise ``Overloaded`` if as many jobs wait as may."""
        with self._database.read() as connection:
            waiting = connection.scalar(_waiting())
        if (waiting or 0) >= max_queued:
            raise Overloaded(
                f"{waiting} jobs are waiting, the limit of this server; please try again later.",
                _QUEUE_RETRY_SECONDS,
            )

    def add(self, new: NewJob, max_queued: int) -> tuple[Job, bool]:
        """Take a job in, unless its key has given one before: then that one, and ``False``.

        Raises:
            Conflict: the key was used for another order.
            Overloaded: the queue, or the disk, is full.
        """
        try:
            return self._add(new, max_queued)
        except IntegrityError:
            # The same key came twice at once, to a database that does not make its writers wait.
            return self._add(new, max_queued)

    def _add(self, new: NewJob, max_queued: int) -> tuple[Job, bool]:
        key = new.idempotency_key
        hashed = None if key is None else hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        with self._database.write() as connection:
            if hashed is not None:
                known = connection.execute(
                    select(schema.jobs).where(
                        schema.jobs.c.owner == new.owner, schema.jobs.c.idempotency_key == hashed
                    )
                ).one_or_none()
                if known is not None:
                    return _same(known, new), False
            if (connection.scalar(_waiting()) or 0) >= max_queued:
                raise Overloaded(
                    f"{max_queued} jobs are waiting, the limit of this server; please try again later.",
                    _QUEUE_RETRY_SECONDS,
                )
            now = self._clock()
            connection.execute(
                insert(schema.jobs).values(
                    id=new.id,
                    owner=new.owner,
                    protocol=new.spec.protocol,
                    spec=dump_spec(new.spec),
                    status=JobStatus.QUEUED.value,
                    idempotency_key=hashed,
                    fingerprint=new.fingerprint,
                    created_at=now,
                    available_at=now,
                )
            )
            return job_of(
                connection.execute(select(schema.jobs).where(schema.jobs.c.id == new.id)).one()
            ), True

    def get(self, owner: str, job_id: str) -> Job:
        """Raises ``NotFound``, also for the job of another owner."""
        with self._database.read() as connection:
            row = connection.execute(select(schema.jobs).where(*_owned(owner, job_id))).one_or_none()
        if row is None:
            raise _missing(job_id)
        return job_of(row)

    def list(
        self, owner: str, limit: int, after: str | None, status: JobStatus | None, protocol: str | None
    ) -> list[Job]:
        """See :meth:`serve_app.jobs.types.Jobs.list`."""
        jobs = schema.jobs
        query = select(jobs).where(jobs.c.owner == owner)
        if status is not None:
            query = query.where(jobs.c.status == status.value)
        if protocol is not None:
            query = query.where(jobs.c.protocol == protocol)
        with self._database.read() as connection:
            if after is not None:
                last = connection.execute(select(jobs).where(*_owned(owner, after))).one_or_none()
                if last is None:
                    return []
                same_time = and_(jobs.c.created_at == last.created_at, jobs.c.id < last.id)
                query = query.where(or_(jobs.c.created_at < last.created_at, same_time))
            query = query.order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit)
            return [job_of(row) for row in connection.execute(query)]

    def cancel(self, owner: str, job_id: str) -> Job:
        """End a job that has not ended; who works on it finds its lease gone."""
        unfinished = [status.value for status in JobStatus if not status.is_final]
        with self._database.write() as connection:
            end_job(
                connection,
                job_id,
                schema.jobs.c.owner == owner,
                schema.jobs.c.status.in_(unfinished),
                now=self._clock(),
                retention=self._retention,
                status=JobStatus.CANCELED.value,
            )
        return self.get(owner, job_id)

    def delete(self, owner: str, job_id: str) -> None:
        """Forget a job. Raises ``NotFound``."""
        with self._database.write() as connection:
            if not connection.execute(delete(schema.jobs).where(*_owned(owner, job_id))).rowcount:
                raise _missing(job_id)

    def transcripts(self, owner: str, job_id: str) -> tuple[Transcript, ...]:
        """What is transcribed up to now, by channel. Raises ``NotFound``."""
        self.get(owner, job_id)
        channels, sentences = schema.channels, schema.sentences
        with self._database.read() as connection:
            rows = connection.execute(
                select(channels).where(channels.c.job_id == job_id).order_by(channels.c.channel)
            ).all()
            texts = connection.execute(
                select(sentences.c.channel, sentences.c.words)
                .where(sentences.c.job_id == job_id)
                .order_by(sentences.c.channel, sentences.c.number)
            ).all()
            listened = select(schema.hotwords).where(schema.hotwords.c.job_id == job_id)
            applied = {row.channel: json.loads(row.texts) for row in connection.execute(listened)}
        return tuple(
            Transcript.of(
                row.duration,
                (load_sentence(text.words) for text in texts if text.channel == row.channel),
                row.language,
                applied.get(row.channel, ()),
            )
            for row in rows
        )


def _waiting() -> Select[int]:
    return select(func.count()).select_from(schema.jobs).where(schema.jobs.c.status == JobStatus.QUEUED.value)


def _owned(owner: str, job_id: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return schema.jobs.c.owner == owner, schema.jobs.c.id == job_id


def _same(known: JobRow, new: NewJob) -> Job:
    if known.fingerprint != new.fingerprint:
        raise Conflict("This idempotency key was used before, for another order; choose a new one.")
    return job_of(known)


def _missing(job_id: str) -> NotFound:
    return NotFound(f"There is no job {job_id!r:.80}.")
