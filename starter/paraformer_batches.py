"""Batches of cached clips: joined at random to longer ones, varied, stacked, normalized and padded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from starter.paraformer_model import FRAME_SECONDS, LFR_STRIDE, stack_frames

IGNORE = -1
"""Padding of token ids."""
_FILTER_FRAMES_PER_SECOND = 100
_EXTRA_TIMES = {1: 6, 2: 6, 3: 2, 4: 2, 5: 2}
"""How many times more a clip of so many characters comes in an epoch, because the losses are per token."""
_LONGEST_JOIN = 24 * _FILTER_FRAMES_PER_SECOND
_LONGEST_RARE_JOIN = 65 * _FILTER_FRAMES_PER_SECOND


@dataclass(frozen=True, slots=True)
class Cache:
    """All clips one after the other. features: float16 [frames, 80]; ids: int16; times: float32 [n, 2],
    seconds.

    frame_starts and id_starts hold one more entry than there are clips.
    """

    features: NDArray[np.float16]
    frame_starts: NDArray[np.int64]
    ids: NDArray[np.int16]
    id_starts: NDArray[np.int64]
    times: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.frame_starts) - 1

    def frames(self, clip: int) -> int:
        return int(self.frame_starts[clip + 1] - self.frame_starts[clip])

    @property
    def seconds(self) -> float:
        return len(self.features) / _FILTER_FRAMES_PER_SECOND


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded model input.

    speech: float32 [batch, frames, 560]; speech_lengths: int64 [batch]; ids: int64 [batch, tokens] padded
    with IGNORE; lengths: int64 [batch]; begins and ends: per clip, float32 [tokens], in encoder frames.
    """

    speech: torch.Tensor
    speech_lengths: torch.Tensor
    ids: torch.Tensor
    lengths: torch.Tensor
    begins: list[torch.Tensor]
    ends: list[torch.Tensor]


def merge_shards(paths: list[Path], directory: Path) -> None:
    """Write the shards' contents as plain arrays, so that all training processes map the same memory."""
    if (directory / "times.npy").exists():
        return
    parts = [np.load(path) for path in paths]
    for name in ("features", "ids"):
        np.save(directory / f"{name}.npy", np.concatenate([part[name] for part in parts]))
    for name, source in (("frame_starts", "frames"), ("id_starts", "lengths")):
        counts = np.concatenate([part[source] for part in parts]).astype(np.int64)
        np.save(directory / f"{name}.npy", np.concatenate([[0], np.cumsum(counts)]))
    np.save(directory / "times.npy", np.concatenate([part["times"] for part in parts]))


def open_cache(directory: Path) -> Cache:
    arrays = {
        name: np.load(directory / f"{name}.npy", mmap_mode="r")
        for name in ("features", "frame_starts", "ids", "id_starts", "times")
    }
    return Cache(**arrays)


