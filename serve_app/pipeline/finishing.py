"""What is done to a sentence once it is recognized and punctuated, as the request wishes."""

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from serve_app.pipeline.itn import Edit, Itn
from serve_app.pipeline.layout import Layout, without
from serve_app.pipeline.splitting import fillers, split
from serve_app.pipeline.types import Sentence, TimedWord

ARROW = "=>"
"""Between what is wrong and what is right, in the corrections that clients send."""

_GRAMMARS = frozenset({"zh", "yue", "en"})
_MOST_CORRECTIONS = 500
_LONGEST_CORRECTION = 200

_IS_LATIN = re.compile("[0-9A-Za-zÀ-ɏ]")
_INSIDE_BEFORE, _INSIDE_AFTER = f"(?<!{_IS_LATIN.pattern})", f"(?!{_IS_LATIN.pattern})"


@dataclass(frozen=True, slots=True)
class Correction:
    """Wherever the text says ``wrong``, it shall say ``right``."""

    wrong: str
    right: str


def parse_corrections(values: Iterable[str]) -> tuple[Correction, ...]:
    """Read corrections, in their order.

    Args:
        values: lines of ``wrong=>right``, one or several to a value; empty lines mean nothing. Space around
            either side does not count. Nothing on the right: ``wrong`` is left out.

    Raises:
        ValueError: a line is none, or there are more than 500; the message says so in a sentence.
    """
    lines = [line.strip() for value in values for line in value.splitlines()]
    lines = [line for line in lines if line]
    if len(lines) > _MOST_CORRECTIONS:
        raise ValueError(f"There may be {_MOST_CORRECTIONS} corrections at most, not {len(lines)}.")
    return tuple(_correction(line) for line in lines)


def _correction(line: str) -> Correction:
    wrong, arrow, right = (part.strip() for part in line.partition(ARROW))
    if not arrow or not wrong or ARROW in right:
        raise ValueError(f"A correction is written wrong{ARROW}right, and {line!r:.60} is not.")
    if len(line) > _LONGEST_CORRECTION:
        raise ValueError(
            f"A correction may have {_LONGEST_CORRECTION} characters at most; {line!r:.60} has {len(line)}."
        )
    return Correction(wrong, right)


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How the text shall look.

    ``itn``: numbers, dates, money and the like in digits. ``corrections`` are applied in their order, to
    what the reader would see without them. ``drop_fillers``: leave out 嗯, 呃, "uh" and the like.
    ``longest_sentence``: most characters (words of Latin script) of one sentence; longer ones are split.
    """

    punctuation: bool = True
    itn: bool = False
    corrections: tuple[Correction, ...] = ()
    drop_fillers: bool = False
    longest_sentence: int | None = None

    def suited(self, language: str | None) -> "TextOptions":
        """Without what is known of Chinese and English only, where another language (ISO 639-1) is spoken:
        "six" is no number in French."""
        if language is None or language in _GRAMMARS:
            return self
        return replace(self, itn=False, drop_fillers=False)


class Finisher:
    """Finishes sentences. All finishers of a process share the grammars for numbers."""

    def __init__(self) -> None:
        self._itn = Itn()

    async def prepare(self, options: TextOptions) -> None:
        """Load what ``options`` need, off the event loop, so that :meth:`finish` does not stop it."""
        if options.itn and not self._itn.is_loaded:
            await asyncio.to_thread(self._itn.load)

    def finish(self, sentence: Sentence, options: TextOptions) -> list[Sentence]:
        """The sentence as it shall be read: none where only fillers were said, several where it is split.

        Every word of the result keeps the times of what it was made of. Fast enough for the event loop, and
        a thread would not help: the grammars hold the interpreter's lock. Any thread may call it.
        """
        words = sentence.words
        if options.drop_fillers:
            words = without(words, fillers(words))
        if options.itn:
            layout = Layout.of(words)
            if edits := self._itn.edits(layout.text):
                words = layout.edited(edits)
        if options.corrections:
            words = _corrected(words, options.corrections, options.punctuation)
        parts = [words] if options.longest_sentence is None else split(words, options.longest_sentence)
        if not options.punctuation:
            parts = [tuple(replace(word, mark="") for word in part) for part in parts]
        return [replace(sentence, words=part) for part in parts if part]


def _corrected(
    words: tuple[TimedWord, ...], corrections: Iterable[Correction], marks: bool
) -> tuple[TimedWord, ...]:
    layout = Layout.of(words, marks)
    for correction in corrections:
        if correction.wrong not in layout.text:
            continue
        edits = [
            Edit(match.start(), match.end(), correction.right)
            for match in _pattern(correction.wrong).finditer(layout.text)
        ]
        layout = Layout.of(layout.edited(edits), marks)
    return layout.words


def _pattern(wrong: str) -> re.Pattern[str]:
    """Whole Latin words and whole numbers only: "he" is not in "the", nor 15 in 2015."""
    before = _INSIDE_BEFORE if _IS_LATIN.match(wrong[0]) else ""
    after = _INSIDE_AFTER if _IS_LATIN.match(wrong[-1]) else ""
    return re.compile(before + re.escape(wrong) + after)
