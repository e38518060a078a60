"""From text with marks, as models write it, to words with marks, as the rest of the system wants them.

Letters are never lost, whatever the script. What is neither letter nor mark (quotes, brackets, symbols) stays
with the word that it touches.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

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


@dataclass(slots=True)
class WrittenWord:
    """A word: the part of the text that it came from, what it reads, and the mark that follows it."""

    begin: int
    end: int
    text: str
    marks: str = ""


def is_cjk(char: str) -> bool:
    """Whether ``char`` is a word of its own: Han, Kana, Bopomofo, or full-width."""
    if char < "\u1100":
        return False
    if "\u4e00" <= char <= "\u9fff" or "\uff00" <= char <= "\uffef":
        return True
    return unicodedata.name(char, "").startswith(("CJK ", "HIRAGANA", "KATAKANA", "BOPOMOFO", "IDEOGRAPHIC "))


def is_letter(char: str) -> bool:
    """Whether ``char`` is said: a letter, a digit, a sign on a letter, or a symbol such as %."""
    return unicodedata.category(char)[0] in "LNMS" or char in _SPOKEN or char in _JOINERS


def written_words(text: str, language: str | None) -> list[WrittenWord]:
    """The words of ``text``, each with the mark behind it; ``language`` as in :class:`Recognition`.

    A CJK character is a word; other scripts are split at spaces, so a run of Thai is one word. Marks are
    full-width as in :class:`Word`, but for those that have no such form (``؟``, ``।``, ``—``), and those
    after a number, which are as the model wrote them.
    """
    units: list[WrittenWord] = []
    prefix, spaced, quoted = "", True, False
    for begin, end in _runs(text):
        run = text[begin:end]
        if run.isspace():
            spaced = True
            continue
        if is_letter(run[0]):
            units.append(WrittenWord(begin, end, prefix + run))
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
        elif is_letter(text[at]):
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
            if not is_letter(text[end]) and not _joins(text, end):
                break
        end += 1
    return end


def _joins(text: str, at: int) -> bool:
    """Whether the punctuation at ``at`` stands inside of a word."""
    before, after = text[at - 1], text[at + 1 : at + 2]
    if not after or is_cjk(after) or not is_letter(after) or not is_letter(before):
        return False
    if text[at] in _INSIDE_NUMBERS or text[at] == ":":
        return before.isdigit() and after.isdigit()
    return text[at] in _INSIDE


def _letter_at(text: str, at: int) -> bool:
    return at < len(text) and is_letter(text[at])


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


def _follow(unit: WrittenWord, run: str, *, spaced: bool) -> None:
    """Give ``unit`` what stands behind it: a mark, or a character that stays with its text."""
    if run[0] in _MARKS:
        unit.marks += run
    elif unicodedata.category(run[0]) == "Pd" and spaced:
        unit.marks = unit.marks or f" {run}"
    else:
        unit.text += run


def _settle(unit: WrittenWord, language: str | None, *, last: bool) -> None:
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
