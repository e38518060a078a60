"""What the routes of jobs answer with. Times are whole seconds since 1970 (UTC), as in OpenAI's objects."""

from datetime import datetime
from typing import Annotated, Literal
from urllib.parse import urlsplit, urlunsplit

from fastapi import Request
from pydantic import BaseModel, Field

from serve_app.jobs.types import Job, JobSpec, JobStatus

Status = Literal["queued", "running", "completed", "failed", "canceled"]


class Progress(BaseModel):
    """Audio seconds that are transcribed, of all; with split channels, each of them counts."""

    seconds_done: float = Field(ge=0)
    seconds_total: float | None = Field(ge=0, description="Null until the length of the recording is known.")
    fraction: float | None = Field(ge=0, le=1, description="Null as long as `seconds_total` is.")


class JobFailure(BaseModel):
    """Why a job failed; the codes are those of the errors of `POST /v1/audio/transcriptions`."""

    code: str
    message: str


class Links(BaseModel):
    """Paths on this server."""

    self: str
    result: str
    events: str
    cancel: str


class JobObject(BaseModel):
    """A job as it is now."""

    id: str
    object: Literal["transcription.job"] = "transcription.job"
    status: Status
    created_at: int
    started_at: int | None = Field(description="When it was first begun.")
    finished_at: int | None = Field(description="When it was completed, failed or canceled.")
    expires_at: int | None = Field(description="When it will be forgotten, with its result.")
    progress: Progress
    error: JobFailure | None
    filename: str | None
    url: str | None = Field(description="Where the recording is from, without credentials and query.")
    channels: Literal["mix", "split", "speakers"]
    metadata: dict[str, str]
    response_format: str | None = Field(description="Of the result where its request names none.")
    links: Links


class JobList(BaseModel):
    """A page of jobs, from the newest to the oldest."""

    object: Literal["list"] = "list"
    data: list[JobObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedJob(BaseModel):
    """What is left of a job that was deleted."""

    id: str
    object: Literal["transcription.job.deleted"] = "transcription.job.deleted"
    deleted: Annotated[Literal[True], Field()] = True


def job_object(job: Job, root: str) -> JobObject:
    """``job`` for a client; ``root`` is the path under which it sees this server (:func:`root_path`)."""
    path = f"{root}/v1/jobs/{job.id}"
    return JobObject(
        id=job.id,
        status=job.status.value,
        created_at=int(job.created_at.timestamp()),
        started_at=_epoch(job.started_at),
        finished_at=_epoch(job.finished_at),
        expires_at=_epoch(job.expires_at),
        progress=_progress(job),
        error=JobFailure(code=job.error.code, message=job.error.message) if job.error else None,
        filename=job.spec.filename,
        url=public_url(job.spec.url) if job.spec.url else None,
        channels=channels_of(job.spec),
        metadata=dict(job.spec.metadata),
        response_format=job.spec.response_format,
        links=Links(self=path, result=f"{path}/result", events=f"{path}/events", cancel=f"{path}/cancel"),
    )


def channels_of(spec: JobSpec) -> Literal["mix", "split", "speakers"]:
    """What shall be done with the channels of a job's recording."""
    if spec.options.speakers is not None and spec.options.speakers.by_channel:
        return "speakers"
    return "split" if spec.split_channels else "mix"


def root_path(request: Request) -> str:
    """The prefix that a proxy took off the path of a request; mostly empty."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def public_url(url: str) -> str:
    """``url`` without user, password, query and fragment: storage services sign URLs in the query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _progress(job: Job) -> Progress:
    done, total = job.seconds_done, job.seconds_total
    fraction = None
    if job.status is JobStatus.COMPLETED:
        fraction = 1.0
    elif total is not None:
        fraction = round(min(1.0, done / total), 4) if total > 0 else 0.0
    return Progress(
        seconds_done=round(done, 3),
        seconds_total=None if total is None else round(total, 3),
        fraction=fraction,
    )


def _epoch(time: datetime | None) -> int | None:
    return None if time is None else int(time.timestamp())
