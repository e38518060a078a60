"""How many voices there are, and which window is of which: once per recording, in bounded memory."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from deployments.messages import Embeddings

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.intp]
"""A number from 0 for each window, or for each word."""

MOST_REPRESENTATIVES = 1500
"""Agglomeration compares all pairs, so more windows than this are first gathered into as many small groups."""

_BLOCK = 2048
_GATHERING_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many voices are wanted: at least and at most; the same number twice if it is known."""

    least: int = 1
    most: int | None = None

    def allow(self, count: int) -> bool:
        return count >= self.least and (self.most is None or count <= self.most)


def unit(vectors: npt.NDArray[np.floating]) -> Embeddings:
    """Rows at length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Embeddings = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled


def centers_of(voices: Embeddings, labels: Labels, weights: Floats) -> Embeddings:
    """The mean voice of each label, shape ``(labels, dimensions)``; zeros for one that has no weight."""
    members = np.zeros((int(labels.max()) + 1, len(labels)), np.float32)
    members[labels, np.arange(len(labels))] = weights
    return unit(members @ voices)


def cluster(voices: Embeddings, threshold: float, bounds: Bounds) -> Labels:
    """Group windows whose voices are alike: average linkage on cosines.

    Args:
        voices: shape ``(windows, dimensions)``, rows of length 1, in the order of their times.
        threshold: mean cosine of the windows of two groups above which they are one.
        bounds: where the threshold gives another number of groups, the nearest number within the bounds.
    """
    groups = _gather(voices)
    sizes = np.bincount(groups)
    middles = centers_of(voices, groups, np.ones(len(voices)))
    if len(middles) == 1:
        return groups
    distances = np.clip(1.0 - middles.astype(np.float64) @ middles.T.astype(np.float64), 0.0, 2.0)
    np.fill_diagonal(distances, 0.0)
    tree = linkage(squareform(distances, checks=False), "average")
    labels = fcluster(tree, 1.0 - threshold, "distance") - 1
    count = int(labels.max()) + 1
    if not bounds.allow(count):
        wanted = bounds.least if count < bounds.least else bounds.most
        labels = fcluster(tree, wanted, "maxclust") - 1
    del sizes
    return np.asarray(labels[groups], np.intp)


def _gather(voices: Embeddings) -> Labels:
    """Each window's small group; every window is a group where they are few."""
    if len(voices) <= MOST_REPRESENTATIVES:
        return np.arange(len(voices), dtype=np.intp)
    seeds = np.linspace(0, len(voices) - 1, MOST_REPRESENTATIVES).round().astype(int)
    centers = voices[seeds]
    groups = _nearest(voices, centers)
    for _ in range(_GATHERING_ROUNDS):
        _, groups = np.unique(groups, return_inverse=True)
        centers = _sums(voices, groups)
        groups = _nearest(voices, centers)
    _, groups = np.unique(groups, return_inverse=True)
    return np.asarray(groups, np.intp)


def _sums(voices: Embeddings, groups: Labels) -> Embeddings:
    order = np.argsort(groups, kind="stable")
    begins = np.flatnonzero(np.diff(groups[order], prepend=-1))
    return unit(np.add.reduceat(voices[order], begins, axis=0))


def _nearest(voices: Embeddings, centers: Embeddings) -> Labels:
    """In blocks, so that memory is bounded."""
    blocks = (voices[begin : begin + _BLOCK] for begin in range(0, len(voices), _BLOCK))
    return np.concatenate([np.argmax(block @ centers.T, axis=1) for block in blocks])
