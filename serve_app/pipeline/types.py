"""What the file pipeline produces, free of any protocol's spelling.

All times are seconds from the begin of the recording, as floats.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from serve_app.pipeline.text import join_words, language_of


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A CJK character or an alphabetic word, with the mark that follows it (``""`` if none)."""

    text: str
    begin: float
    end: float
    log_prob: float = 0.0
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who said something.

    Attributes:
        number: from 1, in the order in which the speakers of a recording begin to speak.
        label: what a reader sees: the name, or such as ``说话人1`` or ``Speaker 1``.
        name: of whose voice it is, if that is known.
        confidence: how certain it is that this speaker said it, from 0 to 1; low where voices overlap.
    """

    number: int
    label: str
    name: str | None = None
    confidence: float = 1.0

    @property
    def letter(self) -> str:
        """``A`` for the first speaker, then ``B``; ``AA`` after ``Z``."""
        letters, rest = "", self.number
        while rest > 0:
            rest, digit = divmod(rest - 1, 26)
            letters = chr(ord("A") + digit) + letters
        return letters


@dataclass(frozen=True, slots=True)
class Sentence:
    """Words up to and including one that carries a sentence-final mark.

    Where speakers are told apart, all words are one speaker's, so a sentence may also end without a mark.
    ``speaker`` is ``None`` where they are not.

    ``emotion`` and ``events`` are those of :class:`deployments.messages.Recognition`, of the stretch of the
    recording in which the sentence was said: a model tells them for segments, which may hold several.
    """

    words: tuple[TimedWord, ...]
    speaker: Speaker | None = None
    emotion: str | None = None
    events: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Words and marks as one would print them."""
        return join_words((word.text, word.mark) for word in self.words)

    @property
    def begin(self) -> float:
        return self.words[0].begin

    @property
    def end(self) -> float:
        return self.words[-1].end

    @property
    def mean_log_prob(self) -> float:
        """Mean natural-log probability per word."""
        return sum(word.log_prob for word in self.words) / len(self.words)


@dataclass(frozen=True, slots=True)
class Transcript:
    """A whole recording. No sentences means that nobody spoke.

    ``applied`` are the texts of the hotwords that the model listened for, each once. ``raw`` is what a model
    that writes tags wrote, with them; ``None`` of one that does not.
    """

    duration: float
    language: str
    sentences: tuple[Sentence, ...] = field(default=())
    applied: tuple[str, ...] = ()
    raw: str | None = None

    @classmethod
    def of(
        cls,
        duration: float,
        sentences: Iterable[Sentence],
        language: str | None = None,
        applied: Iterable[str] = (),
        raw: str | None = None,
    ) -> Self:
        """``language`` (ISO 639-1) is what the caller knows; ``None``: told by script."""
        kept = tuple(sentences)
        words = (word.text for sentence in kept for word in sentence.words)
        return cls(duration, language or language_of(words), kept, tuple(dict.fromkeys(applied)), raw)

    @property
    def text(self) -> str:
        """The whole text; sentences in Latin script are set apart by a space."""
        return join_words((word.text, word.mark) for sentence in self.sentences for word in sentence.words)

    @property
    def words(self) -> tuple[TimedWord, ...]:
        return tuple(word for sentence in self.sentences for word in sentence.words)
