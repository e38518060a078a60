"""What ``SubmitTask`` orders: the JSON in its parameter ``Task``, and the job that comes of it."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from serve_app import errors
from serve_app.api.aliyun.wire import TextParameters, parse
from serve_app.api.hotwords import AskedWords
from serve_app.jobs.types import JobSpec, Webhook
from serve_app.pipeline.speakers.types import MOST_SPEAKERS
from serve_app.transcriber import TranscriptionOptions

PROTOCOL = "aliyun"

_AT_MOST = 2
"""``supervise_type``: the server finds out how many speakers there are."""


class FileTask(TextParameters):
    """The JSON object in the parameter ``Task``; times in milliseconds. Unknown names are ignored.

    ``model`` and ``language`` are none of Aliyun's.
    """

    file_link: Any = None
    version: str = "4.0"
    enable_words: bool = False
    enable_punctuation_prediction: bool = True
    enable_disfluency: bool = False
    enable_callback: bool = False
    callback_url: Any = None
    first_channel_only: bool = False
    max_end_silence: int | None = None
    auto_split: bool = False
    supervise_type: int | None = None
    speaker_num: int | None = Field(None, ge=1, le=100)
    model: str = ""
    language: str | None = None
    valid_times: list[dict[str, int]] = Field(default_factory=list)

    def windows(self) -> list[tuple[int, int, int]]:
        """``(begin, end, channel)`` of each of ``valid_times``. Raises :class:`InvalidParameter`."""
        found = []
        for item in self.valid_times:
            if not 0 <= item.get("begin_time", -1) < item.get("end_time", -1):
                raise errors.InvalidParameter(
                    "Each of valid_times needs a begin_time and a later end_time.", "valid_times"
                )
            found.append((item["begin_time"], item["end_time"], item.get("channel_id", 0)))
        return found

    def speaker_counts(self) -> tuple[int | None, int | None]:
        """How many speakers there are, and at most, as far as that is known.

        Aliyun takes ``speaker_num`` for advice: above what can be told apart here, it is none.
        """
        known = self.speaker_num
        if known is None or known > MOST_SPEAKERS:
            return None, None
        return (None, known) if self.supervise_type == _AT_MOST else (known, None)


class TaskRefused(errors.AsrError):
    """An order that is told to be wrong by ``status_text``, in an answer with the HTTP status 200."""

    def __init__(self, message: str, status_text: str) -> None:
        super().__init__(message)
        self.status_text = status_text


def read_task(text: str) -> FileTask:
    """Read the parameter ``Task``. Raises :class:`TaskRefused`."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise TaskRefused(
            "The parameter Task must be a JSON object as a string.", "REQUEST_PARAMETER_INVALID"
        )
    try:
        task = parse(FileTask, {name: value for name, value in values.items() if value is not None})
        task.windows()
    except errors.InvalidParameter as error:
        raise TaskRefused(error.message, "REQUEST_PARAMETER_INVALID") from error
    return task


def job_spec(task: FileTask, parameters: Mapping[str, str], request: str) -> JobSpec:
    """The job that a task is, without what it says of speakers.

    Args:
        parameters: those beside ``Task``.
        request: id of the request.

    Raises:
        TaskRefused: an address that is none.
    """
    if not _is_web_address(task.file_link):
        raise TaskRefused(
            "The parameter file_link must be the http or https URL of a recording.",
            "REQUEST_INVALID_FILE_URL_VALUE",
        )
    if task.enable_callback and not _is_web_address(task.callback_url):
        raise TaskRefused(
            "With enable_callback, callback_url must be an http or https URL.",
            "REQUEST_INVALID_CALLBACK_VALUE",
        )
    signed = any(name in parameters for name in ("Signature", "AccessKeyId"))
    extra = {
        "version": task.version,
        "request_id": request,
        "enable_words": json.dumps(task.enable_words),
        "valid_times": json.dumps(task.windows()),
        **({"callback": PROTOCOL} if task.enable_callback else {}),
        **AskedWords.of(task.vocabulary_id).extra,
    }
    return JobSpec(
        options=TranscriptionOptions(
            language=task.language,
            model=task.model,
            text=task.text_options(
                official=signed or task.appkey is not None,
                punctuation=task.enable_punctuation_prediction,
                drop_fillers=task.enable_disfluency,
            ),
            hotwords=task.hotwords,
            end_silence_ms=task.max_end_silence,
            speech_noise_threshold=task.speech_noise_threshold,
        ),
        split_channels=True,
        first_channel_only=task.first_channel_only,
        url=task.file_link,
        webhook=Webhook(task.callback_url) if task.enable_callback else None,
        protocol=PROTOCOL,
        extra=extra,
    )


def _is_web_address(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return parts.scheme.lower() in ("http", "https") and bool(parts.hostname)
