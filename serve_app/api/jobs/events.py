"""A job as server-sent events: how far it is, what was said, how it ended."""

import json
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Any, Self

from fastapi.sse import format_sse_event

from serve_app.api.jobs.objects import channels_of, job_object
from serve_app.api.openai.errors import error_object
from serve_app.errors import AsrError
from serve_app.jobs.types import Job, Jobs
from serve_app.pipeline.types import Sentence
from serve_app.rendering.openai import CONFIDENCE_DIGITS
from serve_app.rendering.speakers import apart
from serve_app.rendering.tones import tone_of

_ID = re.compile(r"([a-z]{1,16}):(\d{1,12}\.\d{3}):((?:\d{1,9}(?:\.\d{1,9}){0,63})?)")


@dataclass(frozen=True, slots=True)
class Position:
    """What a client has seen: a state of the job, and the first words of each channel.

    Words, because there may be more sentences once it is known who said them.
    """

    status: str = ""
    seconds_done: str = ""
    words: tuple[int, ...] = ()

    @classmethod
    def read(cls, event_id: str | None) -> Self:
        """From ``Last-Event-ID``; the begin, where that is none of ours."""
        found = _ID.fullmatch(event_id or "")
        if found is None:
            return cls()
        return cls(found[1], found[2], tuple(int(count) for count in found[3].split(".") if count))

    def __str__(self) -> str:
        return f"{self.status or 'queued'}:{self.seconds_done or '0.000'}:{'.'.join(map(str, self.words))}"

    def at(self, job: Job) -> "Position":
        return replace(self, status=job.status.value, seconds_done=f"{job.seconds_done:.3f}")


async def job_events(
    jobs: Jobs, owner: str, job_id: str, *, root: str, seen: Position, sentences: bool
) -> AsyncGenerator[bytes, None]:
    """Yield events up to the end of a job, without those that a client has ``seen``.

    ``progress`` and the last one, which is called as the job's last status, hold the job. With ``sentences``,
    each of them comes as an event of that name before the progress that counts it. Where speakers are told
    apart, which is done at the end of a recording, an event ``speakers`` before the last one has all of them
    anew, with who said them; one may be several by then. Where channels are speakers, nothing is told of
    sentences before: only in the end is it known in what order they were said.

    Raises:
        NotFound: there is no such job, or it was deleted meanwhile.
    """
    async for job in jobs.watch(owner, job_id):
        if sentences and (job.status.is_final or channels_of(job.spec) != "speakers"):
            async for reached, event in _sentences(jobs, owner, job_id, seen):
                yield event
                seen = reached
            if job.status.is_final and (told := await _with_speakers(jobs, owner, job)):
                yield format_sse_event(event="speakers", data_str=_json({"sentences": told}))
        now = seen.at(job)
        if job.status.is_final or now != seen:
            name = job.status.value if job.status.is_final else "progress"
            yield format_sse_event(event=name, id=str(now), data_str=job_object(job, root).model_dump_json())
        seen = now


async def _sentences(
    jobs: Jobs, owner: str, job_id: str, seen: Position
) -> AsyncGenerator[tuple[Position, bytes], None]:
    transcripts = await jobs.transcripts(owner, job_id)
    counts = list(seen.words[: len(transcripts)])
    counts += [0] * (len(transcripts) - len(counts))
    for channel, transcript in enumerate(transcripts):
        begin = 0
        for number, sentence in enumerate(transcript.sentences):
            if begin >= counts[channel]:
                counts[channel] = begin + len(sentence.words)
                seen = replace(seen, words=tuple(counts))
                data = _json(_sentence(number, channel, sentence))
                yield seen, format_sse_event(event="sentence", id=str(seen), data_str=data)
            begin += len(sentence.words)


async def _with_speakers(jobs: Jobs, owner: str, job: Job) -> list[dict[str, Any]]:
    """The sentences of all channels whose speakers are known."""
    transcripts = await jobs.transcripts(owner, job.id)
    if job.spec.split_channels:
        transcripts = apart(transcripts)
    return [
        _sentence(number, channel, sentence)
        for channel, transcript in enumerate(transcripts)
        if any(sentence.speaker for sentence in transcript.sentences)
        for number, sentence in enumerate(transcript.sentences)
    ]


def _sentence(number: int, channel: int, sentence: Sentence) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": number,
        "channel": channel,
        "start": round(sentence.begin, 3),
        "end": round(sentence.end, 3),
        "text": sentence.text,
    }
    if sentence.speaker:
        body["speaker"] = sentence.speaker.label
        body["speaker_confidence"] = round(sentence.speaker.confidence, CONFIDENCE_DIGITS)
    return body | tone_of(sentence)


def error_event(error: AsrError) -> bytes:
    """What ends the stream of a job that was deleted, or that cannot be watched any longer."""
    return format_sse_event(event="error", data_str=_json({"error": error_object(error)}))


def _json(body: dict[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))
