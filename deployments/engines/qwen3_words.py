"""From text with marks, as Qwen3-ASR writes it, to words with marks, as the rest of the system wants them.

Letters are never lost, whatever the script. What is neither letter nor mark (quotes, brackets, symbols) stays
with the word that it touches.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from deployments.engines.base import Word
from deployments.engines.generative import Hypothesis, Times
from deployments.engines.qwen3_languages import code_of

_FULL_WIDTH = {",": "，", ".": "。", "?": "？", "!": "！", "､": "、", "｡": "。", "．": "。"}
_MARKS = "".join({*_FULL_WIDTH, *_FULL_WIDTH.values(), *"；;：:…،؛؟۔।॥"})
_ENDING = "。？！؟।۔"
"""Of several marks, such as ``?!``, one of these counts."""

_SPOKEN = "#%&*@§‰\\"
"""Punctuation to Unicode, but said aloud like a word."""

_HYPHENS = "-\u2010\u2011"
_APOSTROPHES = "'’ʼ"
_INSIDE = _HYPHENS + _APOSTROPHES + "./:_·"
"""Joins letters on both sides to one word: e-mail, it's, 10:30, a.m."""

_INSIDE_NUMBERS = ",–٫٬"
"""Joins digits on both sides to one word: 1,000."""

_JOINERS = "\u200c\u200d"
"""Without a look of their own, but part of how Persian and Hindi words are spelled."""

_DOTTED_ORDINALS = frozenset({"de", "da", "fi", "cs", "pl", "hu", "tr"})
"""Where a number with a dot is mostly one of a row, as in "3. Mai", and not the end of a sentence."""

_LATIN_WEIGHT = 0.4
"""How long a letter is said for, beside a Han character."""


@dataclass(slots=True)
class _Unit:
    """A word being put together: the part of the text that it came from, and what followed it."""

    begin: int
    end: int
    text: str
    marks: str = ""


def words_of(hypothesis: Hypothesis, duration_ms: int) -> tuple[Word, ...]:
    """The words of what was said in ``duration_ms`` milliseconds.

    A CJK character is a word; other scripts are split at spaces, so a run of Thai is one word. Marks are
    full-width as in :class:`Word`, but for those that have no such form (``؟``, ``।``, ``—``), and those
    after a number, which are as the model wrote them. Times are guesses: words take as long as they are
    spelled. A word's log-probability is the sum over the tokens that begin in it.
    """
    units = _split(hypothesis.text, code_of(hypothesis.language))
    log_probs = _log_probs(hypothesis, units)
    weights = [_weight(unit.text) for unit in units]
    total, passed = sum(weights) or 1.0, 0.0
    words = []
    for unit, weight, log_prob in zip(units, weights, log_probs, strict=True):
        begin = round(duration_ms * passed / total)
        passed += weight
        words.append(Word(unit.text, begin, round(duration_ms * passed / total), log_prob, unit.marks))
    return tuple(words)


def aligned(words: Sequence[Word], times: Times) -> tuple[Word, ...]:
    """The same words, with the times that an aligner found.

    Raises:
        ValueError: there are not as many times as words.
    """
    return tuple(
        replace(word, begin_ms=begin, end_ms=end) for word, (begin, end) in zip(words, times, strict=True)
    )


def is_cjk(char: str) -> bool:
    """Whether ``char`` is a word of its own: Han, Kana, Bopomofo, or full-width."""
    if char < "\u1100":
        return False
    if "\u4e00" <= char <= "\u9fff" or "\uff00" <= char <= "\uffef":
        return True
    return unicodedata.name(char, "").startswith(("CJK ", "HIRAGANA", "KATAKANA", "BOPOMOFO", "IDEOGRAPHIC "))


def _is_letter(char: str) -> bool:
    """Whether ``char`` is said: a letter, a digit, a sign on a letter, or a symbol such as %."""
    return unicodedata.category(char)[0] in "LNMS" or char in _SPOKEN or char in _JOINERS


def _split(text: str, language: str | None) -> list[_Unit]:
    units: list[_Unit] = []
    prefix, spaced, quoted = "", True, False
    for begin, end in _runs(text):
        run = text[begin:end]
        if run.isspace():
            spaced = True
            continue
        if _is_letter(run[0]):
            units.append(_Unit(begin, end, prefix + run))
            prefix, spaced = "", False
            continue
        opens = _opens(run, quoted=quoted, spaced=spaced, letter_follows=_letter_at(text, end))
        quoted ^= run == '"'
        if opens or not units:
            prefix += run
        else:
            _follow(units[-1], run, spaced=spaced)
            spaced = False
    if prefix and units:
        units[-1].text += prefix
    for at, unit in enumerate(units, 1):
        _settle(unit, language, last=at == len(units))
    return units


