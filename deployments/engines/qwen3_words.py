"""From what Qwen3-ASR writes to words with marks and times."""

from collections.abc import Sequence
from dataclasses import replace

from deployments.engines.base import Word
from deployments.engines.generative import Hypothesis, Times
from deployments.engines.qwen3_languages import code_of
from deployments.engines.written_words import WrittenWord, is_cjk, is_letter, written_words

_LATIN_WEIGHT = 0.4
"""How long a letter is said for, beside a Han character."""


def words_of(hypothesis: Hypothesis, duration_ms: int) -> tuple[Word, ...]:
    """The words of what was said in ``duration_ms`` milliseconds.

    What a word is tells :func:`written_words`. Times are guesses: words take as long as they are spelled. A
    word's log-probability is the sum over the tokens that begin in it.
    """
    units = written_words(hypothesis.text, code_of(hypothesis.language))
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


def _weight(text: str) -> float:
    return (
        sum(1.0 if is_cjk(char) or char.isdigit() else _LATIN_WEIGHT for char in text if is_letter(char))
        or 0.1
    )


def _log_probs(hypothesis: Hypothesis, units: Sequence[WrittenWord]) -> list[float]:
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
