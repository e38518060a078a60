"""Who speaks when, laid out for a picture: strips of time, and text that fits its bar."""

import json
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.cli.client import RequestRefused

NOBODY = "?"
"""Speaker of what the server could not give to anybody."""

_SHORT = 15
_STRIP_SECONDS = (30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800)
_MOST_STRIPS = 10
_LATIN_WIDTH = 0.56
# A space; a word or a number; or one character with the marks that may not begin a line.
_LATIN = "[A-Za-z0-9%\u00c0-\u024f]+"
_PIECES = re.compile(rf"\s+|(?:{_LATIN}(?:[.,:'’-]{_LATIN})*|.)[，。？！、；：,.?!;:]*")


@dataclass(frozen=True, slots=True)
class Utterance:
    """One sentence of one speaker. ``begin`` and ``end`` in seconds; ``confidence`` from 0 to 1."""

    begin: float
    end: float
    speaker: str
    text: str
    confidence: float = 1.0


@dataclass(frozen=True, slots=True)
class Timeline:
    """A recording of ``duration`` seconds."""

    duration: float
    utterances: tuple[Utterance, ...]

    @property
    def speakers(self) -> tuple[str, ...]:
        """In the order in which they begin to speak."""
        return tuple(dict.fromkeys(one.speaker for one in self.utterances))

    def seconds(self, speaker: str) -> float:
        """How long somebody speaks in all."""
        return sum(one.end - one.begin for one in self.utterances if one.speaker == speaker)

    def strips(self) -> list[tuple[float, float]]:
        """Begin and end of each line of the picture: as few seconds in each as ten lines allow."""
        enough = (length for length in _STRIP_SECONDS if self.duration <= length * _MOST_STRIPS)
        length = _SHORT if self.duration <= _SHORT else next(enough, _STRIP_SECONDS[-1])
        count = max(1, math.ceil(self.duration / length))
        return [(number * float(length), (number + 1) * float(length)) for number in range(count)]


def read_timeline(answer: str) -> Timeline:
    """Of an answer in ``verbose_json``.

    Raises:
        RequestRefused: it is no such answer.
    """
    try:
        body = json.loads(answer)
        utterances = tuple(
            Utterance(
                float(segment["start"]),
                float(segment["end"]),
                str(segment.get("speaker") or NOBODY),
                str(segment["text"]).strip(),
                float(segment.get("speaker_confidence", 1.0)),
            )
            for segment in body["segments"]
        )
        last = max((one.end for one in utterances), default=0.0)
        return Timeline(max(float(body["duration"]), last), utterances)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestRefused("The server's answer is no transcript in verbose_json.") from error


def clock(seconds: float) -> str:
    """As ``1:05``, or ``1:01:05``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def width(text: str) -> float:
    """In heights of the font: 1 for each Chinese character, about half for a Latin letter."""
    return sum(1.0 if unicodedata.east_asian_width(char) in "WF" else _LATIN_WIDTH for char in text)


def fitted(text: str, columns: float, lines: int) -> str:
    """As much of a text as fits into so many lines, each of so many heights of the font.

    What is left out is told by an ellipsis; nothing is left where less than two characters would fit.
    """
    if columns < 2 or lines < 1:
        return ""
    wrapped = _wrapped(_PIECES.findall(text), columns)
    if len(wrapped) <= lines:
        return "\n".join(wrapped)
    last = wrapped[lines - 1]
    while last and width(last) + 1 > columns:
        last = last[:-1]
    return "\n".join([*wrapped[: lines - 1], last.rstrip() + "…"])


def _wrapped(pieces: Sequence[str], columns: float) -> list[str]:
    lines = [""]
    for piece in pieces:
        if width(lines[-1]) + width(piece) <= columns:
            lines[-1] += piece
        elif piece.isspace():
            lines.append("")
        else:
            # A word that is longer than a line is cut wherever the line ends.
            for part in [piece] if width(piece) <= columns else piece:
                if lines[-1] and width(lines[-1]) + width(part) > columns:
                    lines.append("")
                lines[-1] += part
    return [line.rstrip() for line in lines if line.strip()]
