"""Arithmetic on decoded samples: mix to mono, resample to 16 kHz, cut into blocks."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from deployments.engines.base import SAMPLE_RATE, Pcm
from serve_app.audio.limits import DecodeLimits, no_samples, spoken, too_long
from serve_app.errors import InvalidAudio, InvalidParameter

Mono = npt.NDArray[np.float32]
"""Mono samples in [-1, 1], shape ``(samples,)``."""

_FULL_SCALE = 32768.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of mono audio at ``rate`` Hz: int16 where it is final already, else float32."""

    samples: Mono | Pcm
    rate: int


def mix(channels: npt.NDArray[Any], channel: int | None = None) -> Mono:
    """The mean of the channels of an array of shape ``(channels, samples)``, of any sample type.

    Floats beyond [-1, 1] are clipped, channel by channel, as a sound card would play them. With ``channel``
    (from 0) that one is taken alone.

    Raises:
        InvalidAudio: A float sample is NaN or infinite.
        InvalidParameter: There is no such channel.
    """
    if channel is not None:
        if channel >= len(channels):
            raise InvalidParameter(f"The audio has no channel {channel}: it has {len(channels)}, from 0.")
        channels = channels[channel : channel + 1]
    kind = channels.dtype
    offset, scale = 0.0, 1.0
    if kind.kind == "f":
        lowest, highest = channels.min(), channels.max()
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            raise InvalidAudio("The audio holds samples that are not numbers (NaN or infinity).")
        if lowest < -1 or highest > 1:
            channels = np.clip(channels, -1.0, 1.0)
    else:
        scale = 2.0 ** (8 * kind.itemsize - 1)
        offset = scale if kind.kind == "u" else 0.0
    # Channel by channel, in place: NumPy's reductions over a short axis are several times slower.
    mono: Mono = channels[0].astype(np.float32)
    for channel in channels[1:]:
        mono += channel
    if scale * len(channels) != 1:
        mono *= np.float32(1 / (scale * len(channels)))
    if offset:
        mono -= np.float32(offset / scale)
    return mono


def to_int16(samples: Mono) -> Pcm:
    scaled = np.rint(samples * np.float32(_FULL_SCALE))
    np.clip(scaled, -_FULL_SCALE, _FULL_SCALE - 1, out=scaled)
    pcm: Pcm = scaled.astype(np.int16)
    return pcm


def _resampled(chunks: Iterable[Chunk]) -> Iterator[Pcm]:
    """Everything at 16 kHz. A rate that changes within a recording (joined files) starts a new filter."""
    rate = 0
    stream: soxr.ResampleStream | None = None
    rest = np.empty(0, np.float32)
    for chunk in chunks:
        if chunk.rate != rate:
            if stream is not None:
                yield to_int16(stream.resample_chunk(rest, last=True))
            rate = chunk.rate
            # "HQ" is 20-bit precision: images and aliases lie below -125 dB, and it runs at thousands
            # of times real time; "VHQ" is slower and its gain is below what int16 can hold.
            stream = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, quality="HQ")
        if chunk.samples.dtype == np.int16:
            yield chunk.samples.astype(np.int16, copy=False)
        elif stream is None:
            yield to_int16(chunk.samples.astype(np.float32, copy=False))
        else:
            yield to_int16(stream.resample_chunk(chunk.samples))
    if stream is not None:
        yield to_int16(stream.resample_chunk(rest, last=True))


def cut_blocks(chunks: Iterable[Chunk], block_samples: int, limits: DecodeLimits) -> Iterator[Pcm]:
    """``chunks`` as int16 blocks of exactly ``block_samples`` at 16 kHz; only the last one may be shorter.

    Nothing is given out before the recording is known to be long enough, so a clip that is too short
    never starts any work.

    Raises:
        InvalidAudio: There are no samples, or fewer than ``limits.min_seconds``.
        AudioTooLarge: ``limits.max_seconds`` is passed.
    """
    minimum = math.ceil(limits.min_seconds * SAMPLE_RATE)
    maximum = math.floor(limits.max_seconds * SAMPLE_RATE)
    waiting: list[Pcm] = []
    held = total = 0
    for piece in _resampled(chunks):
        total += len(piece)
        held += len(piece)
        if total > maximum:
            raise too_long(limits)
        waiting.append(piece)
        if held < block_samples or total < minimum:
            continue
        joined = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
        whole = held - held % block_samples
        for begin in range(0, whole, block_samples):
            yield joined[begin : begin + block_samples]
        held -= whole
        waiting = [joined[whole:]] if held else []
    if total == 0:
        raise no_samples()
    if total < minimum:
        raise InvalidAudio(
            f"The audio is too short: it lasts {spoken(total / SAMPLE_RATE)}, "
            f"and at least {spoken(limits.min_seconds)} are needed."
        )
    if held:
        yield np.concatenate(waiting)
