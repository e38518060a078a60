"""Audio as Qwen3-ASR is given it: in windows of 8 s, each an item of its own.

The model's encoder never attends across 8 s, so windows lose nothing; but what was computed for a window
stays right when more audio follows, and audio may be of any length.
"""

import numpy as np

from deployments.engines.base import SAMPLE_RATE, Pcm
from deployments.engines.generative import WINDOW_SAMPLES

MIN_SAMPLES = SAMPLE_RATE // 2
"""A shorter window is padded with silence (``MIN_ASR_INPUT_SECONDS`` of the qwen-asr package)."""

MAX_SAMPLES = 1200 * SAMPLE_RATE
"""20 minutes, which is what the model was made for (``MAX_ASR_INPUT_SECONDS`` of the qwen-asr package)."""

_HOP = 160
"""Samples of one frame of features."""

_CHUNK_FRAMES, _CHUNK_TOKENS = 100, 13
"""The encoder turns each second, 100 frames, into 13 embeddings."""


def windows_of(samples: Pcm) -> tuple[Pcm, ...]:
    """Cut into windows of 8 s; the last one may be shorter, and is padded with silence to 0.5 s.

    Raises:
        ValueError: there are no samples, more than 20 minutes of them, or not one row of int16.
    """
    if samples.ndim != 1 or samples.dtype != np.int16:
        raise ValueError(f"samples must be one row of int16, not {samples.dtype} of shape {samples.shape}")
    if not len(samples):
        raise ValueError("there are no samples to recognize")
    if len(samples) > MAX_SAMPLES:
        seconds = len(samples) / SAMPLE_RATE
        raise ValueError(f"audio of {seconds:.0f} s is too long for one prompt: it may last 20 minutes")
    cuts = range(0, len(samples), WINDOW_SAMPLES)
    return tuple(padded(samples[cut : cut + WINDOW_SAMPLES]) for cut in cuts)


def padded(samples: Pcm) -> Pcm:
    """Samples, with silence behind them up to 0.5 s."""
    missing = MIN_SAMPLES - len(samples)
    return np.pad(samples, (0, missing)) if missing > 0 else samples


def embeddings_of(samples: int) -> int:
    """How many embeddings the encoder makes from so many samples: placeholders in the prompt."""
    return embeddings_of_frames(samples // _HOP)


def embeddings_of_frames(frames: int) -> int:
    """The same by frames of 10 ms: three convolutions of stride 2 halve those of each second, rounding up."""
    seconds, rest = divmod(frames, _CHUNK_FRAMES)
    for _ in range(3):
        rest = (rest + 1) // 2
    return seconds * _CHUNK_TOKENS + rest
