"""What a worker of jobs holds, what it is told of earlier attempts, and what it reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deployments.messages import Recognition, SpeechSpan
from serve_app.jobs.types import Job
from serve_app.pipeline.types import Sentence


class LeaseLost(Exception):
    """The job was canceled, deleted, or given to another worker."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A job that a worker holds. ``failures``: attempts in a row, this one too, that brought nothing new."""

    job: Job
    worker: str
    failures: int

    @property
    def key(self) -> tuple[str, int]:
        return self.job.id, self.job.attempts


@dataclass(frozen=True, slots=True)
class Known:
    """What earlier attempts left of one channel."""

    recognized: Mapping[SpeechSpan, Recognition]
    sentences: tuple[Sentence, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """News of one channel. ``recognized`` are segments that no attempt had a result of; ``again`` counts
    results for others. ``sentences`` are by number, and replace what is there. ``applied`` are the hotwords
    that were listened for up to now. Times are seconds."""

    channel: int
    duration: float
    language: str | None
    seconds_done: float
    seconds_total: float | None
    recognized: Mapping[SpeechSpan, Recognition] = field(default_factory=dict)
    again: int = 0
    sentences: Mapping[int, Sentence] = field(default_factory=dict)
    applied: tuple[str, ...] = ()
