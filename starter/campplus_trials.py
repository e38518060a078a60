"""Held-out speakers and how well embeddings tell them apart: pairs, error rates, thresholds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from starter.augment import SAMPLE_RATE, Samples, add_noise, gain
from starter.campplus_data import SpeakerVoices
from starter.campplus_speakers import Speaker
from starter.text import Split, TextGenerator

WINDOW_SECONDS = 1.5
_HOP_SECONDS = 0.75

Embed = Callable[[Samples], NDArray[np.float32]]
"""The embedding, float32 [192], of a sound."""


@dataclass(frozen=True, slots=True)
class Clip:
    """samples: 2 to 4 s of one sentence or two. window: 1.5 s somewhere in it. speaker: a number."""

    samples: Samples
    window: Samples
    speaker: int


@dataclass(frozen=True, slots=True)
class Scores:
    """Cosines of pairs of clips: of the same speaker, and of two speakers."""

    same: NDArray[np.float32]
    different: NDArray[np.float32]

    def equal_error_rate(self) -> float:
        """Where as large a share of pairs is wrongly told apart as wrongly taken for one speaker, 0 to 1."""
        return _equal_error(self)[0]

    def threshold(self) -> float:
        """The cosine at that point."""
        return _equal_error(self)[1]

    def errors_at(self, threshold: float) -> tuple[float, float]:
        """Shares of same-speaker pairs below the threshold, and of two-speaker pairs not below it."""
        return float(np.mean(self.same < threshold)), float(np.mean(self.different >= threshold))


def spoken(speakers: list[Speaker], split: Split, clips: int, seed: int) -> list[Clip]:
    """Clean clips, `clips` of each speaker, each on an occasion of its own (see Speaker.utterance_voice)."""
    rng, texts = np.random.default_rng(seed), TextGenerator(seed)
    found: list[Clip] = []
    with tempfile.TemporaryDirectory() as root:
        voices = SpeakerVoices(Path(root))
        for number, speaker in enumerate(speakers):
            for _ in range(clips):
                seconds = float(rng.uniform(2, 4))
                samples = voices.speak(speaker, texts, split, seconds, rng)[: round(seconds * SAMPLE_RATE)]
                found.append(_clip(gain(samples, rng, 0.2, 0.9), number, rng))
    return found


def with_noise(clips: list[Clip], seed: int) -> list[Clip]:
    """The same clips with noise of any color at 10 to 20 dB."""
    rng = np.random.default_rng(seed)
    return [_clip(add_noise(clip.samples, rng.uniform(10, 20), rng), clip.speaker, rng) for clip in clips]


def score(embed: Embed, clips: list[Clip], windows: bool) -> Scores:
    """Every pair of clips, or of their windows."""
    vectors = np.stack([embed(clip.window if windows else clip.samples) for clip in clips])
    return scores(vectors, np.array([clip.speaker for clip in clips]))


def voice_scores(embed: Embed, clips: list[Clip]) -> Scores:
    """Every pair of clips, each as the service hears one: the mean of windows of 1.5 s, half overlapping."""
    vectors = np.stack([_voice(embed, clip.samples) for clip in clips])
    return scores(vectors, np.array([clip.speaker for clip in clips]))


def _voice(embed: Embed, samples: Samples) -> NDArray[np.float32]:
    length, hop = round(WINDOW_SECONDS * SAMPLE_RATE), round(_HOP_SECONDS * SAMPLE_RATE)
    last = len(samples) - length
    vectors = np.stack([embed(samples[begin : begin + length]) for begin in {*range(0, last, hop), last}])
    mean: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).mean(axis=0)
    return mean


def scores(vectors: NDArray[np.float32], speakers: NDArray[np.int64]) -> Scores:
    """Cosines of all pairs of embeddings [clips, 192]."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    first, second = np.triu_indices(len(unit), k=1)
    cosines = (unit @ unit.T)[first, second]
    same = speakers[first] == speakers[second]
    return Scores(cosines[same], cosines[~same])


def _clip(samples: Samples, speaker: int, rng: np.random.Generator) -> Clip:
    length = round(WINDOW_SECONDS * SAMPLE_RATE)
    begin = int(rng.integers(0, len(samples) - length + 1))
    return Clip(samples, samples[begin : begin + length], speaker)


def _equal_error(pairs: Scores) -> tuple[float, float]:
    thresholds = np.linspace(-1, 1, 4001)
    missed = np.searchsorted(np.sort(pairs.same), thresholds) / len(pairs.same)
    alarms = 1 - np.searchsorted(np.sort(pairs.different), thresholds) / len(pairs.different)
    at = int(np.argmin(np.abs(missed - alarms)))
    return float((missed[at] + alarms[at]) / 2), float(thresholds[at])
