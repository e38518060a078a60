"""How certain it is who said a word."""

import numpy as np

from serve_app.pipeline.speakers.clustering import Floats, Labels
from serve_app.pipeline.speakers.resegmentation import HeardWindows


def certainty(windows: HeardWindows, path: Labels, means: Floats) -> Floats:
    """For each word, where the windows that hold it lie between its speaker's voice and the next one.

    Args:
        path: the voice of each word.
        means: all voices, shape ``(voices, dimensions)``.

    Returns:
        Shape ``(words,)``. 1: right at the voice of its speaker, 0: half-way to another one, below 0:
        nearer to the other; never above 1. 0 as well where no window holds the word. With only one voice,
        1 is as near to it as windows are on the average.
    """
    placed = _placed(windows, means)
    by_word = windows.shares.T @ placed
    weights = np.asarray(windows.shares.sum(axis=0)).ravel()
    own = by_word[np.arange(len(path)), path]
    return np.asarray(own / np.maximum(weights, 1e-12), np.float64)


def _placed(windows: HeardWindows, means: Floats) -> Floats:
    """Where each window lies between each voice and the one that is nearest besides, -1 to 1."""
    scores = windows.voices @ means.T
    squares = np.einsum("vd,vd->v", means, means)
    if len(means) == 1:
        return np.asarray(np.clip(scores / np.maximum(squares, 1e-12), -1, 1), np.float64)
    products = means @ means.T
    placed = np.empty_like(scores)
    for voice in range(len(means)):
        others = np.delete(np.arange(len(means)), voice)
        apart = np.maximum(squares[voice] + squares[others] - 2 * products[voice, others], 1e-12)
        margins = 2 * (scores[:, [voice]] - scores[:, others]) - (squares[voice] - squares[others])
        placed[:, voice] = (margins / apart).min(axis=1)
    return np.asarray(np.clip(placed, -1, 1), np.float64)
