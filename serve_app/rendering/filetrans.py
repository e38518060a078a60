"""Bodies of Aliyun's file transcription: what ``GetTaskResult`` answers and what a callback carries.

Times are milliseconds. Shapes and codes: https://help.aliyun.com/zh/isi/developer-reference/api-reference-2
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from serve_app.jobs.types import Job, JobStatus
from serve_app.pipeline.types import Sentence, Transcript
from serve_app.rendering.aliyun import milliseconds
from serve_app.rendering.speakers import apart
from serve_app.rendering.tones import tone_of

CODES: Mapping[str, int] = {
    "SUCCESS": 21050000,
    "RUNNING": 21050001,
    "QUEUEING": 21050002,
    "SUCCESS_WITH_NO_VALID_FRAGMENT": 21050003,
    "FILE_DOWNLOAD_FAILED": 41050002,
    "FILE_CHECK_FAILED": 41050003,
    "FILE_TOO_LARGE": 41050004,
    "FILE_PARSE_FAILED": 41050006,
    "FILE_TRANS_TASK_EXPIRED": 41050010,
    "REQUEST_INVALID_FILE_URL_VALUE": 41050011,
    "REQUEST_INVALID_CALLBACK_VALUE": 41050012,
    "REQUEST_PARAMETER_INVALID": 41050013,
    "INTERNAL_ERROR": 51050000,
}
"""``StatusCode`` by ``StatusText``."""

_FAILURES = {
    "download_failed": "FILE_DOWNLOAD_FAILED",
    "unsupported_format": "FILE_CHECK_FAILED",
    "invalid_audio": "FILE_PARSE_FAILED",
    "audio_too_large": "FILE_TOO_LARGE",
    "invalid_value": "REQUEST_PARAMETER_INVALID",
}
"""``StatusText`` by the code of a :class:`serve_app.jobs.types.JobError`; others are faults of the server."""

Windows = Sequence[tuple[int, int, int]]
"""``(begin, end, channel)`` of what shall be transcribed, in milliseconds; none: everything."""


def status_fields(text: str) -> dict[str, Any]:
    return {"StatusText": text, "StatusCode": CODES[text]}


def job_body(job: Job, channels: Sequence[Transcript], request_id: str) -> dict[str, Any]:
    """The state of a job, and its result once it has one.

    Args:
        channels: a transcript for each channel; used of a completed job only.
        request_id: the id of the request that this answers.

    ``Message``, which Aliyun does not send, says in a sentence why a job failed.
    """
    body = {"TaskId": job.id, "RequestId": request_id, **status_fields(_status_text(job, channels))}
    if not job.status.is_final:
        return body
    body["RequestTime"] = _epoch_ms(job.created_at)
    if job.finished_at is not None:
        body["SolveTime"] = _epoch_ms(job.finished_at)
    if job.status is JobStatus.COMPLETED:
        windows = _windows(job)
        body["BizDuration"] = max((milliseconds(item.duration) for item in channels), default=0)
        body["Result"] = {"Sentences": file_sentences(channels, windows)}
        if job.spec.extra.get("enable_words") == "true":
            body["Result"]["Words"] = file_words(channels, windows)
    elif job.error is not None:
        body["Message"] = job.error.message
    return body


def callback_body(job: Job, channels: Sequence[Transcript]) -> dict[str, Any]:
    """What is posted to ``callback_url`` at the end of a job whose ``spec.extra`` has ``callback=aliyun``.

    The object of ``GetTaskResult``, with the id of the request that ordered the job; its keys are in
    snake_case, and its sentences directly under ``result``, where the order said version 2.0.
    """
    body = job_body(job, channels, job.spec.extra.get("request_id", ""))
    if job.spec.extra.get("version") != "2.0":
        return body
    old: dict[str, Any] = _snake_case(body)
    if "result" in old:
        old.update({"result": old["result"]["sentences"], **_only(old["result"], "words")})
    return old


def _only(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {name: fields[name]} if name in fields else {}


def _status_text(job: Job, channels: Sequence[Transcript]) -> str:
    match job.status:
        case JobStatus.QUEUED:
            return "QUEUEING"
        case JobStatus.RUNNING:
            return "RUNNING"
        case JobStatus.COMPLETED:
            spoken = file_sentences(channels, _windows(job))
            return "SUCCESS" if spoken else "SUCCESS_WITH_NO_VALID_FRAGMENT"
        case JobStatus.FAILED:
            return _FAILURES.get(job.error.code if job.error else "", "INTERNAL_ERROR")
        case JobStatus.CANCELED:
            return "FILE_TRANS_TASK_EXPIRED"


def _windows(job: Job) -> Windows:
    return [
        (begin, end, channel) for begin, end, channel in json.loads(job.spec.extra.get("valid_times", "[]"))
    ]


def _epoch_ms(when: datetime) -> int:
    return milliseconds(when.timestamp())


def file_sentences(channels: Sequence[Transcript], windows: Windows = ()) -> list[dict[str, Any]]:
    """``Result.Sentences`` of file transcription, by time.

    ``SilenceDuration`` is the pause since the channel's sentence before, in whole seconds, and
    ``SpeechRate`` characters a minute. ``EmotionValue``, a loudness in Aliyun's answers, is left out:
    nothing here measures it. Where speakers are told apart, those of a recording with one channel have their
    number, from 0, in ``ChannelId``, as Aliyun's ``auto_split`` has it; ``SpeakerId`` is their label.
    ``Emotion`` and ``Events``, which Aliyun does not send, are there where the model tells them.
    """
    items = []
    for channel, transcript in enumerate(apart(channels)):
        last = 0.0
        for sentence in _within(transcript.sentences, channel, windows):
            item = _file_sentence(sentence, sentence.begin - last)
            items.append(item | _source(sentence, channel, len(channels)))
            last = sentence.end
    return sorted(items, key=lambda item: (item["BeginTime"], item["ChannelId"]))


def file_words(channels: Sequence[Transcript], windows: Windows = ()) -> list[dict[str, Any]]:
    """``Result.Words`` of file transcription, by time."""
    items = [
        {
            "Word": word.text,
            "BeginTime": milliseconds(word.begin),
            "EndTime": milliseconds(word.end),
            **_source(sentence, channel, len(channels)),
        }
        for channel, transcript in enumerate(apart(channels))
        for sentence in _within(transcript.sentences, channel, windows)
        for word in sentence.words
    ]
    return sorted(items, key=lambda item: (item["BeginTime"], item["ChannelId"]))


def _source(sentence: Sentence, channel: int, channels: int) -> dict[str, Any]:
    """Where it was heard, and from whom."""
    speaker = sentence.speaker
    if speaker is None:
        return {"ChannelId": channel}
    return {"ChannelId": channel if channels > 1 else speaker.number - 1, "SpeakerId": speaker.label}


def _file_sentence(sentence: Sentence, pause: float) -> dict[str, Any]:
    length = max(milliseconds(sentence.end - sentence.begin), 1)
    return {
        "BeginTime": milliseconds(sentence.begin),
        "EndTime": milliseconds(sentence.end),
        "SilenceDuration": int(max(pause, 0)),
        "Text": sentence.text,
        "SpeechRate": len(sentence.text) * 60_000 // length,
        **{name.capitalize(): value for name, value in tone_of(sentence).items()},
    }


def _within(sentences: Iterable[Sentence], channel: int, windows: Windows) -> Iterable[Sentence]:
    """The parts of sentences whose words have their middle in one of the channel's windows."""
    if not windows:
        yield from sentences
        return
    spans = [(begin, end) for begin, end, where in windows if where == channel]
    for sentence in sentences:
        middles = [(word, (word.begin + word.end) * 500) for word in sentence.words]
        words = tuple(word for word, middle in middles if any(a <= middle < b for a, b in spans))
        if words:
            yield replace(sentence, words=words)


def _snake_case(value: Any) -> Any:
    """``value`` with its CamelCase keys in snake_case, as callbacks of version 2.0 have them."""
    if isinstance(value, dict):
        return {
            re.sub(r"(?<!^)(?=[A-Z])", "_", key).lower(): _snake_case(item) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_snake_case(item) for item in value]
    return value
