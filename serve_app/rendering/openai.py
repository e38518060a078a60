"""Bodies of OpenAI's ``POST /v1/audio/transcriptions``, as its SDK 3.52.0 reads them.

Shapes: https://platform.openai.com/docs/api-reference/audio/createTranscription
"""

import math
import zlib
from collections.abc import Collection, Iterable, Iterator
from typing import Literal, NotRequired, TypedDict

from serve_app.pipeline.hotwords_report import HotwordReport, HotwordsBody
from serve_app.pipeline.text import join_words
from serve_app.pipeline.types import Sentence, Speaker, TimedWord, Transcript
from serve_app.rendering.tones import has_tone, raw_text

Granularity = Literal["word", "segment"]

DEFAULT_GRANULARITIES: tuple[Granularity, ...] = ("segment",)

ONLY_SPEAKER = "A"
"""Who speaks where nobody tells speakers apart; OpenAI's first speaker has the same letter."""

CONFIDENCE_DIGITS = 3
"""Decimals of a speaker's confidence, in all answers that have it."""

LEAST_LOG_PROB = -9999.0
"""OpenAI's value for what is all but impossible; JSON has no infinity."""


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
    voice-activity detection found to be speech is recognized at all. ``speaker`` is the label, and
    ``speaker_confidence`` is from 0 to 1. ``emotion`` and ``events`` are those of
    :class:`deployments.messages.Recognition`, where the model tells them.
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
    speaker: NotRequired[str | None]
    speaker_confidence: NotRequired[float]
    emotion: NotRequired[str | None]
    events: NotRequired[list[str]]


class SpeakerSegmentItem(TypedDict):
    """A sentence and who spoke it; times in seconds of the recording. Also an event of a streamed answer.

    ``speaker`` is a name if the voice is known, else a letter.
    """

    type: Literal["transcript.text.segment"]
    id: str
    start: float
    end: float
    text: str
    speaker: str
    words: NotRequired[list[WordItem]]
    emotion: NotRequired[str | None]
    events: NotRequired[list[str]]


class LogProbItem(TypedDict):
    """A token, its UTF-8 bytes and the natural logarithm of its probability."""

    token: str
    bytes: list[int]
    logprob: float


class LanguageItem(TypedDict):
    """``code``: ISO 639-1."""

    code: str


class Extras(TypedDict, total=False):
    """What a body in JSON holds beside the rest if the request asks for it."""

    languages: list[LanguageItem]
    logprobs: list[LogProbItem]
    hotwords: HotwordsBody
    raw_text: str


class DiarizedJsonBody(TypedDict):
    """``response_format=diarized_json``."""

    task: Literal["transcribe"]
    duration: float
    text: str
    segments: list[SpeakerSegmentItem]
    usage: DurationUsage


class VerboseJsonBody(TypedDict):
    """``response_format=verbose_json``; ``language`` is an ISO 639-1 code."""

    task: Literal["transcribe"]
    language: str
    duration: float
    text: str
    segments: NotRequired[list[SegmentItem]]
    words: NotRequired[list[WordItem]]
    usage: DurationUsage


def text_body(transcript: Transcript, *, raw: bool = False) -> str:
    """``response_format=text``: the text and a line break, as OpenAI sends it; ``raw``: with the model's
    tags."""
    return (raw_text(transcript) if raw else transcript.text) + "\n"


def json_body(transcript: Transcript) -> JsonBody:
    """``response_format=json``."""
    return {"text": transcript.text, "usage": usage(transcript)}


def verbose_json_body(
    transcript: Transcript,
    granularities: Collection[Granularity] = DEFAULT_GRANULARITIES,
    *,
    speakers: bool = False,
) -> VerboseJsonBody:
    """``response_format=verbose_json``; ``granularities`` picks ``segments`` and ``words``.

    ``speakers``: give each segment a ``speaker``, ``None`` as long as it is not known.
    """
    body: VerboseJsonBody = {
        "task": "transcribe",
        "language": transcript.language,
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
        "usage": usage(transcript),
    }
    if "segment" in granularities:
        body["segments"] = [_segment(number, item) for number, item in enumerate(transcript.sentences)]
        if speakers:
            for segment, sentence in zip(body["segments"], transcript.sentences, strict=True):
                _add_speaker(segment, sentence.speaker)
    if "word" in granularities:
        body["words"] = word_items(transcript.words)
    return body


