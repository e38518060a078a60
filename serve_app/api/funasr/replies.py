"""The JSON objects that are sent to a client, before the connection adds what goes into all of them.

Times on the wire are whole milliseconds. ``timestamp`` is always a JSON string or absent: some clients
cannot read the lists and numbers that other servers put there.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from serve_app.activity import note_error
from serve_app.errors import AsrError
from serve_app.pipeline.hotwords_report import HotwordReport
from serve_app.pipeline.text import join_words
from serve_app.pipeline.types import Sentence, Speaker, TimedWord, Transcript
from serve_app.rendering.tones import language_of, tone_of

Reply = dict[str, Any]

_LETTER = "A-Za-zÀ-ɏ"
_HAN = "\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
_SEPARATOR = re.compile("[。？，、?., ]")
_LETTERS = re.compile("[a-zA-Z]+")
_SCRIPT_CHANGE = re.compile(f"(?<=[{_LETTER}])(?=[{_HAN}])|(?<=[{_HAN}])(?=[{_LETTER}])")


def result(mode: str, text: str, *, final: bool, words: Sequence[TimedWord] = (), **extra: object) -> Reply:
    """A result; ``words`` are what ``timestamp`` and ``stamp_sents`` are made of."""
    reply: Reply = {"mode": mode, "text": text, "is_final": final, **extra}
    if words:
        pairs = [pair for word in words for pair in _pairs(word)]
        reply["timestamp"] = json.dumps(pairs, separators=(",", ":"))
        reply["stamp_sents"] = [_stamped(words[begin:end]) for begin, end in _clauses(words)]
    return reply


def spoken_by(speaker: Speaker | None) -> Reply:
    """Who spoke, as FunASR's Python server tells it."""
    if speaker is None:
        return {"spk_name": "unknown", "spk_score": 0.0}
    return {"spk_name": speaker.label, "spk_score": round(speaker.confidence, 3)}


def spoken_in(sentences: Sequence[Sentence]) -> Reply:
    """Who spoke most of a recording, and each of its sentences: speakers are also numbered, from 0."""
    seconds: dict[int, float] = {}
    for sentence in sentences:
        if sentence.speaker is not None:
            number = sentence.speaker.number
            seconds[number] = seconds.get(number, 0.0) + sentence.end - sentence.begin
    most = max(seconds, key=seconds.__getitem__, default=None)
    spoken = [item.speaker for item in sentences if item.speaker is not None and item.speaker.number == most]
    main = None
    if spoken:
        mean = sum(speaker.confidence for speaker in spoken) / len(spoken)
        main = replace(spoken[0], confidence=mean)
    return {**spoken_by(main), "sentence_info": [_info(sentence) for sentence in sentences]}


def tones_told(transcript: Transcript) -> Reply:
    """The language, and how each sentence was said, if the model tells."""
    if transcript.raw is None:
        return {}
    return {**language_of(transcript), "sentence_info": [_said(item) for item in transcript.sentences]}


def _info(sentence: Sentence) -> Reply:
    numbered = {} if sentence.speaker is None else {"spk": sentence.speaker.number - 1}
    return {**_said(sentence), **numbered, **spoken_by(sentence.speaker)}


def _said(sentence: Sentence) -> Reply:
    times = {"start": milliseconds(sentence.begin), "end": milliseconds(sentence.end)}
    return {"text": sentence.text, **times, **tone_of(sentence)}


def hotwords_told(report: HotwordReport | None) -> Reply:
    """What became of the client's hotwords, if it has any."""
    return {} if report is None else {"hotwords_applied": bool(report.applied), "hotwords": report.body}


def failure(mode: str, error: AsrError) -> Reply:
    """A final result without text, since the protocol has no message for errors."""
    note_error(error)
    return {"mode": mode, "text": "", "is_final": True, "error": error.message}


def acknowledgement(mode: str, error: AsrError | None) -> Reply:
    """The answer to ``is_end``, after the last result."""
    reply: Reply = {"mode": mode, "is_final": error is None, "is_end": True}
    return reply if error is None else {**reply, "error": error.message}


def spaced(text: str) -> str:
    """``text`` with spaces between Chinese and Latin script, as FunASR writes it.

    Its web page counts the pairs of ``timestamp`` by them.
    """
    return _SCRIPT_CHANGE.sub(" ", text)


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _pair(word: TimedWord) -> list[int]:
    return [milliseconds(word.begin), milliseconds(word.end)]


def _pairs(word: TimedWord) -> Iterable[list[int]]:
    """A pair for each unit that FunASR's web page counts, which share the time of the word evenly.

    That page (``runtime/html5/static/main.js``) counts one for letters between spaces or marks, and one for
    each character of anything else, such as the five of 2023年; a time too few and it shows no text.
    """
    parts = _SEPARATOR.split(spaced(word.text))
    count = sum(1 if _LETTERS.fullmatch(part) else len(part.encode("utf-16-le")) // 2 for part in parts)
    length = word.end - word.begin
    edges = [milliseconds(word.begin + length * i / count) for i in range(count + 1)] if count else []
    return map(list, pairwise(edges))


def _clauses(words: Sequence[TimedWord]) -> Iterable[tuple[int, int]]:
    """Where the clauses begin and end: each one at a mark, the last one perhaps without."""
    begin = 0
    for index, word in enumerate(words):
        if word.mark or index == len(words) - 1:
            yield begin, index + 1
            begin = index + 1


def _stamped(words: Sequence[TimedWord]) -> Reply:
    last = words[-1]
    return {
        "text_seg": " ".join(word.text for word in words),
        "punc": join_words([(last.text, last.mark)])[len(last.text) :],
        "start": milliseconds(words[0].begin),
        "end": milliseconds(last.end),
        "ts_list": [pair for word in words for pair in _pairs(word)],
    }
