"""``stream=true``: a transcription as OpenAI's server-sent events, a sentence at a time.

Events: https://platform.openai.com/docs/api-reference/audio/transcript-text-delta-event
"""

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any, BinaryIO

from fastapi.sse import format_sse_event

from serve_app.api.hotwords import transcript_report
from serve_app.api.openai.errors import error_object
from serve_app.api.openai.wire import RequestForm
from serve_app.errors import AsrError
from serve_app.pipeline.hotwords_report import HotwordReport
from serve_app.pipeline.types import Sentence, TimedWord, Transcript
from serve_app.rendering import openai as render
from serve_app.transcriber import Transcriber, TranscriptionOptions

_WITH_SEGMENTS = frozenset({"diarized_json", "verbose_json"})
_END = format_sse_event(data_str="[DONE]")


async def transcription_events(
    transcriber: Transcriber, source: BinaryIO, options: TranscriptionOptions, form: RequestForm
) -> AsyncGenerator[bytes, None]:
    """Yield the events of one recording; what the deltas add up to is the text of the last event.

    Where speakers are told apart, the segments come at the end of the recording: who spoke is known only
    then, and so is where a sentence ends because another speaker goes on.

    Raises:
        AsrError: see :mod:`serve_app.errors`.
    """
    last: TimedWord | None = None
    segments = form.effective_format in _WITH_SEGMENTS
    at_once = segments and options.speakers is None
    async with transcriber.open(source, options) as transcription:
        number = 0
        async for sentence in transcription.sentences():
            yield _event(_delta(number if at_once else None, sentence, last, form))
            if at_once:
                yield _event(_segment(number, sentence, form))
            last = next((word for word in reversed(sentence.words) if word.text), last)
            number += 1
        transcript = transcription.so_far
        if segments and not at_once:
            for number, sentence in enumerate(transcript.sentences):
                yield _event(_segment(number, sentence, form))
        report = transcript_report(transcriber.models, options, [transcript])
        yield _event(_done(transcript, form, report))
        yield _END


def error_event(error: AsrError) -> bytes:
    """An error in the midst of a stream, which OpenAI's SDKs raise."""
    return _event({"error": error_object(error)})


def _event(body: Mapping[str, Any]) -> bytes:
    return format_sse_event(data_str=json.dumps(body, ensure_ascii=False, separators=(",", ":")))


def _delta(
    number: int | None, sentence: Sentence, last: TimedWord | None, form: RequestForm
) -> dict[str, Any]:
    """``number``: that of the segment that the sentence is, if this is known."""
    delta: dict[str, Any] = {
        "type": "transcript.text.delta",
        "delta": render.continuation(sentence.words, last),
    }
    if number is not None:
        delta["segment_id"] = render.segment_id(number)
    if form.logprobs:
        delta["logprobs"] = render.log_probs(sentence.words, last)
    return delta


def _segment(number: int, sentence: Sentence, form: RequestForm) -> render.SpeakerSegmentItem:
    segment = render.speaker_segment(number, sentence)
    if form.effective_format == "verbose_json":
        if sentence.speaker:
            segment["speaker"] = sentence.speaker.label
        if "word" in form.granularities:
            segment["words"] = render.word_items(sentence.words)
    return segment


def _done(transcript: Transcript, form: RequestForm, report: HotwordReport | None) -> dict[str, Any]:
    return {
        "type": "transcript.text.done",
        "text": transcript.text,
        "usage": render.usage(transcript),
        **render.extras(
            transcript,
            logprobs=form.logprobs,
            languages=bool(form.languages),
            hotwords=report,
            raw=form.raw_tags,
        ),
    }
