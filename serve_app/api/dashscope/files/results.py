"""What is told of tasks, and the transcripts that their results lead to. Times are milliseconds."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from serve_app.jobs.types import Job, JobStatus
from serve_app.pipeline.types import Sentence, Transcript
from serve_app.rendering.aliyun import milliseconds
from serve_app.rendering.speakers import apart
from serve_app.rendering.tones import tone_of

_STATES = {
    JobStatus.QUEUED: "PENDING",
    JobStatus.RUNNING: "RUNNING",
    JobStatus.COMPLETED: "SUCCEEDED",
    JobStatus.FAILED: "FAILED",
    JobStatus.CANCELED: "CANCELED",
}

_FAILURES: Mapping[str, str] = {
    "download_failed": "FILE_DOWNLOAD_FAILED",
    "unsupported_format": "FILE_CHECK_FAILED",
    "invalid_audio": "FILE_PARSE_FAILED",
    "audio_too_large": "FILE_TOO_LARGE",
    "invalid_value": "InvalidParameter",
}
"""Codes by that of a :class:`serve_app.jobs.types.JobError`; others are faults of the server."""

_CHINA = timezone(timedelta(hours=8))
"""DashScope tells times of day without a zone, and means this one."""


def task_body(jobs: Sequence[Job], link: Callable[[Job], str]) -> dict[str, Any]:
    """A task of these recordings. ``link`` gives the URL of a transcript."""
    states = [_STATES[job.status] for job in jobs]
    output: dict[str, Any] = {
        "task_id": jobs[0].id,
        "task_status": _together(states),
        "submit_time": _time(min(job.created_at for job in jobs)),
    }
    if begun := [job.started_at for job in jobs if job.started_at is not None]:
        output["scheduled_time"] = _time(min(begun))
    if all(job.status.is_final for job in jobs):
        ended = [job.finished_at for job in jobs if job.finished_at is not None]
        output["end_time"] = _time(max(ended, default=jobs[0].created_at))
        output["results"] = [_result(job, link) for job in jobs]
        failed = [job for job in jobs if job.error is not None]
        if len(failed) == len(jobs):
            output |= _error(failed[0])
    output["task_metrics"] = {
        "TOTAL": len(jobs),
        "SUCCEEDED": states.count("SUCCEEDED"),
        "FAILED": states.count("FAILED"),
    }
    seconds = sum(job.seconds_total or 0.0 for job in jobs if job.status is JobStatus.COMPLETED)
    return {"output": output, "usage": {"duration": math.ceil(seconds)}}


def transcription_body(job: Job, channels: Sequence[Transcript]) -> dict[str, Any]:
    """What a ``transcription_url`` leads to."""
    wanted = json.loads(job.spec.extra["channels"])
    told = [channel for channel in wanted if channel < len(channels)]
    transcripts = apart([channels[channel] for channel in told])
    length = max((milliseconds(item.duration) for item in channels), default=0)
    return {
        "file_url": job.spec.url,
        "properties": {"channels": told, "original_duration_in_milliseconds": length},
        "transcripts": [
            _transcript(channel, transcript) for channel, transcript in zip(told, transcripts, strict=True)
        ],
    }


def _together(states: Sequence[str]) -> str:
    """The state of a task: it has succeeded if any of its recordings has."""
    if "RUNNING" in states or ("PENDING" in states and set(states) != {"PENDING"}):
        return "RUNNING"
    return next(state for state in ("PENDING", "SUCCEEDED", "FAILED", "CANCELED") if state in states)


def _result(job: Job, link: Callable[[Job], str]) -> dict[str, Any]:
    fields: dict[str, Any] = {"file_url": job.spec.url, "subtask_status": _STATES[job.status]}
    if job.status is JobStatus.COMPLETED:
        fields["transcription_url"] = link(job)
    return fields if job.error is None else fields | _error(job)


def _error(job: Job) -> dict[str, str]:
    if job.error is None:
        return {}
    return {"code": _FAILURES.get(job.error.code, "InternalError"), "message": job.error.message}


def _transcript(channel: int, transcript: Transcript) -> dict[str, Any]:
    spoken = sum(sentence.end - sentence.begin for sentence in transcript.sentences)
    return {
        "channel_id": channel,
        "content_duration_in_milliseconds": milliseconds(spoken),
        "text": transcript.text,
        "sentences": [_sentence(number, item) for number, item in enumerate(transcript.sentences, 1)],
    }


def _sentence(number: int, sentence: Sentence) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "sentence_id": number,
        "begin_time": milliseconds(sentence.begin),
        "end_time": milliseconds(sentence.end),
        "text": sentence.text,
        "words": [
            {
                "begin_time": milliseconds(word.begin),
                "end_time": milliseconds(word.end),
                "text": word.text,
                "punctuation": word.mark,
            }
            for word in sentence.words
        ],
    }
    if sentence.speaker:
        # DashScope's speakers are numbers, from 0.
        fields["speaker_id"] = sentence.speaker.number - 1
    return fields | tone_of(sentence)


def _time(when: datetime) -> str:
    return when.astimezone(_CHINA).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
