"""The tables. Times are seconds of the Unix epoch; texts that hold structure are JSON."""

from sqlalchemy import (
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION = 1

metadata = MetaData()

_ID = String(64)
_NAME = String(255)

versions = Table(
    "asr_schema",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
)
"""One row: the version of all tables."""

jobs = Table(
    "asr_jobs",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("owner", _NAME, nullable=False),
    Column("protocol", _NAME, nullable=False),
    Column("spec", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("idempotency_key", _NAME),
    Column("fingerprint", String(64), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("expires_at", Double),
    Column("seconds_done", Double, nullable=False, default=0.0),
    Column("seconds_total", Double),
    Column("error_code", _NAME),
    Column("error_message", Text),
    Column("attempts", Integer, nullable=False, default=0),
    # Attempts in a row in which nothing new was recognized.
    Column("failures", Integer, nullable=False, default=0),
    Column("available_at", Double, nullable=False),
    Column("lease_owner", _NAME),
    Column("lease_until", Double),
    # Results that came from the recognizer, and how many segments they are of: the same, unless any was
    # recognized twice.
    Column("results_kept", Integer, nullable=False, default=0),
    Column("segments", Integer, nullable=False, default=0),
    UniqueConstraint("owner", "idempotency_key", name="asr_jobs_idempotency"),
)

Index("asr_jobs_of_owner", jobs.c.owner, jobs.c.created_at)
Index("asr_jobs_waiting", jobs.c.status, jobs.c.available_at)
Index("asr_jobs_expiring", jobs.c.expires_at)


def _of_job() -> "Column[str]":
    """Part of the key; the row goes with its job."""
    return Column("job_id", _ID, ForeignKey("asr_jobs.id", ondelete="CASCADE"), primary_key=True)


checkpoints = Table(
    "asr_checkpoints",
    metadata,
    _of_job(),
    Column("channel", Integer, primary_key=True, autoincrement=False),
    Column("begin_ms", Integer, primary_key=True, autoincrement=False),
    Column("end_ms", Integer, primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    Column("words", Text, nullable=False),
)
"""What was recognized, by segment; gone once the job has ended."""

channels = Table(
    "asr_channels",
    metadata,
    _of_job(),
    Column("channel", Integer, primary_key=True, autoincrement=False),
    Column("duration", Double, nullable=False),
    Column("language", String(16)),
)
"""The transcripts, partial ones too, without their sentences."""

hotwords = Table(
    "asr_applied_hotwords",
    metadata,
    _of_job(),
    Column("channel", Integer, primary_key=True, autoincrement=False),
    Column("texts", Text, nullable=False),
)
"""Which hotwords the model listened for, of jobs that have any."""

sentences = Table(
    "asr_sentences",
    metadata,
    _of_job(),
    Column("channel", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("words", Text, nullable=False),
)

webhooks = Table(
    "asr_webhooks",
    metadata,
    _of_job(),
    Column("event_at", Double, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    # When it is sent next; none, once it was delivered or given up.
    Column("next_at", Double),
    # None while it is being sent.
    Column("last_answer", Text),
)
"""Notices of jobs that have ended."""

Index("asr_webhooks_due", webhooks.c.next_at)

speakers = Table(
    "asr_speakers",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("owner", _NAME, nullable=False),
    Column("name", String(64), nullable=False),
    # What made the voice; those of different models cannot be compared.
    Column("model", _NAME, nullable=False),
    # 32-bit floats, little-endian.
    Column("voice", LargeBinary, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("recordings", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("owner", "name", name="asr_speakers_names"),
)
"""Named voices. They belong to no job, and stay until they are deleted."""

Index("asr_speakers_of_owner", speakers.c.owner, speakers.c.created_at)
