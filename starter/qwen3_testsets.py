"""Held-out clips for the Qwen3 models: sentences and talks with their marks."""

from __future__ import annotations

import numpy as np

from starter.augment import Kind, degrade
from starter.paraformer_data import Clip
from starter.paraformer_testsets import TestSets, degraded
from starter.text import Split
from starter.voices import Voice

__all__ = ["Clip", "held_out", "talks"]


def held_out(
    part: Split, count: int, voices: tuple[Voice, ...], seed: int, kind: Kind = "light"
) -> list[Clip]:
    """Sentences that no model was trained on, at most 10 s each."""
    clips = TestSets(part, seed).sentences(count, voices)
    return [clip for clip in degraded(clips, kind, seed) if len(clip.samples) <= 160_000]


def talks(part: Split, count: int, seconds: float, voices: tuple[Voice, ...], seed: int) -> list[Clip]:
    """Talks of `seconds` and a little more by one voice each."""
    rng = np.random.default_rng(seed)
    clips = TestSets(part, seed).talks(count, seconds, voices)
    return [Clip(degrade(clip.samples, "light", rng), clip.text, clip.times) for clip in clips]
