"""What the streaming model has heard of a sentence: tokens, across lost streams, and the words they make."""

from collections.abc import Sequence

from deployments.engines.words import is_special, join_tokens
from deployments.messages import SAMPLE_RATE, Token, Word
from serve_app.pipeline.live.buffer import SAMPLES_PER_MS
from serve_app.pipeline.live.events import Partial
from serve_app.pipeline.text import join_words
from serve_app.pipeline.types import TimedWord

_CONTINUES = "@@"


class Hearing:
    """The tokens of one sentence, of which none is ever taken back.

    After :meth:`restart` the same audio is heard again from its begin. Tokens that repeat what was heard
    before are passed over; if they differ from it, as they may by rounding, those are taken that begin
    after what was heard.
    """

    def __init__(self) -> None:
        self._before: tuple[Token, ...] = ()
        self._stream: list[Token] = []
        self.tokens: tuple[Token, ...] = ()

    def restart(self) -> None:
        self._before, self._stream = self.tokens, []

    def add(self, tokens: Sequence[Token]) -> bool:
        """Take the tokens of a step; whether anything new was in them."""
        self._stream += tokens
        heard = len(self.tokens)
        self.tokens = (*self._before, *self._continuation())
        return len(self.tokens) > heard

    def _continuation(self) -> list[Token]:
        before, stream = self._before, self._stream
        both = min(len(before), len(stream))
        if [token.text for token in before[:both]] == [token.text for token in stream[:both]]:
            return stream[both:]
        return [token for token in stream if token.begin_ms >= before[-1].end_ms]


def timed_words(words: Sequence[Word], begin: int) -> tuple[TimedWord, ...]:
    """Words with the times of the session; ``begin`` is the sample at which their own times begin."""
    offset = begin // SAMPLES_PER_MS
    return tuple(
        TimedWord(
            word.text,
            (offset + word.begin_ms) / 1000,
            (offset + word.end_ms) / 1000,
            word.log_prob,
            word.mark,
        )
        for word in words
    )


def words_of(tokens: Sequence[Token]) -> tuple[Word, ...]:
    """The words of a stream's tokens."""
    return join_tokens(Word(token.text, token.begin_ms, token.end_ms, token.log_prob) for token in tokens)


def partial(index: int, begin: int, tokens: Sequence[Token]) -> Partial | None:
    """The partial for a sentence that begins at the sample ``begin``; ``None`` if there is no word yet."""
    words = timed_words(words_of(tokens), begin)
    if not words:
        return None
    return Partial(
        index=index,
        text=_text(words),
        stable=len(_text(timed_words(words_of(_settled(tokens)), begin))),
        begin=begin / SAMPLE_RATE,
        end=words[-1].end,
        words=words,
    )


def _text(words: Sequence[TimedWord]) -> str:
    return join_words((word.text, "") for word in words)


def _settled(tokens: Sequence[Token]) -> Sequence[Token]:
    """The tokens whose words no later token can change.

    A piece that asks for the next one can change, and so can single letters at the end: they become an
    abbreviation when another one follows.
    """
    spoken = [token for token in tokens if not is_special(token.text)]
    end = len(spoken)
    while end and spoken[end - 1].text.endswith(_CONTINUES):
        end -= 1
    while end and _is_letter(spoken[end - 1].text):
        if end > 1 and spoken[end - 2].text.endswith(_CONTINUES):
            break
        end -= 1
    return spoken[:end]


def _is_letter(text: str) -> bool:
    return len(text) == 1 and text.isascii() and not text.isdigit()
