"""One parser for all spellings in which clients send hotwords."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deployments.messages import Hotword
from serve_app.pipeline.finishing import ARROW, parse_corrections
from serve_app.pipeline.hotwords import GREATEST_WEIGHT, LEAST_WEIGHT, HotwordList, checked, weight_of

_BETWEEN = re.compile(r"[\s,，;；、]+")
_BETWEEN_LISTED = re.compile(r"[,，;；、\n]+")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_ADDRESS = re.compile(r"https?://\S+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Spelling:
    """How the clients of a protocol write lists of words.

    Attributes:
        lenient: a weight that is out of range is brought into it, and in a text such a number is a word; else
            it is an error.
        lines: in a text, a correction has a line of its own and may hold spaces; else it is one entry among
            others.
    """

    lenient: bool = False
    lines: bool = False


STRICT = Spelling()
"""Aliyun's and DashScope's: what cannot be is an error there."""

FUNASR = Spelling(lenient=True, lines=True)
"""FunASR's servers take any number for a weight, and know no errors."""


def parse_hotwords(value: Any, spelling: Spelling = STRICT) -> HotwordList:
    """Read a list of hotwords, and of corrections (``wrong=>right``), in any of its spellings.

    Args:
        value: an object of weights by word; a list, of words or of objects with ``text`` and ``weight``;
            either as JSON; or a text of words with spaces, commas or line breaks between them, each of which
            may have its weight behind it, as in ``word1 20 word2 15``. Weights may be strings of digits, or
            missing. In a text of several lines, one that ends with its only number is a single word
            (``Alibaba Cloud 20``), as in FunASR's files. An empty string means none.

    Raises:
        ValueError: it is none of these, or passes a limit; the message goes on after "it is not valid:".
    """
    if isinstance(value, str):
        found = _json(value)
        entries = _from_text(value, spelling) if found is None else _from_json(found, spelling)
    else:
        entries = _from_json(value, spelling)
    lines = [word.text for word in entries if ARROW in word.text]
    words = checked(word for word in entries if ARROW not in word.text)
    return HotwordList(words, parse_corrections(lines))


def whole_words(values: Iterable[str]) -> HotwordList:
    """A list whose entries are words as they stand, with spaces and numbers in them, or corrections.

    Raises:
        ValueError: as :func:`parse_hotwords`.
    """
    listed = [value.strip() for value in values]
    words = checked(Hotword(text) for text in listed if text and ARROW not in text)
    return HotwordList(words, parse_corrections(text for text in listed if ARROW in text))


def separated_words(text: str) -> HotwordList:
    """Whole words with commas between them, as FunASR's HTTP servers take them; weights only as JSON.

    Raises:
        ValueError: as :func:`parse_hotwords`.
    """
    if _json(text) is not None:
        return parse_hotwords(text, FUNASR)
    _refuse_places(text.strip())
    return whole_words(_BETWEEN_LISTED.split(text))


def _json(text: str) -> Any:
    """The object or list that a text is meant to be, if it is."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("hotwords that begin with '{' or '[' must be JSON, and these are not") from error


def _from_json(value: Any, spelling: Spelling) -> list[Hotword]:
    if isinstance(value, Mapping):
        return [_weighted(str(text), weight, spelling) for text, weight in value.items()]
    if not isinstance(value, list | tuple):
        raise ValueError("hotwords must be words in a string, or an object with the weight of each word")
    return [_item(item, spelling) for item in value]


def _item(item: Any, spelling: Spelling) -> Hotword:
    if isinstance(item, str):
        return Hotword(item)
    if isinstance(item, Mapping) and isinstance(item.get("text"), str):
        return _weighted(item["text"], item.get("weight"), spelling)
    raise ValueError(f"each hotword must be a string, and {item!r:.40} is none")


def _weighted(text: str, weight: Any, spelling: Spelling) -> Hotword:
    return Hotword(text, weight_of(weight, text, lenient=spelling.lenient))


def _from_text(text: str, spelling: Spelling) -> list[Hotword]:
    _refuse_places(text.strip())
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    entries: list[Hotword] = []
    for line in lines:
        if spelling.lines and ARROW in line:
            entries.append(Hotword(line))
        elif len(lines) > 1 and (whole := _whole_line(line, spelling)) is not None:
            entries.append(whole)
        else:
            entries += _entries(line, spelling)
    return entries


def _refuse_places(text: str) -> None:
    """FunASR's package reads a list from where its argument says; a server would read its own files."""
    if _ADDRESS.fullmatch(text) or (text.lower().endswith(".txt") and not re.search(r"\s", text)):
        raise ValueError(f"hotwords are sent as words; no list is read from {text!r:.60}")


def _whole_line(line: str, spelling: Spelling) -> Hotword | None:
    """The word of a line ``word weight``, if that is what it is."""
    *words, last = line.split()
    if not words or ARROW in line or _BETWEEN.search("".join(words)):
        return None
    if not _NUMBER.fullmatch(last) or any(_NUMBER.fullmatch(word) for word in words[1:]):
        return None
    return _weighted(" ".join(words), last, spelling) if _is_weight(last) or not spelling.lenient else None


def _entries(line: str, spelling: Spelling) -> list[Hotword]:
    entries: list[Hotword] = []
    takes_weight = False
    for entry in _BETWEEN.split(line):
        is_weight = takes_weight and _NUMBER.fullmatch(entry) and (_is_weight(entry) or not spelling.lenient)
        if is_weight:
            entries[-1] = _weighted(entries[-1].text, entry, spelling)
        elif entry:
            entries.append(Hotword(entry))
        takes_weight = bool(entry) and not is_weight and ARROW not in entry
    return entries


def _is_weight(number: str) -> bool:
    return LEAST_WEIGHT <= float(number) <= GREATEST_WEIGHT
