"""Bodies of OpenAI's ``POST /v1/audio/transcriptions``, as its SDK 3.52.0 reads them.

Shapes: https://platform.openai.com/docs/api-reference/audio/createTranscription
"""

import math
import zlib
from collections.abc import Collection
from typing import Literal, NotRequired, TypedDict

from serve_app.pipeline.types import Sentence, Transcript

Granularity = Literal["word", "segment"]

DEFAULT_GRANULARITIES: tuple[Granularity, ...] = ("segment",)


class DurationUsage(TypedDict):
    """What is billed: whole seconds of audio, rounded up."""

    type: Literal["duration"]
    seconds: int


class JsonBody(TypedDict):
    """``response_format=json``."""

    text: str
    usage: DurationUsage


class WordItem(TypedDict):
    """A word without its mark; times in seconds of the recording."""

    word: str
    start: float
    end: float


class SegmentItem(TypedDict):
    """A sentence; times in seconds of the recording.

    ``seek`` is its begin in Whisper's frames of 10 ms. ``tokens`` is empty and ``temperature`` 0, because
    Paraformer decodes whole words in one deterministic pass. ``no_speech_prob`` is 0, because only what
    voice-activity detection found to be speech is recognized at all.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class VerboseJsonBody(TypedDict):
    """``response_format=verbose_json``; ``language`` is an ISO 639-1 code."""

    task: Literal["transcribe"]
    language: str
    duration: float
    text: str
    segments: NotRequired[list[SegmentItem]]
    words: NotRequired[list[WordItem]]
    usage: DurationUsage


def text_body(transcript: Transcript) -> str:
    """``response_format=text``: the text and a line break, as OpenAI sends it."""
    return transcript.text + "\n"


def json_body(transcript: Transcript) -> JsonBody:
    """``response_format=json``."""
    return {"text": transcript.text, "usage": _usage(transcript)}


def verbose_json_body(
    transcript: Transcript, granularities: Collection[Granularity] = DEFAULT_GRANULARITIES
) -> VerboseJsonBody:
    """``response_format=verbose_json``; ``granularities`` picks ``segments`` and ``words``."""
    body: VerboseJsonBody = {
        "task": "transcribe",
        "language": transcript.language,
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
        "usage": _usage(transcript),
    }
    if "segment" in granularities:
        body["segments"] = [_segment(number, item) for number, item in enumerate(transcript.sentences)]
    if "word" in granularities:
        body["words"] = [
            {"word": word.text, "start": round(word.begin, 3), "end": round(word.end, 3)}
            for word in transcript.words
        ]
    return body


def _usage(transcript: Transcript) -> DurationUsage:
    return {"type": "duration", "seconds": math.ceil(transcript.duration)}


def _segment(number: int, sentence: Sentence) -> SegmentItem:
    text = sentence.text
    encoded = text.encode()
    return {
        "id": number,
        "seek": int(sentence.begin * 100),
        "start": round(sentence.begin, 3),
        "end": round(sentence.end, 3),
        "text": text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(sentence.mean_log_prob, 4),
        "compression_ratio": round(len(encoded) / len(zlib.compress(encoded)), 4),
        "no_speech_prob": 0.0,
    }