def _runs(text: str) -> Iterator[tuple[int, int]]:
    """Cut into words, spaces, dots in a row, and single other characters."""
    at = 0
    while at < len(text):
        end = at + 1
        if text[at].isspace():
            while end < len(text) and text[end].isspace():
                end += 1
        elif _is_letter(text[at]):
            end = _word_end(text, at)
        elif dots := re.match(r"\.{2,}|…+|—+|-{2,}", text[at:]):
            end = at + dots.end()
        yield at, end
        at = end


def _word_end(text: str, begin: int) -> int:
    end = begin + 1
    single = is_cjk(text[begin])
    while end < len(text):
        sign = unicodedata.category(text[end])[0] == "M" or text[end] in _JOINERS
        if not sign:
            if single or is_cjk(text[end]):
                break
            if not _is_letter(text[end]) and not _joins(text, end):
                break
        end += 1
    return end


def _joins(text: str, at: int) -> bool:
    """Whether the punctuation at ``at`` stands inside of a word."""
    before, after = text[at - 1], text[at + 1 : at + 2]
    if not after or is_cjk(after) or not _is_letter(after) or not _is_letter(before):
        return False
    if text[at] in _INSIDE_NUMBERS or text[at] == ":":
        return before.isdigit() and after.isdigit()
    return text[at] in _INSIDE


def _letter_at(text: str, at: int) -> bool:
    return at < len(text) and _is_letter(text[at])


def _opens(run: str, *, quoted: bool, spaced: bool, letter_follows: bool) -> bool:
    """Whether a character belongs to the word behind it. ``spaced``: no character is right before it."""
    if run == '"':
        return not quoted
    kind = unicodedata.category(run[0])
    if kind == "Ps" or run in "¿¡":
        return True
    if kind in ("Pi", "Pf") and spaced is letter_follows:  # quotes mean the opposite in some languages
        return spaced
    return kind == "Pi" or (spaced and letter_follows and run in (*_APOSTROPHES, *_HYPHENS))


def _follow(unit: _Unit, run: str, *, spaced: bool) -> None:
    """Give ``unit`` what stands behind it: a mark, or a character that stays with its text."""
    if run[0] in _MARKS:
        unit.marks += run
    elif unicodedata.category(run[0]) == "Pd" and spaced:
        unit.marks = unit.marks or f" {run}"
    else:
        unit.text += run


def _settle(unit: _Unit, language: str | None, *, last: bool) -> None:
    """Choose one of the marks behind a word, in the form that :class:`Word` wants."""
    if unit.marks[:1] == "." and _is_abbreviation(unit.text):
        unit.text += "."
        if len(unit.marks) == 1 and not last:
            unit.marks = ""
    if unit.marks == "." and unit.text.isdigit() and language in _DOTTED_ORDINALS and not last:
        unit.text, unit.marks = f"{unit.text}.", ""
    if language == "el":
        unit.marks = unit.marks.replace(";", "\u037e")
    written = unit.marks
    if len(written) > 1 and not written.startswith(("..", "…", " ")):
        full = [_FULL_WIDTH.get(mark, mark) for mark in written]
        written = written[next((at for at, mark in enumerate(full) if mark in _ENDING), 0)]
    if any(char.isalpha() for char in unit.text):
        written = _FULL_WIDTH.get(written, written)
    unit.marks = written


def _is_abbreviation(word: str) -> bool:
    """Whether a dot behind ``word`` is part of it, as in U.S. and e.g."""
    return bool(re.fullmatch(r"(?:[^\W\d_]{1,2}\.)+[^\W\d_]{1,2}", word))


def _weight(text: str) -> float:
    return (
        sum(1.0 if is_cjk(char) or char.isdigit() else _LATIN_WEIGHT for char in text if _is_letter(char))
        or 0.1
    )


def _log_probs(hypothesis: Hypothesis, units: Sequence[_Unit]) -> list[float]:
    sums, at, begin = [0.0] * len(units), 0, 0
    token_log_probs = hypothesis.log_probs[hypothesis.first_piece :]
    for piece, log_prob in zip(hypothesis.pieces, token_log_probs, strict=False):
        spoken = begin + len(piece) - len(piece.lstrip())
        begin += len(piece)
        while at + 1 < len(units) and units[at + 1].begin <= spoken:
            at += 1
        if units and piece.strip() and spoken < units[at].end:
            sums[at] += log_prob
    return sums
