"""Batches for the Qwen3 models: cached clips joined, cut, varied and split into 8 s windows with a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from starter.qwen3_data import FRAMES_PER_SECOND, MEL_BINS, Cache

WINDOW_FRAMES = 8 * FRAMES_PER_SECOND
CHUNK_FRAMES, CHUNK_TOKENS, TOKEN_FRAMES = 100, 13, 8
"""The encoder's convolutions see one second at a time and make 13 embeddings of it, 80 ms apart."""
LEAST_FRAMES = FRAMES_PER_SECOND // 2
IGNORE = -100

_LONGEST_JOIN = 31 * FRAMES_PER_SECOND
_LONGEST_RARE_JOIN = 62 * FRAMES_PER_SECOND
_SILENCE = -10.0
_HEARD_MARK = 0.25
"""Seconds after a character from which on a cut clip keeps the mark that follows it."""
_PIECES = 0.25
_POOL = 48


@dataclass(frozen=True, slots=True)
class Item:
    """mel: float32 [frames, 128], log10 energies. ids, marks: int64 [n] (-1: no mark). times: float32 [n, 2],
    seconds. known: seconds between which `ids` say what is spoken; a cut leaves parts of characters outside.
    """

    mel: NDArray[np.float32]
    ids: NDArray[np.int64]
    marks: NDArray[np.int64]
    times: NDArray[np.float32]
    known: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Audio:
    """What the encoder takes: chunks of one second of all windows of a batch.

    chunks: float32 [chunks, 1, 128, 100], zero padded. lengths: frames of each chunk. window_chunks: chunks
    in each window. item_windows: windows in each item. times: seconds of each embedding, one array an item.
    """

    chunks: torch.Tensor
    lengths: list[int]
    window_chunks: list[int]
    times: list[NDArray[np.float32]]


