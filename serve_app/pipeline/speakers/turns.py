"""Sentences of one speaker in a row, as one reads them in the minutes of a meeting."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from serve_app.pipeline.text import join_words
from serve_app.pipeline.types import Sentence, Speaker

SHORT_SECONDS = 10.0
"""A piece shorter than this is joined with what the same speaker says next."""

LONGEST_SECONDS = 60.0
"""Nothing is joined beyond this. A sentence that is longer by itself stays whole."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker says in a row: one sentence at least, all of that speaker.

    ``speaker`` is ``None`` where speakers are not told apart; its confidence is the mean of the sentences',
    weighted by their length. ``begin`` and ``end`` are seconds from the begin of the recording.
    """

    speaker: Speaker | None
    sentences: tuple[Sentence, ...]

    @property
    def begin(self) -> float:
        return self.sentences[0].begin

    @property
    def end(self) -> float:
        return self.sentences[-1].end

    @property
    def text(self) -> str:
        """Words and marks of all sentences, as one would print them."""
        return join_words((word.text, word.mark) for sentence in self.sentences for word in sentence.words)


Piece = tuple[Sentence, ...]


def turns(sentences: Iterable[Sentence]) -> tuple[Turn, ...]:
    """Join neighboring sentences of the same speaker, in two layers.

    The first one joins pieces below :data:`SHORT_SECONDS`, so that none is left alone that need not be; the
    second one joins what came of it, up to :data:`LONGEST_SECONDS`, so that long speech ends between two
    long pieces and not behind a scrap.
    """
    pieces: list[Piece] = [(sentence,) for sentence in sentences]
    pieces = _join(pieces, lambda first, second: min(_seconds(first), _seconds(second)) < SHORT_SECONDS)
    pieces = _join(pieces, lambda first, second: True)
    return tuple(Turn(_speaker(piece), piece) for piece in pieces)


def _join(pieces: list[Piece], wanted: Callable[[Piece, Piece], bool]) -> list[Piece]:
    joined: list[Piece] = []
    for piece in pieces:
        if joined and _fit(joined[-1], piece) and wanted(joined[-1], piece):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def _fit(first: Piece, second: Piece) -> bool:
    same = _number(first) == _number(second)
    return same and second[-1].end - first[0].begin <= LONGEST_SECONDS


def _number(piece: Piece) -> int | None:
    speaker = piece[0].speaker
    return None if speaker is None else speaker.number


def _seconds(piece: Piece) -> float:
    return piece[-1].end - piece[0].begin


def _speaker(piece: Piece) -> Speaker | None:
    speakers = [(sentence.speaker, sentence.end - sentence.begin) for sentence in piece]
    known = [(speaker, seconds) for speaker, seconds in speakers if speaker is not None]
    if not known:
        return None
    total = sum(seconds for _, seconds in known)
    if total <= 0:
        return known[0][0]
    mean = sum(speaker.confidence * seconds for speaker, seconds in known) / total
    return replace(known[0][0], confidence=mean)
