"""What a generative model wrote of a sentence that goes on: what of it stands, and what is shown of it."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from deployments.messages import SAMPLE_RATE, Hypothesis, Word
from serve_app.pipeline.live.events import Partial
from serve_app.pipeline.live.partials import timed_words
from serve_app.pipeline.text import join_words


def prefix_of(hypothesis: Hypothesis, open_tokens: int) -> tuple[int, ...]:
    """The tokens with which the next hypothesis begins: all but the last ``open_tokens``.

    None where nothing of the text would stay: what stands before it, the language, is not fixed for so
    little.
    """
    kept = len(hypothesis.token_ids) - open_tokens
    if not hypothesis.pieces or kept <= hypothesis.first_piece:
        return ()
    return hypothesis.token_ids[:kept]


class Shown:
    """The words of one sentence as its client saw them last, of which what was promised to stay does.

    What the last two hypotheses begin with alike is promised. A hypothesis that begins differently after
    all, since it was decoded anew, is shown from where it goes on behind what was promised.
    """

    def __init__(self) -> None:
        self.words: tuple[Word, ...] = ()
        self.stable = 0
        """How many characters are promised."""

    def follow(self, words: Sequence[Word]) -> bool:
        """Take the words of the next hypothesis; whether there is anything new to show."""
        before, stable = self.words, self.stable
        self.words = self._continued(words)
        if before:
            self.stable = max(stable, _alike(_text(before), _text(self.words)))
        return (self.words, self.stable) != (before, stable)

    def partial(self, index: int, begin: int, language: str | None) -> Partial | None:
        """The partial for a sentence that begins at the sample ``begin``; ``None`` without any word."""
        words = timed_words(self.words, begin)
        if not words:
            return None
        return Partial(
            index=index,
            text=_text(self.words),
            stable=self.stable,
            begin=begin / SAMPLE_RATE,
            end=words[-1].end,
            words=words,
            language=language,
        )

    def _continued(self, words: Sequence[Word]) -> tuple[Word, ...]:
        promised = _text(self.words)[: self.stable]
        if _text(words).startswith(promised):
            return tuple(words)
        kept = next(end for end in range(len(self.words) + 1) if len(_text(self.words[:end])) >= self.stable)
        begin_ms = self.words[kept - 1].end_ms
        rest = words[_covered(self.words[:kept], words) :]
        later = (
            replace(word, begin_ms=max(word.begin_ms, begin_ms), end_ms=max(word.end_ms, begin_ms))
            for word in rest
        )
        return (*self.words[:kept], *later)


def _covered(said: Sequence[Word], words: Sequence[Word]) -> int:
    """How many of ``words`` say what ``said`` does: the begin of them that takes the fewest changes."""
    row = list(range(len(words) + 1))
    for number, word in enumerate(said, 1):
        diagonal, row[0] = row[0], number
        for at, other in enumerate(words, 1):
            changed = diagonal + (word.text != other.text)
            diagonal, row[at] = row[at], min(changed, row[at] + 1, row[at - 1] + 1)
    return min(range(len(row)), key=lambda at: (row[at], abs(at - len(said))))


def _alike(text: str, other: str) -> int:
    """How many characters both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, other, strict=False)))


def _text(words: Sequence[Word]) -> str:
    return join_words((word.text, word.mark) for word in words)
