"""The result of a job, in the formats of OpenAI's transcriptions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from fastapi import Response
from fastapi.responses import JSONResponse

from serve_app.api.hotwords import transcript_report
from serve_app.api.openai.answers import answer
from serve_app.api.openai.wire import ResponseFormat, TranscriptionForm
from serve_app.errors import Conflict, InvalidParameter
from serve_app.jobs.types import Job, JobSpec, JobStatus
from serve_app.models import ServedModels
from serve_app.pipeline.hotwords_report import HotwordReport
from serve_app.pipeline.types import Transcript
from serve_app.rendering.openai import Granularity
from serve_app.rendering.speakers import apart

_RETRY_AFTER_SECONDS = 5


class NoResult(Conflict):
    """A job is not completed. ``code``: a word for programs; ``retry_after``: seconds, if waiting helps."""

    def __init__(self, message: str, code: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Presentation:
    """How a result shall look; arguments of :func:`serve_app.api.openai.answers.answer`."""

    response_format: ResponseFormat = "json"
    granularities: tuple[Granularity, ...] = ()
    logprobs: bool = False
    languages: bool = False
    speakers: bool = False

    @classmethod
    def of(cls, form: TranscriptionForm) -> "Presentation":
        return cls(
            form.effective_format,
            form.granularities,
            form.logprobs,
            languages=bool(form.languages),
        )

    @classmethod
    def ordered(cls, spec: JobSpec) -> "Presentation":
        """As it was asked for when the job was submitted (:meth:`extra`)."""
        granularities = spec.extra.get("granularities", "").split(",")
        return cls(
            cast("ResponseFormat", spec.response_format or "json"),
            tuple(cast("Granularity", item) for item in granularities if item),
            **{name: spec.extra.get(name) == "true" for name in ("logprobs", "languages")},
            speakers=spec.options.speakers is not None,
        )

    def extra(self) -> Mapping[str, str]:
        """All for ``JobSpec.extra``: the spec itself has the format, and whether there are speakers."""
        flags = {"logprobs": self.logprobs, "languages": self.languages}
        return {
            "granularities": ",".join(self.granularities),
            **{name: "true" for name, wanted in flags.items() if wanted},
        }


def presentation(spec: JobSpec, asked: Mapping[str, str | list[str]]) -> Presentation:
    """How the result shall look: as ``asked`` now, where nothing is asked as it was ordered.

    Raises:
        InvalidParameter: what is asked does not fit together.
    """
    ordered = Presentation.ordered(spec)
    if not asked:
        return ordered
    form = TranscriptionForm.parse(asked)
    wanted = Presentation.of(form)
    if form.timestamp_granularities and form.response_format is None:
        wanted = replace(wanted, response_format="verbose_json")
    elif form.response_format is None:
        wanted = Presentation.of(
            TranscriptionForm.parse({**asked, "response_format": ordered.response_format})
        )
    return replace(wanted, languages=ordered.languages, speakers=ordered.speakers)


def check_completed(job: Job) -> None:
    """Raise :class:`NoResult` for a job that is not completed."""
    match job.status:
        case JobStatus.COMPLETED:
            return
        case JobStatus.FAILED:
            code, message = (job.error.code, job.error.message) if job.error else ("internal_error", "")
            raise NoResult(f"The job failed: {message}", code)
        case JobStatus.CANCELED:
            raise NoResult(
                "The job was canceled; partial=true gives what was transcribed until then.", "job_canceled"
            )
    raise NoResult(
        f"The job is {job.status.value}; ask again later, or with partial=true for what there is.",
        "job_not_finished",
        _RETRY_AFTER_SECONDS,
    )


def result(
    transcripts: Sequence[Transcript],
    spec: JobSpec,
    wanted: Presentation,
    channel: int | None,
    models: ServedModels,
) -> Response:
    """Answer with what is transcribed.

    Channels that were split come on one time line, in the order in which is spoken; in formats that are
    JSON, ``channels`` holds each by itself, too. Their speakers are numbered together.

    Args:
        channel: only this one, from 0.
        models: what they can do with hotwords is told.

    Raises:
        InvalidParameter: there is no such channel.
    """

    def answered(transcript: Transcript) -> Response:
        return _answer(transcript, wanted, transcript_report(models, spec.options, [transcript]))

    if spec.split_channels:
        transcripts = apart(transcripts)
    if channel is not None:
        if not spec.split_channels:
            raise InvalidParameter("The channels of this job were not split.", "channel")
        if channel >= max(1, len(transcripts)):
            raise InvalidParameter(f"This recording has {len(transcripts)} channels, from 0.", "channel")
        return answered(transcripts[channel] if transcripts else _NOTHING)
    whole = answered(_together(transcripts))
    if not spec.split_channels or not isinstance(whole, JSONResponse):
        return whole
    channels = [_body(answered(transcript)) for transcript in transcripts]
    return JSONResponse({**_body(whole), "channels": channels})


_NOTHING = Transcript.of(0.0, ())


def _together(transcripts: Sequence[Transcript]) -> Transcript:
    if not transcripts:
        return _NOTHING
    if len(transcripts) == 1:
        return transcripts[0]
    sentences = [sentence for transcript in transcripts for sentence in transcript.sentences]
    spoken = [transcript.language for transcript in transcripts if transcript.sentences]
    return Transcript.of(
        max(transcript.duration for transcript in transcripts),
        sorted(sentences, key=lambda sentence: sentence.begin),
        spoken[0] if len(set(spoken)) == 1 else None,
        (text for transcript in transcripts for text in transcript.applied),
    )


def _answer(transcript: Transcript, wanted: Presentation, hotwords: HotwordReport | None) -> Response:
    return answer(
        transcript,
        wanted.response_format,
        wanted.granularities,
        wanted.logprobs,
        languages=wanted.languages,
        speakers=wanted.speakers,
        hotwords=hotwords,
    )


def _body(response: Response) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(bytes(response.body))
    return body
