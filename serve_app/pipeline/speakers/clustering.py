"""A first guess at which windows are of one voice: too many groups rather than too few, in bounded memory."""

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from deployments.messages import Embeddings

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.intp]
"""A number from 0 for each window, or for each word."""

MOST_COMPARED = 1500
"""All pairs are compared, so more windows than this are first gathered into as many small groups."""

MOST_GROUPS = 100

_LOOSENESS = 0.9
"""Two groups are one where their windows are nearly as alike as windows of one voice are."""

_SPARE = 4
_GATHERING_ROUNDS = 2
_BLOCK = 2048
_SHARED_MS = 300


def renumber(labels: npt.NDArray[np.integer]) -> Labels:
    """The same groups, numbered from 0 without gaps."""
    return np.asarray(np.unique(labels, return_inverse=True)[1], np.intp)


def steadiness(
    voices: Embeddings, begins: Floats, ends: Floats, similarity: float
) -> tuple[npt.NDArray[np.bool_], float]:
    """Which windows hold one voice as far as one can tell, and how alike windows of one voice are (cosine).

    What was heard right before the middle of each window is compared with what was heard right after it.

    A window across a change of speakers sounds like neither, and groups of such windows would look like
    speakers of their own, or tie two together. Where the windows on both sides overlap this one, but not
    each other, and differ, it lies across a change.

    Args:
        begins, ends: milliseconds, in order of time. A window that has no neighbors counts as steady.
        similarity: as in ``SpeakerTuning``.
    """
    steady = np.ones(len(voices), bool)
    inner = np.arange(1, len(voices) - 1)
    touching = (begins[inner] < ends[inner - 1]) & (begins[inner + 1] < ends[inner])
    apart = ends[inner - 1] <= begins[inner + 1] + _SHARED_MS
    inner = inner[touching & apart]
    if not len(inner):
        return steady, (1 + similarity) / 2
    likeness = np.einsum("wd,wd->w", voices[inner - 1], voices[inner + 1])
    usual = max(float(np.median(likeness)), similarity)
    steady[inner] = likeness >= similarity * usual
    return steady, usual


def group(voices: Embeddings, own_likeness: float, least: int) -> Labels:
    """Group windows that are surely of one voice: average linkage on cosines.

    Args:
        voices: shape ``(windows, dimensions)``, rows of length 1, in order of time; one at least.
        own_likeness: how alike windows of one voice are.
        least: how many voices are to be found, whatever the likeness; there is something to choose from
            if there are several times as many groups.
    """
    members = _gather(voices)
    middles = _middles(voices, members).astype(np.float64)
    if len(middles) == 1:
        return members
    distances = np.clip(1 - middles @ middles.T, 0, 2)
    np.fill_diagonal(distances, 0)
    tree = linkage(squareform(distances, checks=False), "average")
    groups = fcluster(tree, 1 - _LOOSENESS * own_likeness, "distance")
    if groups.max() > MOST_GROUPS:
        groups = fcluster(tree, MOST_GROUPS, "maxclust")
    elif least > 1 and groups.max() < _SPARE * least:
        groups = fcluster(tree, _SPARE * least, "maxclust")
    return renumber(groups)[members]


def _gather(voices: Embeddings) -> Labels:
    """Each window's small group of windows that sound alike; with few windows, each is a group of its own.

    k-means from windows at even distances in time, so that the result does not depend on chance.
    """
    if len(voices) <= MOST_COMPARED:
        return np.arange(len(voices), dtype=np.intp)
    centers = voices[np.linspace(0, len(voices) - 1, MOST_COMPARED).round().astype(int)]
    for _ in range(_GATHERING_ROUNDS):
        centers = _middles(voices, _nearest(voices, centers))
    return _nearest(voices, centers)


def _nearest(voices: Embeddings, centers: Embeddings) -> Labels:
    blocks = (voices[begin : begin + _BLOCK] for begin in range(0, len(voices), _BLOCK))
    return renumber(np.concatenate([np.argmax(block @ centers.T, axis=1) for block in blocks]))


def _middles(voices: Embeddings, members: Labels) -> Embeddings:
    order = np.argsort(members, kind="stable")
    begins = np.flatnonzero(np.diff(members[order], prepend=-1))
    sums = np.add.reduceat(voices[order], begins, axis=0)
    middles: Embeddings = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return middles