def diarized_json_body(transcript: Transcript) -> DiarizedJsonBody:
    """``response_format=diarized_json``."""
    return {
        "task": "transcribe",
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
        "segments": [speaker_segment(number, item) for number, item in enumerate(transcript.sentences)],
        "usage": usage(transcript),
    }


def extras(
    transcript: Transcript,
    *,
    logprobs: bool,
    languages: bool,
    hotwords: HotwordReport | None = None,
    raw: bool = False,
) -> Extras:
    """What was asked for of: the log-probabilities of the tokens, the languages that were found, what became
    of the hotwords, and what the model wrote with its tags."""
    found: Extras = {}
    if languages:
        found["languages"] = [{"code": transcript.language}] if transcript.sentences else []
    if logprobs:
        found["logprobs"] = log_probs(transcript.words)
    if hotwords is not None:
        found["hotwords"] = hotwords.body
    if raw:
        found["raw_text"] = raw_text(transcript)
    return found


def segment_id(number: int) -> str:
    """What the segment of that number, from 0, is called in all answers that name it."""
    return f"seg_{number}"


def speaker_segment(number: int, sentence: Sentence) -> SpeakerSegmentItem:
    """A sentence as a segment of ``diarized_json``, and as an event."""
    speaker = sentence.speaker
    segment: SpeakerSegmentItem = {
        "type": "transcript.text.segment",
        "id": segment_id(number),
        "start": round(sentence.begin, 3),
        "end": round(sentence.end, 3),
        "text": sentence.text,
        "speaker": ONLY_SPEAKER if speaker is None else speaker.name or speaker.letter,
    }
    if has_tone(sentence):
        segment["emotion"], segment["events"] = sentence.emotion, [*sentence.events]
    return segment


def word_items(words: Iterable[TimedWord]) -> list[WordItem]:
    """Words without their marks."""
    return [{"word": word.text, "start": round(word.begin, 3), "end": round(word.end, 3)} for word in words]


def log_probs(words: Iterable[TimedWord], before: TimedWord | None = None) -> list[LogProbItem]:
    """A token for each word, with its mark and the space before it, so that they add up to the text.

    ``before`` is the word that stands before the first of them, if any.
    """
    return [
        {
            "token": token,
            "bytes": list(token.encode()),
            "logprob": round(max(word.log_prob, LEAST_LOG_PROB), 6),
        }
        for word, token in _tokens(words, before)
    ]


def continuation(words: Iterable[TimedWord], before: TimedWord | None = None) -> str:
    """What the text grows by when ``words`` follow the word ``before``."""
    return "".join(token for _, token in _tokens(words, before))


def _tokens(words: Iterable[TimedWord], before: TimedWord | None) -> Iterator[tuple[TimedWord, str]]:
    """Whether there is a space before a word depends on the word before it, and on nothing else."""
    previous = [] if before is None else [(before.text, before.mark)]
    for word in words:
        known = len(join_words(previous))
        joined = [*previous, (word.text, word.mark)]
        yield word, join_words(joined)[known:]
        if word.text:
            previous = joined[-1:]


def usage(transcript: Transcript) -> DurationUsage:
    """The length of the recording."""
    return {"type": "duration", "seconds": math.ceil(transcript.duration)}


def _segment(number: int, sentence: Sentence) -> SegmentItem:
    text = sentence.text
    encoded = text.encode()
    segment: SegmentItem = {
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
    if has_tone(sentence):
        segment["emotion"], segment["events"] = sentence.emotion, [*sentence.events]
    return segment


def _add_speaker(segment: SegmentItem, speaker: Speaker | None) -> None:
    segment["speaker"] = speaker.label if speaker else None
    if speaker:
        segment["speaker_confidence"] = round(speaker.confidence, CONFIDENCE_DIGITS)
