"""What is known of a request while it is worked on: for its line in the log, and for who watches."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from serve_app.errors import AsrError
from serve_app.observability.meter import Meter, error_name, is_fault


@dataclass(slots=True)
class Activity:
    """One request, one live connection or one job.

    Attributes:
        request_id: as clients and log lines know it.
        protocol: by which it came.
        model: id of the model that recognizes; ``None``: not known, or nothing is recognized.
        audio_seconds: audio that was taken in.
        retries: calls that were made again since their replica was lost.
        replays: streams that were begun again with the audio that was kept.
        status: how it ended, of a job.
        meter: where it is counted; ``None``: nowhere.
        error: the last that the client was told of.
        failed: whether one was the server's own fault.
        transcribed_at: when the last transcription in it ended, in nanoseconds since 1970; 0: none did.
        began: when it came, by ``time.monotonic``.
    """

    request_id: str
    protocol: str
    model: str | None = None
    audio_seconds: float = 0.0
    retries: int = 0
    replays: int = 0
    status: str = ""
    meter: Meter | None = None
    error: AsrError | None = None
    failed: bool = False
    transcribed_at: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long it has been going on."""
        return time.monotonic() - self.began


_ACTIVITY: ContextVar[Activity | None] = ContextVar("asr_activity", default=None)


def current_activity() -> Activity | None:
    """That of which what runs now is a part; ``None``: of none."""
    return _ACTIVITY.get()


@contextmanager
def active(activity: Activity) -> Iterator[None]:
    """What runs in this context belongs to ``activity``."""
    token = _ACTIVITY.set(activity)
    try:
        yield
    finally:
        _ACTIVITY.reset(token)


def note_model(model: str) -> None:
    """A model was chosen for what runs now."""
    if (activity := _ACTIVITY.get()) is not None:
        activity.model = model


def note_audio(seconds: float) -> None:
    """Audio was taken in."""
    if (activity := _ACTIVITY.get()) is not None:
        activity.audio_seconds += seconds


def note_transcribed() -> None:
    """A transcription ended."""
    if (activity := _ACTIVITY.get()) is not None:
        activity.transcribed_at = time.time_ns()


def note_status(status: str) -> None:
    """What runs now came to this end."""
    if (activity := _ACTIVITY.get()) is not None:
        activity.status = status


def note_retry(deployment: str) -> None:
    """A call is made again."""
    if (activity := _ACTIVITY.get()) is not None:
        activity.retries += 1
        if activity.meter is not None:
            activity.meter.lost_call(deployment)


def note_replay() -> None:
    """A stream is begun again."""
    if (activity := _ACTIVITY.get()) is not None:
        activity.replays += 1
        if activity.meter is not None:
            activity.meter.replay(activity.protocol)


def note_error(error: AsrError) -> None:
    """The client is told of an error; one that is told in several ways counts once."""
    if (activity := _ACTIVITY.get()) is None or activity.error is error:
        return
    activity.error = error
    name = error_name(error)
    activity.failed = activity.failed or is_fault(name)
    if activity.meter is not None:
        activity.meter.error(activity.protocol, name)


def note_files(change: int) -> None:
    """So many more files hold a place."""
    if (activity := _ACTIVITY.get()) is not None and activity.meter is not None:
        activity.meter.files(change)


def note_file(audio_seconds: float, seconds: float) -> None:
    """A file was transcribed to its end, in so many seconds."""
    if (activity := _ACTIVITY.get()) is not None and activity.meter is not None:
        activity.meter.file(activity.protocol, audio_seconds, seconds)
