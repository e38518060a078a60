"""What a microphone hears of speakers in a room."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.signal import fftconvolve

from starter.augment import SAMPLE_RATE, Samples, speech_level


@dataclass(frozen=True, slots=True)
class Place:
    """Where a speaker is: ``level`` is the RMS of the speech; ``response`` what the walls make of it."""

    level: float
    response: Samples | None

    @classmethod
    def drawn(cls, rng: np.random.Generator, reverberant: bool) -> Self:
        """A level of -32 to -20 dB, and in a reverberant room echoes that fade within 0.15 to 0.35 s."""
        return cls(10 ** (rng.uniform(-32, -20) / 20), _response(rng) if reverberant else None)

    def heard(self, samples: Samples) -> Samples:
        """The speech as it arrives, without the echo after its end."""
        if self.response is not None:
            samples = fftconvolve(samples, self.response)[: len(samples)].astype(np.float32)
        return samples * np.float32(self.level / max(speech_level(samples), 1e-4))


def _response(rng: np.random.Generator) -> Samples:
    """An impulse, and noise that falls by 60 dB in the reverberation time, 8 to 18 dB weaker than it."""
    seconds = rng.uniform(0.15, 0.35)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    tail[: round(0.002 * SAMPLE_RATE)] = 0
    tail *= 10 ** (-rng.uniform(8, 18) / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return tail.astype(np.float32)