def token_count(frames: int) -> int:
    """Embeddings that the encoder makes of one chunk of 1 to 100 frames."""
    return -(-frames // TOKEN_FRAMES)


class ItemSource:
    """An endless stream of training clips, drawn from the cache by `rng`."""

    def __init__(self, cache: Cache, rng: np.random.Generator) -> None:
        self._cache, self._rng = cache, rng
        lengths = np.diff(cache.id_starts)
        self._speech = np.flatnonzero(lengths > 0)
        self._noise = np.flatnonzero(lengths == 0)

    def batch(self, seconds: float) -> Iterator[list[Item]]:
        """Batches of clips alike in length, at most `seconds` long together with their padding."""
        while True:
            items = sorted((self._item() for _ in range(_POOL)), key=lambda item: len(item.mel))
            batches: list[list[Item]] = [[]]
            for item in items:
                size = max(len(item.mel), FRAMES_PER_SECOND) * (len(batches[-1]) + 1)
                if batches[-1] and size > seconds * FRAMES_PER_SECOND:
                    batches.append([])
                batches[-1].append(item)
            for index in self._rng.permutation(len(batches)):
                yield batches[index]

    def _item(self) -> Item:
        rng = self._rng
        draw = rng.random()
        if draw < 0.07:
            item = self._join([int(rng.choice(self._noise)) for _ in range(int(rng.integers(1, 3)))])
        elif draw < 0.35:
            item = self._join([int(rng.choice(self._speech))])
        else:
            clips: list[int] = []
            longest = _LONGEST_RARE_JOIN if rng.random() < 0.08 else _LONGEST_JOIN
            goal, frames = rng.uniform(0, longest), 0
            while frames < goal:
                source = self._noise if rng.random() < 0.06 else self._speech
                clip = int(rng.choice(source))
                frames += int(self._cache.frame_starts[clip + 1] - self._cache.frame_starts[clip])
                if frames > longest:
                    break
                clips.append(clip)
            item = self._join(clips or [int(rng.choice(self._speech))])
        if rng.random() < 0.25 and len(item.mel) > LEAST_FRAMES:
            item = cut(item, int(rng.integers(LEAST_FRAMES, len(item.mel))))
        if rng.random() < 0.08 and len(item.mel) > 2 * LEAST_FRAMES:
            item = cut_begin(item, int(rng.integers(0, len(item.mel) - LEAST_FRAMES)))
        return self._vary(item)

    def _clip(self, clip: int) -> Item:
        cache = self._cache
        mel = cache.features[cache.frame_starts[clip] : cache.frame_starts[clip + 1]].astype(np.float32)
        part = slice(cache.id_starts[clip], cache.id_starts[clip + 1])
        ids, marks = cache.ids[part].astype(np.int64), cache.marks[part].astype(np.int64)
        return Item(mel, ids, marks, cache.times[part], (0.0, len(mel) / FRAMES_PER_SECOND))

    def _join(self, clips: list[int]) -> Item:
        parts = [self._clip(clip) for clip in clips]
        if len(parts) > 1:
            parts = [self._piece(part) if self._rng.random() < _PIECES else part for part in parts]
        starts = np.cumsum([0, *(len(part.mel) for part in parts)]) / FRAMES_PER_SECOND
        return Item(
            np.concatenate([part.mel for part in parts]),
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.marks for part in parts]),
            np.concatenate(
                [part.times + np.float32(start) for part, start in zip(parts, starts[:-1], strict=True)]
            ),
            (0.0, float(starts[-1])),
        )

    def _piece(self, item: Item) -> Item:
        """Some characters of a clip, cut out at their edges: what nobody would say teaches to listen."""
        count = len(item.ids)
        if count < 4:
            return item
        first, last = sorted(self._rng.choice(count, 2, replace=False).tolist())
        end = cut(item, round(float(item.times[last, 1]) * FRAMES_PER_SECOND + 0.5))
        return cut_begin(end, int(float(item.times[first, 0]) * FRAMES_PER_SECOND))

    def _vary(self, item: Item) -> Item:
        """Another level, and now and then another vocal tract: the mel axis stretched by up to 6 %."""
        rng = self._rng
        mel = item.mel
        if rng.random() < 0.4:
            place = np.arange(MEL_BINS) * rng.uniform(0.94, 1.06)
            low = np.clip(place.astype(np.int64), 0, MEL_BINS - 2)
            share = np.clip(place - low, 0, 1).astype(np.float32)
            mel = mel[:, low] * (1 - share) + mel[:, low + 1] * share
        mel = np.maximum(mel + np.float32(rng.uniform(-0.6, 0.6)), _SILENCE)
        return Item(mel, item.ids, item.marks, item.times, item.known)


def cut(item: Item, frames: int) -> Item:
    """The first `frames` frames: the characters that end in them, with a mark at the end only if its pause
    was heard.
    """
    seconds = frames / FRAMES_PER_SECOND
    count = int((item.times[:, 1] <= seconds).sum())
    marks = item.marks[:count].copy()
    until = seconds
    if count and seconds < item.times[count - 1, 1] + _HEARD_MARK:
        marks[-1] = -1
    if count < len(item.ids):
        until = min(seconds, float(item.times[count, 0]))
    return Item(item.mel[:frames], item.ids[:count], marks, item.times[:count], (item.known[0], until))


def cut_begin(item: Item, frames: int) -> Item:
    """Without the first `frames` frames and the characters that begin in them."""
    seconds = frames / FRAMES_PER_SECOND
    first = int((item.times[:, 0] < seconds).sum())
    lost = max(seconds, float(item.times[first - 1, 1])) if first else seconds
    known = min(lost, item.known[1]) - seconds, item.known[1] - seconds
    times = item.times[first:] - np.float32(seconds)
    return Item(item.mel[frames:], item.ids[first:], item.marks[first:], times, known)


