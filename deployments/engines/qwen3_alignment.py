"""What an aligner is asked about words, and what its answers mean for them."""

from collections.abc import Iterator, Sequence
from typing import Any
from unicodedata import category, name

import numpy as np
import numpy.typing as npt

from deployments.engines.generative import Times
from deployments.engines.written_words import is_cjk

TIMESTAMP = "<timestamp>"

_SNAPPED = 2
"""So many outliers in a row take the time of a neighbor; more are spread between both."""


def units_of(words: Sequence[str], language: str, segmenter: "Segmenter") -> list[str]:
    """What words are to the aligner: CJK characters singly, others as a whole, without marks.

    Source: ``Qwen3ForceAlignProcessor`` of the qwen-asr package. ``language`` is the model's own name.
    """
    units = [unit for word in words for unit in _split(cleaned(word))]
    if language in segmenter.languages:
        segmented = segmenter.segment(_joined(words), language)
        if "".join(segmented) == "".join(units):
            return segmented
    return units


def cleaned(word: str) -> str:
    """Letters, digits and apostrophes of a word: all that the aligner reads."""
    return "".join(char for char in word if char == "'" or category(char)[0] in "LN")


class Segmenter:
    """Splits Japanese and Korean into words, with the dictionaries of the qwen-asr package.

    Where that is not installed, ``languages`` is empty, and characters or spaces have to do.
    """

    def __init__(self) -> None:
        self._processor: Any = None
        try:
            from qwen_asr.inference.qwen3_forced_aligner import Qwen3ForceAlignProcessor
        except (ImportError, TypeError):  # TypeError: beside transformers 5
            self.languages: frozenset[str] = frozenset()
        else:
            self._processor = Qwen3ForceAlignProcessor()
            self.languages = frozenset({"Japanese", "Korean"})

    def segment(self, text: str, language: str) -> list[str]:
        """Words of a text, without marks."""
        words: list[str] = self._processor.encode_timestamp(text, language)[0]
        return words


def times_of(
    words: Sequence[str], units: Sequence[str], timestamps: Sequence[int], duration_ms: int
) -> Times:
    """Begin and end of each word, from two timestamps (milliseconds) for each unit.

    A unit of several words, as in Japanese, is shared out among them by letters; a word of several units
    lasts from the first to the last. A word without letters lasts no time.
    """
    fixed = np.minimum(non_decreasing(np.asarray(timestamps, dtype=np.int64)), duration_ms)
    bounds = [
        bound for unit, span in zip(units, fixed.reshape(-1, 2), strict=True) for bound in _shared(unit, span)
    ]
    times, at, last = [], 0, 0
    for word in words:
        letters = len(cleaned(word))
        begin, end = (bounds[at][0], bounds[at + letters - 1][1]) if letters else (last, last)
        times.append((begin, end))
        at, last = at + letters, end
    return tuple(times)


def non_decreasing(timestamps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Replace the timestamps that do not fit into an order.

    Those of the longest non-decreasing subsequence stay (of several, the one that ``fix_timestamp`` of the
    qwen-asr package takes). One or two outliers in a row take the time of the nearer neighbor that stays,
    more are spread evenly between both.
    """
    stays = _longest_subsequence(timestamps)
    result = timestamps.copy()
    for before, after in zip([-1, *stays], [*stays, len(timestamps)], strict=True):
        count = after - before - 1
        if not count:
            continue
        steps = np.arange(1, count + 1)
        left = timestamps[before] if before >= 0 else timestamps[after]
        right = timestamps[after] if after < len(timestamps) else left
        if count <= _SNAPPED:
            result[before + 1 : after] = np.where(steps <= count + 1 - steps, left, right)
        else:
            result[before + 1 : after] = (left + (right - left) / (count + 1) * steps).astype(np.int64)
    return result


def _longest_subsequence(values: npt.NDArray[np.int64]) -> list[int]:
    """Indices; among subsequences of the same length those with the earliest ends are taken."""
    if not len(values):
        return []
    lengths = np.ones(len(values), dtype=np.int64)
    parents = np.full(len(values), -1)
    for at in range(1, len(values)):
        candidates = np.where(values[:at] <= values[at], lengths[:at], 0)
        best = int(candidates.argmax())
        if candidates[best]:
            lengths[at], parents[at] = candidates[best] + 1, best
    at, indices = int(lengths.argmax()), []
    while at >= 0:
        indices.append(at)
        at = int(parents[at])
    return indices[::-1]


def _split(text: str) -> Iterator[str]:
    run = ""
    for char in text:
        if not _is_han(char):
            run += char
            continue
        if run:
            yield run
        yield char
        run = ""
    if run:
        yield run


def _is_han(char: str) -> bool:
    return category(char) == "Lo" and name(char, "").startswith("CJK ")


def _joined(words: Sequence[str]) -> str:
    text = ""
    for word in words:
        text += f" {word}" if text and not (is_cjk(text[-1]) or is_cjk(word[0])) else word
    return text


def _shared(unit: str, span: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    begin, end = map(int, span)
    for at in range(len(unit)):
        yield (
            begin + (end - begin) * at // len(unit),
            begin + (end - begin) * (at + 1) // len(unit),
        )
