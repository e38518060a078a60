"""What a job is, and what its keeper does. No database, no HTTP."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import BinaryIO, Protocol

from serve_app.pipeline.types import Transcript
from serve_app.transcriber import TranscriptionOptions


class JobStatus(StrEnum):
    """``QUEUED`` and ``RUNNING`` may follow each other more than once; the others are for good."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_final(self) -> bool:
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where to tell the end of a job. ``secret`` signs what is sent there; ``None``: the server's own."""

    url: str
    secret: str | None = None


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a client orders.

    Attributes:
        options: as for a file that is transcribed at once; its priority is not used.
        split_channels: transcribe each channel by itself, not their mean.
        first_channel_only: with ``split_channels``, the first one only.
        url: where the recording is fetched from, if it was not uploaded.
        filename: what the client calls it.
        webhook: whom to tell.
        metadata: given back as it came.
        response_format: shape of the result where the request for it names none.
        protocol: which API it came by (``jobs``, ``aliyun``), so that each lists its own.
        extra: what that API has to remember for its answers.
        traceparent: the span under which it was ordered, as W3C's header writes it; ``None``: untraced.
    """

    options: TranscriptionOptions = field(default_factory=TranscriptionOptions)
    split_channels: bool = False
    first_channel_only: bool = False
    url: str | None = None
    filename: str | None = None
    webhook: Webhook | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    response_format: str | None = None
    protocol: str = "jobs"
    extra: Mapping[str, str] = field(default_factory=dict)
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed: ``code`` is a word for programs, as in OpenAI's envelope."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is now. Times are UTC; ``seconds_done`` of ``seconds_total`` are transcribed.

    ``seconds_total`` is ``None`` until the recording is there and tells its length. Both count each channel.
    """

    id: str
    owner: str
    spec: JobSpec
    status: JobStatus
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    seconds_done: float = 0.0
    seconds_total: float | None = None
    error: JobError | None = None
    attempts: int = 0


class Jobs(Protocol):
    """Keeps jobs. ``owner`` is a client's id: nobody sees the jobs of another one.

    All methods but :meth:`submit` and :meth:`list` raise :class:`serve_app.errors.NotFound` for a job that
    is not there.
    """

    async def submit(
        self,
        owner: str,
        spec: JobSpec,
        recording: BinaryIO | None = None,
        idempotency_key: str | None = None,
    ) -> tuple[Job, bool]:
        """Take a job in; once this returns, it survives the end of any process.

        Args:
            recording: its audio, read from its begin; ``None`` if ``spec.url`` has it.
            idempotency_key: the same key again gives the job that it gave the first time.

        Returns:
            The job, and whether it is a new one.

        Raises:
            Conflict: the key was used for another order.
            Overloaded: the queue, or the disk, is full.
        """
        ...

    async def get(self, owner: str, job_id: str) -> Job: ...

    async def list(
        self,
        owner: str,
        *,
        limit: int = 20,
        after: str | None = None,
        status: JobStatus | None = None,
        protocol: str | None = None,
    ) -> list[Job]:
        """Jobs from the newest to the oldest, of those that came before the job ``after``.

        ``protocol``: only those with this ``spec.protocol``. An ``after`` that is not there gives none.
        """
        ...

    async def cancel(self, owner: str, job_id: str) -> Job:
        """Stop a job; no effect on one that has ended."""
        ...

    async def delete(self, owner: str, job_id: str) -> None:
        """Stop a job, and forget all about it."""
        ...

    async def transcripts(self, owner: str, job_id: str) -> tuple[Transcript, ...]:
        """What is transcribed up to now: one transcript, or one for each channel if they are split."""
        ...

    def watch(self, owner: str, job_id: str) -> AsyncIterator[Job]:
        """The job now, then whenever it has changed, up to and including its end."""
        ...
