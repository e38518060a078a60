"""Groups that are no speaker: windows across a change of speakers, or of two who speak at once."""

from collections.abc import Iterator

import numpy as np
from scipy.optimize import nnls

from deployments.messages import Embeddings
from serve_app.pipeline.speakers.clustering import Floats, Labels, renumber
from serve_app.pipeline.speakers.spread import VoiceSpread

_FLEETING = 4
"""Windows in a row. Who is heard longer than this at a time, on the average, speaks for himself."""

_OWN_VOICE = 3.5
"""As distinct as this from any mixture is a voice of its own. Stricter than between two voices, because two
at once do not quite sound like the mean of both."""


def dissolve_ghosts(
    windows: Embeddings, labels: Labels, weights: Floats, similarity: float, least: int
) -> Labels:
    """Give the windows of groups that sound like a mixture of two others to the nearest other group.

    The voice of a window with two speakers lies between theirs, wherever they are; that of a third person,
    who may well say no more than a word at a time, does not. ``windows`` are in order of time.
    """
    while labels.max() + 1 > max(least, 2):
        spread = VoiceSpread.of(windows, labels, weights, similarity)
        ghosts = [(_mixedness(spread, number), number) for number in _fleeting(labels)]
        distinctness, ghost = min(ghosts, default=(np.inf, 0))
        if distinctness >= _OWN_VOICE:
            break
        likeness = windows @ spread.directions.T
        likeness[:, ghost] = -np.inf
        labels = renumber(np.where(labels == ghost, likeness.argmax(axis=1), labels))
    return labels


def _fleeting(labels: Labels) -> Iterator[int]:
    begins = np.flatnonzero(np.diff(labels, prepend=-1))
    runs = np.bincount(labels[begins])
    yield from np.flatnonzero(np.bincount(labels) <= _FLEETING * runs).tolist()


def _mixedness(spread: VoiceSpread, number: int) -> float:
    """How distinct a voice is from the nearest mixture of two others."""
    others = np.delete(spread.means, number, axis=0)
    shares, _ = nnls(others.T, spread.means[number])
    two = others[np.argsort(-shares)[:2]]
    shares, _ = nnls(two.T, spread.means[number])
    mixture = shares @ two
    return spread.distinct_from(number, mixture) if shares.any() else np.inf