def _limit(mel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Whisper's normalization of one audio item."""
    return np.asarray((np.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0, np.float32)


def _mask(mel: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """SpecAugment in place: up to two bands of 12 bins and a few gaps of 60 ms are blanked."""
    mean = mel.mean()
    for _ in range(int(rng.integers(0, 3))):
        width = int(rng.integers(1, 13))
        start = int(rng.integers(0, MEL_BINS - width))
        mel[:, start : start + width] = mean
    for _ in range(int(rng.integers(0, 1 + len(mel) // 200))):
        start = int(rng.integers(0, len(mel)))
        mel[start : start + int(rng.integers(1, 7))] = mean
    return mel


def pad_window(mel: NDArray[np.float32]) -> NDArray[np.float32]:
    missing = LEAST_FRAMES - len(mel)
    return np.pad(mel, ((0, missing), (0, 0)), constant_values=_SILENCE) if missing > 0 else mel


def windows_of(mel: NDArray[np.float32], *, whole: bool) -> list[NDArray[np.float32]]:
    """Normalized windows of at most 8 s (or the whole clip as one), none shorter than half a second."""
    size = len(mel) if whole else WINDOW_FRAMES
    parts = [mel[start : start + size] for start in range(0, len(mel), size)]
    return [_limit(pad_window(part)) for part in parts]


def collect_audio(items: list[list[NDArray[np.float32]]]) -> Audio:
    """Chunks of the windows of every item."""
    chunks: list[NDArray[np.float32]] = []
    lengths: list[int] = []
    window_chunks: list[int] = []
    times: list[NDArray[np.float32]] = []
    for windows in items:
        moments, start = [], 0
        for window in windows:
            edges = [*range(0, len(window), CHUNK_FRAMES), len(window)]
            for begin, end in pairwise(edges):
                chunk = np.zeros((CHUNK_FRAMES, MEL_BINS), np.float32)
                chunk[: end - begin] = window[begin:end]
                chunks.append(chunk)
                lengths.append(end - begin)
                tokens = np.arange(token_count(end - begin))
                moments.append((start + begin + TOKEN_FRAMES * tokens) / FRAMES_PER_SECOND)
            window_chunks.append(len(edges) - 1)
            start += len(window)
        times.append(np.concatenate(moments).astype(np.float32))
    stacked = torch.from_numpy(np.stack(chunks)).transpose(1, 2).unsqueeze(1).contiguous()
    return Audio(stacked, lengths, window_chunks, times)


def audio_batch(items: list[Item], rng: np.random.Generator, *, whole: bool) -> Audio:
    """The encoder's input for a batch, with SpecAugment."""
    return collect_audio(
        [[_mask(window, rng) for window in windows_of(item.mel, whole=whole)] for item in items]
    )


def frame_targets(item: Item, times: NDArray[np.float32], blank: int) -> NDArray[np.int64]:
    """The character spoken at every embedding, int64: `blank` in pauses, IGNORE where a cut left a part."""
    targets = np.full(len(times), blank, np.int64)
    if len(item.ids):
        index = np.searchsorted(item.times[:, 0], times, side="right") - 1
        spoken = (index >= 0) & (times < item.times[index.clip(0), 1])
        targets[spoken] = item.ids[index[spoken]]
    begin, end = item.known
    targets[(times < begin) | ((times > end) & (times < len(item.mel) / FRAMES_PER_SECOND))] = IGNORE
    return targets


def character_spans(item: Item, times: NDArray[np.float32]) -> NDArray[np.int64]:
    """(first, last) embedding of every character, int64 [n, 2], a little wider than it is spoken."""
    half = TOKEN_FRAMES / FRAMES_PER_SECOND / 2
    first = np.searchsorted(times, item.times[:, 0] - half)
    last = np.searchsorted(times, item.times[:, 1] + half, side="right") - 1
    top = len(times) - 1
    return np.stack([first.clip(0, top), np.maximum(first, last).clip(0, top)], axis=1)
