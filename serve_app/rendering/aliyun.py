"""Bodies of Aliyun's HTTP answers, and of funasr-api's where it has taken them further.

Times: seconds in :func:`recognition_body`, milliseconds in all others. Shapes:
https://help.aliyun.com/zh/isi/developer-reference/restful-api-2 (one sentence),
https://help.aliyun.com/zh/isi/developer-reference/sdk-reference-for-flash-file (flash).
"""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

from serve_app.pipeline.speakers.turns import Turn, turns
from serve_app.pipeline.text import half_width
from serve_app.pipeline.types import Sentence, Transcript
from serve_app.rendering.openai import CONFIDENCE_DIGITS
from serve_app.rendering.speakers import apart
from serve_app.rendering.tones import has_tone, tone_together

SUCCESS = 20000000


class WordToken(TypedDict):
    """A word without its mark; seconds, to two decimals."""

    text: str
    start_time: float
    end_time: float


class Segment(TypedDict):
    """A sentence, or what one speaker says in a row; seconds, to two decimals.

    ``speaker_id`` is the speaker's label, ``speaker_confidence`` from 0 to 1. ``emotion`` and ``events`` are
    there where the model tells them.
    """

    text: str
    start_time: float
    end_time: float
    speaker_id: NotRequired[str]
    speaker_confidence: NotRequired[float]
    emotion: NotRequired[str | None]
    events: NotRequired[list[str]]
    word_tokens: NotRequired[list[WordToken]]


class RecognitionBody(TypedDict):
    """The answer of ``/stream/v1/asr``: Aliyun's four fields, then those that funasr-api adds."""

    task_id: str
    result: str
    status: int
    message: str
    segments: list[Segment]
    duration: float
    processing_time: float
    language: NotRequired[str]


class FlashWord(TypedDict):
    """Its times are strings of digits where those of a sentence are numbers: clients rely on either."""

    text: str
    begin_time: str
    end_time: str
    punc: str


class FlashSentence(TypedDict):
    """``speaker_id``, the speaker's label, ``emotion`` and ``events`` are none of Aliyun's fields."""

    text: str
    begin_time: int
    end_time: int
    channel_id: int
    speaker_id: NotRequired[str]
    emotion: NotRequired[str | None]
    events: NotRequired[list[str]]
    words: NotRequired[list[FlashWord]]


class FlashResult(TypedDict):
    duration: int
    latency: int
    completed: bool
    sentences: list[FlashSentence]


class FlashBody(TypedDict):
    """The answer of ``/stream/v1/FlashRecognizer``."""

    task_id: str
    status: int
    message: str
    flash_result: FlashResult


def recognition_body(
    transcript: Transcript,
    *,
    task_id: str,
    status: int = SUCCESS,
    lines: bool = False,
    words: bool = True,
    seconds: float,
) -> RecognitionBody:
    """What was said in one recording, by sentences, or by turns where speakers are told apart.

    Args:
        status: what the client takes for success.
        lines: each sentence of ``result`` on a line of its own, as funasr-api writes it. Each turn has its
            own in any case.
        words: with ``word_tokens`` in each segment.
        seconds: what the work took.
    """
    found = _turns(transcript)
    spoken = any(turn.speaker for turn in found)
    body: RecognitionBody = {
        "task_id": task_id,
        "result": "\n".join(turn.text for turn in found) if lines or spoken else transcript.text,
        "status": status,
        "message": "SUCCESS",
        "segments": [_segment(turn, words) for turn in found],
        "duration": round(transcript.duration, 3),
        "processing_time": round(seconds, 3),
    }
    if transcript.raw is not None:
        body["language"] = transcript.language
    return body


def _turns(transcript: Transcript) -> Sequence[Turn]:
    """Where nobody tells speakers apart, each sentence is one."""
    if any(sentence.speaker for sentence in transcript.sentences):
        return turns(transcript.sentences)
    return [Turn(None, (sentence,)) for sentence in transcript.sentences]


def _segment(turn: Turn, words: bool) -> Segment:
    segment: Segment = {
        "text": turn.text,
        "start_time": round(turn.begin, 2),
        "end_time": round(turn.end, 2),
    }
    if turn.speaker:
        segment["speaker_id"] = turn.speaker.label
        segment["speaker_confidence"] = round(turn.speaker.confidence, CONFIDENCE_DIGITS)
    if any(map(has_tone, turn.sentences)):
        segment["emotion"], segment["events"] = tone_together(turn.sentences)
    if words:
        segment["word_tokens"] = [
            {"text": word.text, "start_time": round(word.begin, 2), "end_time": round(word.end, 2)}
            for sentence in turn.sentences
            for word in sentence.words
        ]
    return segment


def flash_body(
    channels: Sequence[Transcript], *, task_id: str, words: bool = False, seconds: float
) -> FlashBody:
    """What was said in each channel, in one list by time; arguments as for :func:`recognition_body`.

    Speakers of different channels are different people.
    """
    sentences = [
        _flash_sentence(sentence, channel, words)
        for channel, transcript in enumerate(apart(channels))
        for sentence in transcript.sentences
    ]
    return {
        "task_id": task_id,
        "status": SUCCESS,
        "message": "SUCCESS",
        "flash_result": {
            "duration": max(milliseconds(transcript.duration) for transcript in channels),
            "latency": milliseconds(seconds),
            "completed": True,
            "sentences": sorted(sentences, key=lambda item: (item["begin_time"], item["channel_id"])),
        },
    }


def _flash_sentence(sentence: Sentence, channel: int, words: bool) -> FlashSentence:
    item: FlashSentence = {
        "text": sentence.text,
        "begin_time": milliseconds(sentence.begin),
        "end_time": milliseconds(sentence.end),
        "channel_id": channel,
    }
    if sentence.speaker:
        item["speaker_id"] = sentence.speaker.label
    if has_tone(sentence):
        item["emotion"], item["events"] = sentence.emotion, [*sentence.events]
    if words:
        item["words"] = [
            {
                "text": word.text,
                "begin_time": str(milliseconds(word.begin)),
                "end_time": str(milliseconds(word.end)),
                "punc": half_width(word.text, word.mark),
            }
            for word in sentence.words
        ]
    return item


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
