"""Sounds that hold no speech: what a recognizer must answer with nothing.

Every function takes a length in samples at 16 kHz and gives float32 in [-1, 1]. All chance comes from the
`rng` that is passed in, so a seed gives the same clip again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

SAMPLE_RATE = 16000


def silence(length: int, rng: np.random.Generator) -> Samples:
    """Digital zero."""
    return np.zeros(length, np.float32)


def dc(length: int, rng: np.random.Generator) -> Samples:
    """A constant offset of up to half scale."""
    return np.full(length, rng.uniform(-0.5, 0.5), np.float32)


def white(length: int, rng: np.random.Generator) -> Samples:
    """White noise at -70 to -10 dB of full scale."""
    return _at_level(rng.standard_normal(length), rng.uniform(-70, -10))


def pink(length: int, rng: np.random.Generator) -> Samples:
    """Noise whose power falls with 1/f (3 dB per octave), at -70 to -10 dB of full scale."""
    return _at_level(colored(length, 1.0, rng), rng.uniform(-70, -10))


def hum(length: int, rng: np.random.Generator) -> Samples:
    """Mains hum: 50 or 60 Hz and up to twelve harmonics of falling strength, with a little noise."""
    time = np.arange(length) / SAMPLE_RATE
    base = rng.choice((50.0, 60.0)) * rng.uniform(0.998, 1.002)
    decay = rng.uniform(0.3, 1.5)
    wave = np.zeros(length)
    for harmonic in range(1, int(rng.integers(2, 14))):
        strength = rng.uniform(0.3, 1.0) / harmonic**decay
        wave += strength * np.sin(2 * np.pi * base * harmonic * time + rng.uniform(0, 2 * np.pi))
    wave += rng.uniform(0, 0.05) * rng.standard_normal(length)
    return _at_level(wave, rng.uniform(-45, -10))


def clicks(length: int, rng: np.random.Generator) -> Samples:
    """Impulses and short decaying rings (keyboard, line clicks), one to eight a second, over faint noise."""
    wave = 10 ** rng.uniform(-5, -3) * rng.standard_normal(length)
    for _ in range(max(1, int(length / SAMPLE_RATE * rng.uniform(1, 8)))):
        start = int(rng.integers(0, max(1, length)))
        size = min(int(rng.integers(1, 320)), length - start)
        ring = np.exp(-np.arange(size) / rng.uniform(1, 60))
        ring *= np.cos(2 * np.pi * rng.uniform(300, 6000) / SAMPLE_RATE * np.arange(size))
        wave[start : start + size] += rng.choice((-1.0, 1.0)) * rng.uniform(0.1, 0.9) * ring
    return np.clip(wave, -1, 1).astype(np.float32)


def tones(length: int, rng: np.random.Generator) -> Samples:
    """One to three steady tones, keypad tones in bursts, or a chirp, 80 to 7000 Hz."""
    time = np.arange(length) / SAMPLE_RATE
    shape = rng.integers(3)
    if shape == 0:
        frequencies = rng.uniform(80, 7000, size=int(rng.integers(1, 4)))
        wave = np.sum([np.sin(2 * np.pi * f * time) for f in frequencies], axis=0)
    elif shape == 1:
        wave = _keypad(time, rng)
    else:
        low, high = np.sort(rng.uniform(80, 7000, size=2))
        sweep = rng.uniform(0.2, 3.0)
        wave = np.sin(2 * np.pi * np.cumsum(low + (high - low) * (time / sweep % 1.0)) / SAMPLE_RATE)
    return _at_level(wave, rng.uniform(-45, -8))


def low_tones(length: int, rng: np.random.Generator) -> Samples:
    """Tones and sweeps where voices have theirs, 60 to 2000 Hz, often beating, broken or over noise."""
    time = np.arange(length) / SAMPLE_RATE
    wave = np.zeros(length)
    for _ in range(int(rng.integers(1, 5))):
        low, high = np.sort(np.exp(rng.uniform(np.log(60), np.log(2000), size=2)))
        ramp = time / rng.uniform(0.2, 5.0) % 1.0 if rng.random() < 0.4 else 0.0 * time
        phase = np.cumsum(low + (high - low) * ramp) / SAMPLE_RATE
        wave += rng.uniform(0.1, 1.0) * np.sin(2 * np.pi * (phase + rng.random()))
    if rng.random() < 0.3:
        wave *= (time / rng.uniform(0.2, 4.0) + rng.random()) % 1.0 < rng.uniform(0.2, 0.8)
    wave += 10 ** rng.uniform(-4, -1) * rng.standard_normal(length)
    return _at_level(wave, rng.uniform(-45, -8))


KINDS: dict[str, Callable[[int, np.random.Generator], Samples]] = {
    "silence": silence,
    "dc": dc,
    "white": white,
    "pink": pink,
    "hum": hum,
    "clicks": clicks,
    "tones": tones,
}


def noise_clip(seconds: float, rng: np.random.Generator, kind: str | None = None) -> Samples:
    """A clip without speech, of the named kind or a random one. Raises KeyError on an unknown kind."""
    chosen = kind if kind is not None else str(rng.choice(list(KINDS)))
    return KINDS[chosen](round(seconds * SAMPLE_RATE), rng)


def colored(length: int, exponent: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Gaussian noise whose power falls with 1/f**exponent, unit variance (0 is white, 1 pink, 2 brown)."""
    if length == 0:
        return np.zeros(0)
    spectrum = np.fft.rfft(rng.standard_normal(length))
    frequency = np.fft.rfftfreq(length)
    frequency[0] = frequency[1] if len(frequency) > 1 else 1.0
    shaped = np.fft.irfft(spectrum / frequency ** (exponent / 2), length)
    return np.asarray(shaped / max(float(shaped.std()), 1e-9))


def _keypad(time: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Telephone keypad tones (ITU-T Q.23 frequencies), 60 to 200 ms on and off."""
    wave = np.zeros_like(time)
    beat = int(rng.uniform(0.06, 0.2) * SAMPLE_RATE)
    for start in range(0, len(time), 2 * beat):
        part = time[start : start + beat]
        low, high = rng.choice((697.0, 770.0, 852.0, 941.0)), rng.choice((1209.0, 1336.0, 1477.0, 1633.0))
        wave[start : start + beat] = np.sin(2 * np.pi * low * part) + np.sin(2 * np.pi * high * part)
    return wave


def _at_level(wave: NDArray[np.float64], decibels: float) -> Samples:
    """Scaled to an RMS level in dB of full scale, limited to [-1, 1]."""
    rms = float(np.sqrt(np.mean(wave**2))) if len(wave) else 1.0
    return np.clip(wave * (10 ** (decibels / 20) / max(rms, 1e-9)), -1, 1).astype(np.float32)
