"""From voices of windows to speakers of words: what each window says of its words, and the likeliest path."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from deployments.messages import SpeechSpan
from serve_app.pipeline.speakers.clustering import Floats, Labels
from serve_app.pipeline.text import SENTENCE_FINAL
from serve_app.pipeline.types import TimedWord

_EDGE_WEIGHT = 0.1


@dataclass(frozen=True, slots=True)
class SwitchCosts:
    """How much evidence, in natural-log units, a change of speaker takes between two words.

    running: without a pause, in the middle of a sentence. mark: after a mark that ends no sentence.
    sentence: after one that does. A pause lowers all of them, down to ``least`` at ``pause`` seconds.
    """

    running: float = 7.0
    mark: float = 5.0
    sentence: float = 2.5
    least: float = 1.0
    pause: float = 1.0


def coverage(windows: Sequence[SpeechSpan], words: Sequence[TimedWord]) -> sparse.csr_array:
    """How much of each window each word is, shape ``(windows, words)``.

    A word counts most in the middle of a window. The rows of windows with words add up to 1.
    """
    middles = np.array([(word.begin + word.end) / 2 for word in words])
    order = np.argsort(middles, kind="stable")
    begins = np.array([window.begin_ms for window in windows]) / 1000
    ends = np.array([window.end_ms for window in windows]) / 1000
    first = np.searchsorted(middles[order], begins, "left")
    last = np.searchsorted(middles[order], ends, "right")
    counts = last - first
    rows = np.repeat(np.arange(len(windows)), counts)
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    columns = order[np.repeat(first, counts) + offsets]
    halves = np.maximum((ends - begins) / 2, 1e-3)
    away = np.abs(middles[columns] - ((begins + ends) / 2)[rows]) / halves[rows]
    weights = np.maximum(1.0 - away, _EDGE_WEIGHT)
    weights /= np.bincount(rows, weights, len(windows))[rows]
    return sparse.csr_array((weights, (rows, columns)), shape=(len(windows), len(words)))


def switch_costs(words: Sequence[TimedWord], costs: SwitchCosts) -> Floats:
    """What a change before each word takes, shape ``(words,)``; nothing before the first."""
    found = np.zeros(len(words))
    for index in range(1, len(words)):
        before = words[index - 1]
        if before.mark in SENTENCE_FINAL and before.mark:
            base = costs.sentence
        else:
            base = costs.mark if before.mark else costs.running
        share = min(max(words[index].begin - before.end, 0.0) / costs.pause, 1.0)
        found[index] = base + (min(costs.least, base) - base) * share
    return found


def best_path(evidence: Floats, switches: Floats) -> Labels:
    """The speakers of all words that explain them best (Viterbi).

    Args:
        evidence: natural-log evidence for each speaker, shape ``(words, speakers)``.
        switches: what a change before each word takes, shape ``(words,)``.
    """
    words, speakers = evidence.shape
    came_from = np.zeros((words, speakers), np.intp)
    own = np.arange(speakers)
    scores = evidence[0].copy()
    for index in range(1, words):
        best = int(np.argmax(scores))
        moved = scores[best] - switches[index]
        stays = scores >= moved
        came_from[index] = np.where(stays, own, best)
        scores = np.where(stays, scores, moved) + evidence[index]
    path = np.zeros(words, np.intp)
    path[-1] = int(np.argmax(scores))
    for index in range(words - 1, 0, -1):
        path[index - 1] = came_from[index, path[index]]
    return path
