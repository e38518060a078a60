"""From voices of windows to speakers of words: what the windows say of each word, and the likeliest path."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import sparse

from deployments.messages import SpeechSpan
from serve_app.pipeline.speakers.clustering import Floats, Labels
from serve_app.pipeline.text import SENTENCE_FINAL
from serve_app.pipeline.types import TimedWord

_EDGE_WEIGHT = 0.1

_SLACK_SECONDS = 0.5
"""Speech that a change may be moved by."""


@dataclass(frozen=True, slots=True)
class SwitchCosts:
    """How much evidence, in natural-log units, a change of speaker between two words takes.

    Attributes:
        running: without a pause, in the middle of a phrase.
        mark: after a mark that ends no sentence.
        sentence: after one that does.
        pause: after ``pause_seconds`` of silence or more; a shorter pause lowers the others in proportion.
    """

    running: float = 7.0
    mark: float = 5.0
    sentence: float = 2.0
    pause: float = 1.0
    pause_seconds: float = 0.5

    def between(self, first: TimedWord, second: TimedWord) -> float:
        """What a change between these two takes."""
        cost = self.mark if first.mark else self.running
        if _ends_sentence(first):
            cost = self.sentence
        share = min(max(second.begin - first.end, 0.0) / self.pause_seconds, 1.0)
        return cost + (self.pause - cost) * share


def coverage(windows: Sequence[SpeechSpan], words: Sequence[TimedWord]) -> sparse.csr_array:
    """What share of each window each word is, shape ``(windows, words)``; words count most in the middle.

    The rows of windows with words add up to 1. A word is in a window if its own middle is.
    """
    middles = np.array([(word.begin + word.end) / 2 for word in words])
    order = np.argsort(middles, kind="stable")
    begins = np.array([window.begin_ms for window in windows]) / 1000
    ends = np.array([window.end_ms for window in windows]) / 1000
    first = np.searchsorted(middles[order], begins, "left")
    counts = np.searchsorted(middles[order], ends, "right") - first
    rows = np.repeat(np.arange(len(windows)), counts)
    places = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    columns = order[np.repeat(first, counts) + places]
    halves = np.maximum((ends - begins) / 2, 1e-3)
    away = np.abs(middles[columns] - ((begins + ends) / 2)[rows]) / halves[rows]
    weights = np.maximum(1 - away, _EDGE_WEIGHT)
    weights /= np.bincount(rows, weights, len(windows))[rows]
    return sparse.csr_array((weights, (rows, columns)), shape=(len(windows), len(words)))


def switches(words: Sequence[TimedWord], costs: SwitchCosts) -> list[float]:
    """What a change before each word takes; for the first, nothing."""
    return [0.0, *(costs.between(first, second) for first, second in pairwise(words))]


def best_path(evidence: Floats, switches: Sequence[float]) -> Labels:
    """The speakers that explain all words best (Viterbi).

    Args:
        evidence: for each speaker of each word, in natural-log units, shape ``(words, speakers)``.
        switches: what a change before each word takes.
    """
    speakers = range(evidence.shape[1])
    scores = [0.0 for _ in speakers]
    came_from: list[list[int]] = []
    # Lists, because a step is a handful of numbers: arrays take five times as long.
    for row, cost in zip(evidence.tolist(), switches, strict=True):
        best = max(speakers, key=scores.__getitem__)
        moved = scores[best] - cost
        came_from.append([speaker if scores[speaker] >= moved else best for speaker in speakers])
        scores = [max(score, moved) + found for score, found in zip(scores, row, strict=True)]
    path = [max(speakers, key=scores.__getitem__)]
    for back in reversed(came_from[1:]):
        path.append(back[path[-1]])
    return np.array(path[::-1], np.intp)


def at_sentence_ends(path: Labels, words: Sequence[TimedWord]) -> Labels:
    """The path with each change moved to an end of a sentence, where one is within :data:`_SLACK_SECONDS`.

    Recognizers are surer of words than of times: now and then they put the last word of a sentence behind
    the pause that follows it, where the next speaker already speaks. No run of a speaker loses all its words.
    """
    moved = path.copy()
    changes = (np.flatnonzero(np.diff(path)) + 1).tolist()
    last = 0
    for change, following in zip(changes, [*changes, len(words)][1:], strict=True):
        ends = _sentence_ends(words, change, range(last + 1, following))
        last = min(ends, default=(0.0, change))[1]
        moved[change:last] = path[change - 1]
        moved[last:change] = path[change]
    return moved


def _sentence_ends(words: Sequence[TimedWord], change: int, allowed: range) -> Iterator[tuple[float, int]]:
    """The nearest end of a sentence on either side, each with the seconds of speech up to there."""
    for step in (1, -1):
        index, seconds = change, 0.0
        while index in allowed and seconds <= _SLACK_SECONDS:
            if _ends_sentence(words[index - 1]):
                yield seconds, index
                break
            passed = words[min(index, index + step)]
            seconds += passed.end - passed.begin
            index += step


def _ends_sentence(word: TimedWord) -> bool:
    return bool(word.mark) and word.mark in SENTENCE_FINAL
