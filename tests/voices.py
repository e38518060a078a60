"""Voices of stand-in graphs: different sounds are different speakers."""

from collections.abc import Callable, Sequence

import numpy as np

from deployments.messages import Embeddings, Pcm

DIMENSIONS = 32

Voice = Callable[[Pcm], Embeddings]
"""Whose voice is in some samples: shape ``(DIMENSIONS,)``, of any length."""


def embedded(samples: Pcm, windows: Sequence[tuple[int, int]], voice: Voice) -> Embeddings:
    """The voice of each window, as a speaker model gives it; windows are samples of what lies there."""
    assert all(0 <= begin < end <= len(samples) for begin, end in windows)
    rows = np.stack([voice(samples[begin:end]) for begin, end in windows]).astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    voices: Embeddings = rows / np.maximum(lengths, 1e-9)
    return voices


def one_voice(samples: Pcm) -> Embeddings:
    """Everybody sounds the same."""
    voice: Embeddings = np.eye(1, DIMENSIONS, dtype=np.float32)[0]
    return voice


def by_level(samples: Pcm, *, step: int = 1000, together: int = 10) -> Embeddings:
    """Levels 1 to 10 (of 1 000 each) are one voice, 11 to 20 the next; mixed by how long each lasts."""
    levels = np.abs(samples[samples != 0].astype(np.int32)) // step
    counts = np.bincount(np.maximum(levels - 1, 0) // together, minlength=DIMENSIONS)
    voice: Embeddings = counts.astype(np.float32)
    return voice


def by_tone(samples: Pcm, tones: Sequence[float], rate: int = 16_000) -> Embeddings:
    """Each of ``tones`` (Hz) is a voice; several are mixed as loud as they are."""
    voice = np.zeros(DIMENSIONS, np.float32)
    times = np.arange(len(samples)) / rate
    for number, hz in enumerate(tones):
        voice[number] = np.abs(np.dot(samples.astype(np.float64), np.exp(-2j * np.pi * hz * times)))
    return voice
