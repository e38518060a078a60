"""What happens to speech between a mouth and a recognizer: gain, noise, a telephone line, an MP3 file."""

from __future__ import annotations

import io
from typing import Literal

import av
import numpy as np
import soxr
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

from starter.noise import colored

Samples = NDArray[np.float32]
Kind = Literal["clean", "light", "noise10", "telephony", "mp3"]

SAMPLE_RATE = 16000
KINDS: tuple[Kind, ...] = ("clean", "light", "noise10", "telephony", "mp3")

_MU = 255.0
_MP3_BIT_RATE = 32_000


def degrade(samples: Samples, kind: Kind, rng: np.random.Generator) -> Samples:
    """The same number of samples (16 kHz mono, float32 in [-1, 1]) after one of the `KINDS`.

    clean: unchanged. light: colored noise at 15 to 40 dB SNR and a random gain. noise10: the same at 10 dB.
    telephony: 300-3400 Hz at 8 kHz through 8-bit mu-law and back. mp3: coded at 32 kbit/s and decoded.
    SNR compares the noise with the louder parts of the signal (see `add_noise`). Raises ValueError on
    another kind.
    """
    if kind == "clean" or len(samples) == 0:
        return samples
    if kind == "light":
        return gain(add_noise(samples, rng.uniform(15, 40), rng), rng)
    if kind == "noise10":
        return gain(add_noise(samples, 10.0, rng), rng)
    if kind == "telephony":
        return telephony(samples)
    if kind == "mp3":
        return mp3(samples)
    raise ValueError(f"unknown degradation {kind!r}; known are {', '.join(KINDS)}")


def random_degradation(samples: Samples, rng: np.random.Generator) -> Samples:
    """For training: telephony or MP3 now and then, noise at 3 to 40 dB on three of four, a random gain."""
    channel = rng.random()
    if channel < 0.15:
        samples = telephony(samples)
    elif channel < 0.27:
        samples = mp3(samples)
    if rng.random() < 0.75:
        samples = add_noise(samples, rng.uniform(3, 40), rng)
    return gain(samples, rng)


def gain(samples: Samples, rng: np.random.Generator, low: float = 0.05, high: float = 0.95) -> Samples:
    """Scaled so that the peak lies between `low` and `high`, evenly in decibels."""
    peak = float(np.abs(samples).max()) if len(samples) else 0.0
    if peak < 1e-6:
        return samples
    target = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return samples * np.float32(target / peak)


def pad(samples: Samples, lead: float, tail: float) -> Samples:
    """With `lead` and `tail` seconds of digital silence around it; pad before adding noise."""
    return np.pad(samples, (round(lead * SAMPLE_RATE), round(tail * SAMPLE_RATE)))


def add_noise(samples: Samples, snr_db: float, rng: np.random.Generator) -> Samples:
    """With white, pink or another colored noise under it; never above full scale.

    The signal's level is its RMS over the 20 ms blocks within 30 dB of the loudest one, so that pauses in a
    clip do not lower the noise.
    """
    level = speech_level(samples)
    if level == 0.0:
        return samples
    exponent = float(rng.choice((0.0, 1.0, rng.uniform(0.0, 1.5))))
    noisy = samples + colored(len(samples), exponent, rng) * (level * 10 ** (-snr_db / 20))
    return (noisy / max(1.0, float(np.abs(noisy).max()))).astype(np.float32)


def speech_level(samples: Samples) -> float:
    """RMS over the 20 ms blocks that are within 30 dB of the loudest block; 0 for silence."""
    block = SAMPLE_RATE // 50
    usable = len(samples) // block * block
    if usable == 0:
        return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2))) if len(samples) else 0.0
    power = (samples[:usable].astype(np.float64).reshape(-1, block) ** 2).mean(axis=1)
    return float(np.sqrt(power[power >= power.max() * 1e-3].mean()))


def telephony(samples: Samples) -> Samples:
    """Through a narrow-band telephone line: 300-3400 Hz, 8 kHz, 8-bit mu-law (ITU-T G.711), and back."""
    narrow = soxr.resample(samples, SAMPLE_RATE, SAMPLE_RATE // 2)
    band = butter(4, (300, 3400), btype="bandpass", fs=SAMPLE_RATE // 2, output="sos")
    narrow = np.clip(sosfilt(band, narrow), -1, 1)
    compressed = np.sign(narrow) * np.log1p(_MU * np.abs(narrow)) / np.log1p(_MU)
    quantized = np.round(compressed * 127) / 127
    expanded = np.sign(quantized) * np.expm1(np.abs(quantized) * np.log1p(_MU)) / _MU
    wide = soxr.resample(expanded.astype(np.float32), SAMPLE_RATE // 2, SAMPLE_RATE)
    return _fit(wide, len(samples))


def mp3(samples: Samples, bit_rate: int = _MP3_BIT_RATE) -> Samples:
    """Coded as MP3 at `bit_rate` bits a second and decoded again, with the coder's delay taken out."""
    coded = _encode_mp3(samples, bit_rate)
    with av.open(io.BytesIO(coded), "r", format="mp3") as container:
        planes = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    decoded = np.concatenate(planes) if planes else np.zeros(0, np.float32)
    return _fit(decoded.astype(np.float32), len(samples))


def _encode_mp3(samples: Samples, bit_rate: int) -> bytes:
    target = io.BytesIO()
    with av.open(target, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=SAMPLE_RATE)
        stream.bit_rate = bit_rate
        stream.layout = "mono"
        stream.format = "fltp"
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        frame.pts = 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return target.getvalue()


def _fit(samples: Samples, length: int) -> Samples:
    """Cut or zero-padded to `length`, limited to [-1, 1]."""
    fitted = np.pad(samples[:length], (0, max(0, length - len(samples))))
    return np.clip(fitted, -1, 1).astype(np.float32)
