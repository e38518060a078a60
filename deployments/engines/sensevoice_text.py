"""From the tokens of SenseVoice to words, and from its tags to what they say of a segment.

The tags and the numbers of the queries are those of FunASR's ``SenseVoiceSmall`` and of the vocabulary that
it was published with (https://github.com/FunAudioLLM/SenseVoice).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import sentencepiece

from deployments.engines.base import Hints, Recognition, Word
from deployments.engines.model_files import COPY_AGAIN, ModelFilesError
from deployments.engines.written_words import WrittenWord, is_letter, written_words

BLANK = 0
"""The token of a frame in which nothing new is said; the same number is the vocabulary's ``<unk>``."""

QUERIES = 4
"""Rows before those of the audio, whose results are the tags: language, emotion, event, spelling."""

EVENT_AND_EMOTION = (1, 2)
_ANY_LANGUAGE = 0
_LANGUAGES = {"zh": 3, "en": 4, "yue": 7, "ja": 11, "ko": 12}
_WITH_ITN, _WITHOUT_ITN = 14, 15
QUERY_ROWS = 16
"""Rows of the table that the queries are looked up in."""

_NO_SPEECH = "nospeech"
_NOTHING = "The."
"""What the model writes of noise that it does not tell from speech; FunASR passes over it, too."""

_LANGUAGE = re.compile("[a-z]{2,3}")
_EMOTIONS = {
    name: name.lower() for name in ("HAPPY", "SAD", "ANGRY", "NEUTRAL", "FEARFUL", "DISGUSTED", "SURPRISED")
}
_EVENTS = {
    name: name.lower() for name in ("BGM", "Applause", "Laughter", "Cry", "Sneeze", "Breath", "Cough", "Sing")
}
_TAG = re.compile(r"<\|([^|<>]*)\|>")


def query_numbers(hints: Hints) -> tuple[int, int]:
    """The rows of the query table for the language and for the spelling of a segment.

    A language that SenseVoice does not know is the same as none: the model tells.
    """
    language = _LANGUAGES.get(hints.language or "", _ANY_LANGUAGE)
    return language, _WITH_ITN if hints.itn else _WITHOUT_ITN


class Vocabulary:
    """The pieces of text that the tokens stand for."""

    def __init__(self, path: Path) -> None:
        """Read a SentencePiece model.

        Raises:
            ModelFilesError: the file is missing or is none.
        """
        if not path.is_file():
            raise ModelFilesError(path, "the file with the vocabulary is missing", COPY_AGAIN)
        self.path = path
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.Load(str(path))
        except (OSError, RuntimeError) as error:
            raise ModelFilesError(path, f"is not a SentencePiece model ({error})", COPY_AGAIN) from error

    def __len__(self) -> int:
        return int(self._pieces.GetPieceSize())

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens, with the tags as they are."""
        return str(self._pieces.DecodeIds(list(ids)))

    def piece(self, token: int) -> str:
        """What a token adds to the text; nothing for those that stand for none."""
        if self._pieces.IsControl(token) or self._pieces.IsUnknown(token):
            return ""
        return str(self._pieces.IdToPiece(token)).replace("▁", " ")

    def byte(self, token: int) -> int | None:
        """The byte of UTF-8 that a token stands for, if it is of those."""
        return int(self._pieces.IdToPiece(token)[1:-1], 16) if self._pieces.IsByte(token) else None


@dataclass(frozen=True, slots=True)
class Heard:
    """A token, from its first frame to behind its last one; counted from the first query."""

    token: int
    begin: int
    end: int
    log_prob: float


@dataclass(frozen=True, slots=True)
class _Char:
    """A character of the text: its share of the time (milliseconds) and log-probability of its token."""

    text: str
    begin: float
    end: float
    log_prob: float


def heard_tokens(ids: Iterable[int], log_probs: Sequence[float]) -> list[Heard]:
    """The tokens of a segment by the likeliest one of each frame: runs are one, blanks none (best path of
    CTC, Graves et al. 2006). ``log_prob`` is that of the run's most certain frame."""
    found, at = [], 0
    for token, run in groupby(ids):
        begin, at = at, at + len(list(run))
        if token != BLANK:
            found.append(Heard(token, begin, at, max(log_probs[begin:at])))
    return found


def recognition_of(
    heard: Sequence[Heard], vocabulary: Vocabulary, frames: int, frame_ms: float, hints: Hints
) -> Recognition:
    """What the tokens of a segment say.

    Args:
        frames: rows of the segment without the queries, of ``frame_ms`` milliseconds each.
        hints: what the segment was recognized with.

    Times are those of FunASR's ``output_timestamp``: a frame lies half a frame before its number says. A
    word's log-probability is the sum of its tokens'; one token of several words is shared out.
    """
    raw = vocabulary.text([token.token for token in heard])
    tags = _TAG.findall(raw)
    language = next(filter(_LANGUAGE.fullmatch, tags), None)
    events = tuple(dict.fromkeys(_EVENTS[tag] for tag in tags if tag in _EVENTS))
    spoken = (token for token in heard if token.begin >= QUERIES)
    chars = [*_characters(spoken, vocabulary, frames, frame_ms)]
    text = "".join(char.text for char in chars)
    if _NO_SPEECH in tags or text.strip() == _NOTHING:
        return Recognition(events=events, raw=raw)
    words = tuple(
        _word(written, chars[written.begin : written.end]) for written in written_words(text, language)
    )
    emotion = next((_EMOTIONS[tag] for tag in tags if tag in _EMOTIONS), None)
    return Recognition(
        words, language if words else None, hints.itn, emotion if words else None, events, raw=raw
    )


def _characters(
    spoken: Iterable[Heard], vocabulary: Vocabulary, frames: int, frame_ms: float
) -> Iterator[_Char]:
    """The characters of the text without its tags."""
    data, first, last = b"", 0, 0
    log_prob = 0.0
    for token in spoken:
        byte = vocabulary.byte(token.token)
        if byte is not None:
            first = token.begin if not data else first
            data, last, log_prob = data + bytes([byte]), token.end, log_prob + token.log_prob
            continue
        yield from _shared(data.decode("utf-8", "ignore"), Heard(0, first, last, log_prob), frames, frame_ms)
        data, log_prob = b"", 0.0
        yield from _shared(_TAG.sub(" ", vocabulary.piece(token.token)), token, frames, frame_ms)
    yield from _shared(data.decode("utf-8", "ignore"), Heard(0, first, last, log_prob), frames, frame_ms)


def _shared(text: str, token: Heard, frames: int, frame_ms: float) -> Iterator[_Char]:
    """The characters of a token, which share its time evenly; spaces take none."""
    begin = max((token.begin - QUERIES) * frame_ms - frame_ms / 2, 0.0)
    end = (min(token.end - QUERIES, frames) * frame_ms) - frame_ms / 2
    count, passed = sum(not char.isspace() for char in text), 0
    step = (end - begin) / max(count, 1)
    for char in text:
        at = begin + passed * step
        passed += not char.isspace()
        share = 0.0 if char.isspace() else token.log_prob / count
        yield _Char(char, at, begin + passed * step, share)


def _word(written: WrittenWord, chars: Sequence[_Char]) -> Word:
    said = [char for char in chars if is_letter(char.text)] or chars
    log_prob = sum(char.log_prob for char in said)
    return Word(written.text, round(said[0].begin), round(said[-1].end), log_prob, written.marks)
