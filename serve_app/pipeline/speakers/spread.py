"""The voices of a recording as Gaussians of one shape: how far they are apart for how much each varies.

Cosines alone do not tell whether two voices are two people's: what is near for one model and recording is
far for another one. How much the windows of one voice differ is measured in the recording itself.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import sparse

from deployments.messages import Embeddings
from serve_app.pipeline.speakers.clustering import Floats, Labels, renumber

_APART = 2.5
"""Voices this distinct are two people's (see :meth:`VoiceSpread.distinctness`). Halves of one voice come to
about 1, two people who sound much alike to 3, others to 10 and more."""

_PRIOR_WINDOWS = 6.0
_PRIOR_DIMENSIONS = 20.0
"""The weight, in windows, and the directions of the variation that is assumed before any is seen."""

_FEW_WINDOWS = 2.0
"""A group of so many windows must be twice as distinct as a large one: they may all be of one odd sound."""

_OUTLIERS = 3.0
"""Windows vary more than Gaussians do: what a small group owes to chance is taken this many times."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many speakers may be found: at least and at most; the same number twice if it is known."""

    least: int = 1
    most: int | None = None


@dataclass(frozen=True, slots=True)
class VoiceSpread:
    """Voices, each the mean of its windows, and how windows vary around their mean, the same for all voices.

    Attributes:
        means: shape ``(voices, dimensions)``; shorter than 1, the more so the more the windows differ.
        sizes: windows of each, as a sum of their weights.
        scatter: sum over all windows of the squared deviations, shape ``(dimensions, dimensions)``.
        similarity: as in ``SpeakerTuning``.
    """

    means: Floats
    sizes: Floats
    scatter: Floats
    similarity: float

    @classmethod
    def of(cls, windows: Embeddings, labels: Labels, weights: Floats, similarity: float) -> Self:
        """``labels`` are numbered from 0 without gaps; ``weights`` are positive for a window of each."""
        weighted = windows * weights.astype(np.float32)[:, None]
        sizes = np.bincount(labels, weights).astype(np.float64)
        members = sparse.csr_array((np.ones(len(labels), np.float32), (labels, np.arange(len(labels)))))
        means = np.asarray(members @ weighted, np.float64) / sizes[:, None]
        deviations = windows - means.astype(np.float32)[labels]
        weighted = deviations * weights.astype(np.float32)[:, None]
        return cls(means, sizes, np.asarray(weighted.T @ deviations, np.float64), similarity)

    @property
    def directions(self) -> Floats:
        """The means at length 1."""
        return _directions(self.means)

    @property
    def covariance(self) -> Floats:
        """Of windows around their mean; where little was seen, what the model's threshold suggests."""
        assumed = self._assumed / _PRIOR_DIMENSIONS * np.eye(len(self.scatter))
        return (self.scatter + assumed) / self._freedom

    @property
    def variance(self) -> float:
        """Mean squared distance of windows from their mean."""
        return (float(np.trace(self.scatter)) + self._assumed) / self._freedom

    @property
    def _assumed(self) -> float:
        return _PRIOR_WINDOWS * (1 - self.similarity) / 2

    @property
    def _freedom(self) -> float:
        return max(float(self.sizes.sum()) - len(self.sizes), 0.0) + _PRIOR_WINDOWS

    def distinctness(self) -> Floats:
        """How surely each two voices are two people's, shape ``(voices, voices)``; infinite with itself.

        The distance of the means, less what chance alone explains, in standard deviations of the windows
        along the line between them; times the angle between them in units of the angle at which the model
        takes two voices for two people's. So voices that are near for the model must be told apart all the
        more clearly, and small groups more clearly than large ones.
        """
        return self._distinctness(self.means, self.sizes)

    def distinct_from(self, voice: int, mean: Floats) -> float:
        """The distinctness of a voice from a direction that is not a voice of its own."""
        length = np.linalg.norm(self.means[voice]) / max(float(np.linalg.norm(mean)), 1e-12)
        means = np.stack([self.means[voice], mean * length])
        return float(self._distinctness(means, np.array([self.sizes[voice], np.inf]))[0, 1])

    def _distinctness(self, means: Floats, sizes: Floats) -> Floats:
        squares = np.maximum(_squared_distances(means @ means.T), 1e-12)
        along = np.maximum(_squared_distances(means @ self.covariance @ means.T) / squares, 1e-9)
        chance = _OUTLIERS * self.variance * (1 / sizes[:, None] + 1 / sizes)
        angles = _angles(means)
        apart = np.sqrt(np.maximum(squares - chance, 0) / along) * angles / np.arccos(self.similarity)
        apart /= 1 + _FEW_WINDOWS / np.minimum(sizes[:, None], sizes)
        # Among those that are not distinct at all, the nearest come first.
        apart += 1e-3 * angles
        np.fill_diagonal(apart, np.inf)
        return np.asarray(apart, np.float64)

    def joined(self, one: int, other: int) -> Self:
        """With two voices taken as one; the numbers above ``other`` move down."""
        size = self.sizes[one] + self.sizes[other]
        apart = self.means[one] - self.means[other]
        means, sizes = self.means.copy(), self.sizes.copy()
        means[one] = (self.sizes[one] * means[one] + self.sizes[other] * means[other]) / size
        sizes[one] = size
        scatter = self.scatter + self.sizes[one] * self.sizes[other] / size * np.outer(apart, apart)
        kept = np.arange(len(sizes)) != other
        return type(self)(means[kept], sizes[kept], scatter, self.similarity)


def join_alike(spread: VoiceSpread, labels: Labels, bounds: Bounds) -> Labels:
    """Join voices that are not distinct, the least distinct first, within the bounds."""
    labels = labels.copy()
    while len(spread.sizes) > bounds.least:
        apart = spread.distinctness()
        one, other = sorted(int(index) for index in np.unravel_index(np.argmin(apart), apart.shape))
        wanted = bounds.most is None or len(spread.sizes) <= bounds.most
        if wanted and apart[one, other] >= _APART:
            break
        spread = spread.joined(one, other)
        labels[labels == other] = one
        labels = renumber(labels)
    return labels


def _directions(means: Floats) -> Floats:
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    return np.asarray(means / np.maximum(lengths, 1e-12), np.float64)


def _angles(means: Floats) -> Floats:
    directions = _directions(means)
    return np.asarray(np.arccos(np.clip(directions @ directions.T, -1, 1)), np.float64)


def _squared_distances(products: Floats) -> Floats:
    squares = np.diag(products)
    return np.asarray(squares[:, None] + squares - 2 * products, np.float64)
