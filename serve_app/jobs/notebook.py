"""What a worker keeps of a job: segments as they are recognized, sentences, and what it finds at first.

Everything here blocks: call it on a thread. Each change says whose lease it relies on.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import delete, insert, select, update

from deployments.messages import SpeechSpan
from serve_app.jobs import schema
from serve_app.jobs.codec import dump_recognition, dump_sentence, load_recognition, load_sentence
from serve_app.jobs.database import Database
from serve_app.jobs.lease import Known, Lease, LeaseLost, Progress
from serve_app.jobs.types import JobStatus
from serve_app.pipeline.types import Sentence, Transcript

_CHUNK = 500


class JobNotebook:
    """The channels of jobs, their segments and sentences."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self, lease: Lease, channel: int) -> Known:
        """What earlier attempts found out about a channel."""
        rows, texts = schema.checkpoints, schema.sentences
        with self._database.read() as connection:
            found = connection.execute(
                select(rows).where(rows.c.job_id == lease.job.id, rows.c.channel == channel)
            ).all()
            sentences = connection.execute(
                select(texts.c.words)
                .where(texts.c.job_id == lease.job.id, texts.c.channel == channel)
                .order_by(texts.c.number)
            ).all()
        return Known(
            {SpeechSpan(row.begin_ms, row.end_ms): load_recognition(row.words) for row in found},
            tuple(load_sentence(row.words) for row in sentences),
        )

    def save(self, lease: Lease, progress: Progress) -> None:
        """Put news on disk, all or nothing.

        Raises:
            LeaseLost: nothing was changed.
            Overloaded: the disk is full.
        """
        job_id = {"job_id": lease.job.id, "channel": progress.channel}
        new = len(progress.recognized)
        with self._database.write() as connection:
            changed = connection.execute(
                update(schema.jobs)
                .where(*still(lease))
                .values(
                    seconds_done=progress.seconds_done,
                    seconds_total=progress.seconds_total,
                    results_kept=schema.jobs.c.results_kept + new + progress.again,
                    failures=0 if new else schema.jobs.c.failures,
                )
            )
            if not changed.rowcount:
                raise LeaseLost
            about = {"duration": progress.duration, "language": progress.language}
            where = _channel(schema.channels, lease, progress.channel)
            if not connection.execute(update(schema.channels).where(*where).values(about)).rowcount:
                connection.execute(insert(schema.channels).values(job_id | about))
            _note_applied(connection, job_id, progress.applied)
            if progress.recognized:
                connection.execute(
                    insert(schema.checkpoints),
                    [
                        {
                            **job_id,
                            "begin_ms": span.begin_ms,
                            "end_ms": span.end_ms,
                            "attempt": lease.job.attempts,
                            "words": dump_recognition(recognition),
                        }
                        for span, recognition in progress.recognized.items()
                    ],
                )
            if progress.sentences:
                numbers = [*progress.sentences]
                for begin in range(0, len(numbers), _CHUNK):
                    connection.execute(
                        delete(schema.sentences).where(
                            *_channel(schema.sentences, lease, progress.channel),
                            schema.sentences.c.number.in_(numbers[begin : begin + _CHUNK]),
                        )
                    )
                _insert(connection, job_id, progress.sentences)

    def replace(self, lease: Lease, channel: int, sentences: Sequence[Sentence]) -> None:
        """Put the sentences of a whole channel in the place of those there, all or nothing.

        Raises:
            LeaseLost: nothing was changed.
            Overloaded: the disk is full.
        """
        with self._database.write() as connection:
            _require(connection, lease)
            connection.execute(delete(schema.sentences).where(*_channel(schema.sentences, lease, channel)))
            _insert(connection, {"job_id": lease.job.id, "channel": channel}, dict(enumerate(sentences)))

    def join(self, lease: Lease, language: str | None, whole: Transcript) -> None:
        """Put ``whole`` in the place of the transcripts of all channels; errors as those of :meth:`replace`.

        ``language``: what is known of it.
        """
        with self._database.write() as connection:
            _require(connection, lease)
            for table in (schema.sentences, schema.channels, schema.hotwords):
                connection.execute(delete(table).where(table.c.job_id == lease.job.id, table.c.channel > 0))
            connection.execute(delete(schema.sentences).where(*_channel(schema.sentences, lease, 0)))
            where = _channel(schema.channels, lease, 0)
            about = {"duration": whole.duration, "language": language}
            connection.execute(update(schema.channels).where(*where).values(about))
            first = {"job_id": lease.job.id, "channel": 0}
            _note_applied(connection, first, whole.applied)
            _insert(connection, first, dict(enumerate(whole.sentences)))


def held_by(worker: str) -> tuple[Any, ...]:
    """Where a job is held by a worker."""
    return schema.jobs.c.lease_owner == worker, schema.jobs.c.status == JobStatus.RUNNING.value


def still(lease: Lease) -> tuple[Any, ...]:
    """Where a job is still held by this lease."""
    jobs = schema.jobs
    return jobs.c.id == lease.job.id, jobs.c.attempts == lease.job.attempts, *held_by(lease.worker)


def _channel(table: Any, lease: Lease, channel: int) -> tuple[Any, ...]:
    return table.c.job_id == lease.job.id, table.c.channel == channel


def _note_applied(connection: Any, of_channel: Mapping[str, Any], applied: Sequence[str]) -> None:
    """Keep the hotwords that were listened for, if there are any."""
    if not applied:
        return
    table, texts = schema.hotwords, {"texts": json.dumps(applied)}
    where = [table.c[name] == value for name, value in of_channel.items()]
    if not connection.execute(update(table).where(*where).values(texts)).rowcount:
        connection.execute(insert(table).values({**of_channel, **texts}))


def _insert(connection: Any, of_channel: Mapping[str, Any], sentences: Mapping[int, Sentence]) -> None:
    rows = [
        {**of_channel, "number": number, "words": dump_sentence(sentence)}
        for number, sentence in sentences.items()
    ]
    if rows:
        connection.execute(insert(schema.sentences), rows)


def _require(connection: Any, lease: Lease) -> None:
    """Hold on to the job's row until the transaction ends."""
    if not connection.execute(
        update(schema.jobs).where(*still(lease)).values(lease_owner=lease.worker)
    ).rowcount:
        raise LeaseLost
