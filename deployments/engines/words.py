"""From a Paraformer's tokens to words: BPE pieces and spelled letters joined, special tokens dropped."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from deployments.engines.base import Word
from deployments.engines.written_words import is_cjk

_CONTINUES = "@@"
"""Ends a BPE piece that the next token completes (subword-nmt's convention)."""

_BEGINS = "▁"
"""Begins a piece that begins a word (SentencePiece's convention)."""

_CAPITAL = re.compile(r"^i(?=$|'(?:m|ve|ll|d)$)")
"""What FunASR's ``sentence_postprocess_sentencepiece`` writes large in such a model's text."""


def is_special(token: str) -> bool:
    """Whether a token stands for no text, such as ``<unk>``, ``</s>`` or ``<|zh|>``."""
    return len(token) > 2 and token[0] == "<" and token[-1] == ">"


def join_tokens(tokens: Iterable[Word]) -> tuple[Word, ...]:
    """Words of tokens: ``hel@@ lo`` is one word; ``a`` ``i`` in a row are spelled out, so ``AI``.

    So is ``▁hel lo``, of a model whose words begin with a mark. A joined word spans all of its tokens and
    carries the sum of their log-probabilities.
    """
    spoken = [token for token in tokens if not is_special(token.text)]
    if any(token.text.startswith(_BEGINS) for token in spoken):
        return tuple(_marked_words(spoken))
    words: list[Word] = []
    pieces: list[Word] = []
    for token in spoken:
        if pieces and not _is_latin(token.text.removesuffix(_CONTINUES)):
            words.append(_joined(pieces))
            pieces = []
        pieces.append(replace(token, text=token.text.removesuffix(_CONTINUES)))
        if not token.text.endswith(_CONTINUES):
            words.append(_joined(pieces))
            pieces = []
    if pieces:
        words.append(_joined(pieces))
    return tuple(_spelled(word for word in words if word.text))


def _marked_words(tokens: Iterable[Word]) -> Iterator[Word]:
    """Words of SentencePiece's pieces; a CJK character is one by itself, with or without a mark."""
    pieces: list[Word] = []
    for token in tokens:
        text = token.text.removeprefix(_BEGINS)
        alone = len(text) == 1 and is_cjk(text)
        if alone or token.text.startswith(_BEGINS):
            yield from _marked_word(pieces)
            pieces = []
        pieces.append(replace(token, text=text))
        if alone:
            yield from _marked_word(pieces)
            pieces = []
    yield from _marked_word(pieces)


def _marked_word(pieces: Sequence[Word]) -> Iterator[Word]:
    if any(piece.text for piece in pieces):
        word = _joined(pieces)
        yield replace(word, text=_CAPITAL.sub("I", word.text))


def _spelled(words: Iterable[Word]) -> Iterable[Word]:
    letters: list[Word] = []
    for word in words:
        if len(word.text) == 1 and _is_latin(word.text):
            letters.append(word)
            continue
        yield from _abbreviation(letters)
        letters = []
        yield word
    yield from _abbreviation(letters)


def _abbreviation(letters: Sequence[Word]) -> Sequence[Word]:
    if len(letters) < 2:
        return letters
    return [_joined([replace(letter, text=letter.text.upper()) for letter in letters])]


def _joined(pieces: Sequence[Word]) -> Word:
    text = "".join(piece.text for piece in pieces)
    log_prob = sum(piece.log_prob for piece in pieces)
    return Word(text, pieces[0].begin_ms, pieces[-1].end_ms, log_prob)


def _is_latin(text: str) -> bool:
    return text.replace("'", "").isascii() and not any(character.isdigit() for character in text)