def statistics(cache: Cache, clips: int = 2000) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of the stacked features, float32 [560] each, over evenly spread clips."""
    total, square, count = np.zeros(80), np.zeros(80), 0
    for clip in range(0, len(cache), max(1, len(cache) // clips)):
        features = cache.features[cache.frame_starts[clip] : cache.frame_starts[clip + 1]].astype(np.float64)
        total += features.sum(axis=0)
        square += (features**2).sum(axis=0)
        count += len(features)
    mean = total / count
    deviation = np.sqrt(square / count - mean**2)
    return np.tile(mean, 7).astype(np.float32), np.tile(deviation, 7).astype(np.float32)


Variation = Callable[
    [NDArray[np.float32], NDArray[np.float32], np.random.Generator],
    tuple[NDArray[np.float32], NDArray[np.float32]],
]
"""Changes a clip: filter banks [frames, 80] and character times [n, 2] in seconds."""


class Batcher:
    """Endless batches for one of several training processes, all of which see the same plan.

    frames: encoder frames in a batch, padding included. rank, processes: which batches of the plan are ours.
    vary: applied to every clip before the usual variations.
    """

    def __init__(
        self,
        cache: Cache,
        mean: NDArray[np.float32],
        deviation: NDArray[np.float32],
        *,
        seed: int,
        frames: int,
        rank: int,
        processes: int,
        vary: Variation | None = None,
    ) -> None:
        self._cache = cache
        self._vary = vary
        self._mean, self._scale = mean, np.float32(1) / deviation
        self._seed, self._frames = seed, frames
        self._rank, self._processes = rank, processes

    def epochs(self, first: int) -> Iterator[tuple[int, Batch]]:
        """(epoch, batch) pairs from epoch `first` on; every epoch joins and orders the clips anew."""
        epoch = first
        while True:
            noise = np.random.default_rng((self._seed, epoch, self._rank))
            for group in self._plan(np.random.default_rng((self._seed, epoch))):
                yield epoch, self._collate([self._item(clips, noise) for clips in group[self._rank]])
            epoch += 1

    def _plan(self, rng: np.random.Generator) -> list[list[list[list[int]]]]:
        """Steps -> processes -> clips of a batch -> cached clips to join. Batches of a step are equally
        long.
        """
        items = sorted(self._join(rng), key=lambda item: item[0])
        batches: list[list[list[int]]] = []
        current: list[list[int]] = []
        for frames, clips in items:
            longest = -(-frames // LFR_STRIDE)
            if current and longest * (len(current) + 1) > self._frames:
                batches.append(current)
                current = []
            current.append(clips)
        batches.append(current)
        usable = len(batches) // self._processes * self._processes
        steps = [batches[start : start + self._processes] for start in range(0, usable, self._processes)]
        return [steps[index] for index in rng.permutation(len(steps))]

    def _join(self, rng: np.random.Generator) -> list[tuple[int, list[int]]]:
        """(filter-bank frames, clips) of every item; for a quarter, clips in a row up to a random length."""
        items: list[tuple[int, list[int]]] = []
        lengths = np.diff(self._cache.id_starts)
        times = [1 + _EXTRA_TIMES.get(length, 0) for length in lengths.tolist()]
        clips_of_epoch = np.repeat(np.arange(len(self._cache)), times)
        order = iter(rng.permutation(clips_of_epoch).tolist())
        for clip in order:
            clips, frames = [clip], self._cache.frames(clip)
            if rng.random() < 0.25:
                limit = _LONGEST_RARE_JOIN if rng.random() < 0.15 else _LONGEST_JOIN
                goal = rng.uniform(0, limit)
                while frames < goal and (following := next(order, None)) is not None:
                    if frames + self._cache.frames(following) > limit:
                        items.append((self._cache.frames(following), [following]))
                        break
                    clips.append(following)
                    frames += self._cache.frames(following)
            items.append((frames, clips))
        return items

    def _item(
        self, clips: list[int], rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """Stacked features [frames, 560], token ids, and (begin, end) of each in encoder frames."""
        cache = self._cache
        pieces, ids, times, start = [], [], [], 0
        for clip in clips:
            piece = cache.features[cache.frame_starts[clip] : cache.frame_starts[clip + 1]].astype(np.float32)
            span = slice(cache.id_starts[clip], cache.id_starts[clip + 1])
            pieces.append(piece)
            ids.append(cache.ids[span].astype(np.int64))
            times.append(cache.times[span] + np.float32(start / _FILTER_FRAMES_PER_SECOND))
            start += len(piece)
        whole, seconds = np.concatenate(pieces), np.concatenate(times)
        if self._vary is not None:
            whole, seconds = self._vary(whole, seconds, rng)
        features = _mask(_equalize(_warp(whole, rng), rng), self._mean[:80], rng)
        stacked = (stack_frames(features) - self._mean) * self._scale
        return stacked, np.concatenate(ids), (seconds / FRAME_SECONDS).astype(np.float32)

    def _collate(
        self, items: list[tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]]
    ) -> Batch:
        # FunASR's CIF indexes past the end when the last row of a batch fires no token.
        items = sorted(items, key=lambda item: len(item[1]))
        lengths = torch.tensor([len(ids) for _, ids, _ in items])
        speech_lengths = torch.tensor([len(features) for features, _, _ in items])
        speech = torch.zeros(len(items), int(speech_lengths.max()), items[0][0].shape[1])
        ids = torch.full((len(items), max(1, int(lengths.max()))), IGNORE)
        for row, (features, tokens, _) in enumerate(items):
            speech[row, : len(features)] = torch.from_numpy(features)
            ids[row, : len(tokens)] = torch.from_numpy(tokens)
        times = [torch.from_numpy(np.ascontiguousarray(times)) for _, _, times in items]
        return Batch(speech, speech_lengths, ids, lengths, [t[:, 0] for t in times], [t[:, 1] for t in times])


def _warp(features: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Vocal-tract-length perturbation: the mel axis stretched by up to 8 % for half of the clips."""
    if rng.random() < 0.5:
        return features
    position = (np.arange(80) * rng.uniform(0.92, 1.08) + rng.uniform(-1, 1)).clip(0, 78.999)
    low = position.astype(np.int64)
    weight = (position - low).astype(np.float32)
    return features[:, low] * (1 - weight) + features[:, low + 1] * weight


def _equalize(features: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """A random level and a smooth random frequency response (log energies: an offset for each mel band)."""
    knots = rng.normal(0, 0.6, 6)
    curve = np.interp(np.arange(80), np.linspace(0, 79, 6), knots) + rng.uniform(-1, 1)
    return features + curve.astype(np.float32)


def _mask(
    features: NDArray[np.float32], fill: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """SpecAugment: one band of up to 16 mel bins, and up to 0.15 s out of every 3 s, set to the mean."""
    width = int(rng.integers(0, 17))
    low = int(rng.integers(0, 80 - width))
    features[:, low : low + width] = fill[low : low + width]
    for start in range(0, len(features), 300):
        length = int(rng.integers(0, 16))
        begin = start + int(rng.integers(0, 300))
        features[begin : begin + length] = fill
    return features
