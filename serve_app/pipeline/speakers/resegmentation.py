"""Windows and words, by turns: voices tell which word is whose, and words tell which windows are pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from deployments.messages import Embeddings
from serve_app.pipeline.speakers.clustering import Floats, Labels, group, renumber, steadiness
from serve_app.pipeline.speakers.ghosts import dissolve_ghosts
from serve_app.pipeline.speakers.spread import Bounds, VoiceSpread, join_alike
from serve_app.pipeline.speakers.words import best_path

_ROUNDS = 16
_SETTLED = 0.995
_PATIENCE = 4

_INDEPENDENT = 0.5
"""Windows overlap by half, so each of them is half the evidence that it seems."""

_MOST_EVIDENCE = 12.0
_LEAST_SEPARATION = 9.0
"""In natural-log units. No window is more certain than the first, because now and then one is entirely wrong;
and one right in the middle of the nearest two voices' is no less certain than the second."""

_PURE = 0.6
_LEAST_WEIGHT = 0.01


@dataclass(frozen=True, slots=True)
class HeardWindows:
    """The windows of a recording that hold words, in order of time.

    Attributes:
        voices: shape ``(windows, dimensions)``, rows of length 1.
        begins, ends: milliseconds.
        shares: what share of each window each word is, shape ``(windows, words)``.
    """

    voices: Embeddings
    begins: Floats
    ends: Floats
    shares: sparse.csr_array


@dataclass(frozen=True, slots=True)
class Voices:
    """``path``: the voice of each word; ``spread``: all voices, also those that no word was left to."""

    path: Labels
    spread: VoiceSpread


def find_voices(
    windows: HeardWindows, switches: Sequence[float], similarity: float, bounds: Bounds
) -> Voices:
    """Cluster the windows and give each word a voice, until neither changes the other."""
    labels, weights = _first_guess(windows, similarity, bounds)
    for turn in range(_ROUNDS):
        spread = VoiceSpread.of(windows.voices, labels, weights, similarity)
        path = best_path(windows.shares.T @ evidence(windows.voices, spread), switches)
        heard, purity = _majority(windows.shares, path, len(spread.sizes))
        if len(np.unique(heard)) < bounds.least:
            return Voices(_path_of_windows(windows, labels, switches), spread)
        weights = np.clip((purity - _PURE) / (1 - _PURE), _LEAST_WEIGHT, 1)
        found = dissolve_ghosts(windows.voices, renumber(heard), weights, similarity, bounds.least)
        if found.max() == labels.max() and (np.mean(found == labels) > _SETTLED or turn % _PATIENCE == 3):
            spread = VoiceSpread.of(windows.voices, found, weights, similarity)
            found = join_alike(spread, found, bounds)
            if found.max() == labels.max():
                break
        labels = found
    return Voices(path, spread)


def evidence(windows: Embeddings, spread: VoiceSpread) -> Floats:
    """What each window says for each voice against the best one, in natural-log units: 0 or less.

    Linear discriminants in the space that the voices span.
    """
    count = len(spread.sizes)
    if count == 1:
        return np.zeros((len(windows), 1))
    basis, _ = np.linalg.qr((spread.means[1:] - spread.means[0]).T)
    means = spread.means @ basis
    weights = np.linalg.solve(basis.T @ spread.covariance @ basis, means.T)
    products = means @ weights
    squares = np.diag(products)
    separation = (squares[:, None] + squares - 2 * products)[np.triu_indices(count, 1)] / 2
    scale = max(_INDEPENDENT, _LEAST_SEPARATION / max(float(separation.min()), 1e-9))
    scores = scale * ((windows @ basis) @ weights - squares / 2)
    return np.asarray(np.maximum(scores - scores.max(axis=1, keepdims=True), -_MOST_EVIDENCE), np.float64)


def _path_of_windows(windows: HeardWindows, labels: Labels, switches: Sequence[float]) -> Labels:
    """The path through the voices that the windows were given, where their sounds would leave fewer."""
    given = np.full((len(labels), int(labels.max()) + 1), -_MOST_EVIDENCE)
    given[np.arange(len(labels)), labels] = 0
    return best_path(windows.shares.T @ given, switches)


def _first_guess(windows: HeardWindows, similarity: float, bounds: Bounds) -> tuple[Labels, Floats]:
    """Labels of the windows; those that are not steady have no weight yet."""
    steady, own_likeness = steadiness(windows.voices, windows.begins, windows.ends, similarity)
    if steady.sum() < bounds.least:
        steady = np.ones(len(windows.voices), bool)
    groups = group(windows.voices[steady], own_likeness, bounds.least)
    spread = VoiceSpread.of(windows.voices[steady], groups, np.ones(len(groups)), similarity)
    labels = np.zeros(len(windows.voices), np.intp)
    labels[steady] = join_alike(spread, groups, bounds)
    return labels, steady.astype(np.float64)


def _majority(shares: sparse.csr_array, path: Labels, count: int) -> tuple[Labels, Floats]:
    """The voice that says most of each window, and what share of it."""
    said = np.zeros((len(path), count))
    said[np.arange(len(path)), path] = 1
    by_voice = shares @ said
    return by_voice.argmax(axis=1), by_voice.max(axis=1)
