"""RIFF/WAVE headers (also RF64 and BW64), and the fast way through PCM.

FFmpeg plays a WAV that holds less than its header says without a word, so the header is read here; and
PCM, which is what most clients of a speech server send, needs no decoder.

Layouts: Multimedia Programming Interface and Data Specifications 1.0 (RIFF), EBU Tech 3306 (RF64).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from deployments.engines.base import SAMPLE_RATE
from serve_app.audio.limits import DecodeLimits, check_declared, check_layout, damaged, no_samples, spoken
from serve_app.audio.pcm import Chunk, mix
from serve_app.audio.reader import Window
from serve_app.errors import InvalidAudio

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_PCM_TYPES = {
    (_PCM, 8): "u1",
    (_PCM, 16): "<i2",
    (_PCM, 24): "s24",
    (_PCM, 32): "<i4",
    (_FLOAT, 32): "<f4",
    (_FLOAT, 64): "<f8",
}
_MAX_CHUNKS = 1000
_SLIP = 64
"""Bytes by which the data size may exceed the file. Some writers put the length of the whole file, or a
length with the header in it, where the length of the data belongs; that is at most the header, and 2 ms."""


@dataclass(frozen=True, slots=True)
class WavHeader:
    """The format of a WAV file, and where its samples are (``data_begin`` and ``data_size`` in bytes)."""

    tag: int
    channels: int
    rate: int
    byte_rate: int
    bits: int
    data_begin: int
    data_size: int

    @property
    def pcm(self) -> str | None:
        """The NumPy type of the samples, ``"s24"`` for the one that NumPy lacks, ``None`` if compressed."""
        return _PCM_TYPES.get((self.tag, self.bits))


def _is_placeholder(size: int) -> bool:
    """Whether a data size is what a writer puts that cannot seek back to correct it.

    0 and 0xFFFFFFFF: FFmpeg, GStreamer; 0x7FFFF000: SoX; 0x7FFFFFxx and 0x80000000: arecord and others.
    """
    return size == 0 or 0x7FFF_0000 <= size <= 0x8000_0100 or size >= 0xFFFF_0000


def read_header(window: Window, limits: DecodeLimits) -> WavHeader:
    """Reads and checks the header of a WAV file.

    Raises:
        InvalidAudio: No format or data chunk, no samples, or more data announced than there is.
        UnsupportedFormat: Odd channel counts or sample rates.
        AudioTooLarge: More than ``limits.max_seconds`` announced.
    """
    riff_size = int.from_bytes(window.at(4, 4), "little")
    position, fmt, long_size = 12, b"", None
    for _ in range(_MAX_CHUNKS):
        head = window.at(position, 8)
        if len(head) < 8:
            raise InvalidAudio("The WAV file is truncated: it ends within its header, before any samples.")
        name, size = head[:4], int.from_bytes(head[4:], "little")
        position += 8
        if name == b"data":
            break
        if name == b"fmt ":
            fmt = window.at(position, min(size, 40))
        elif name == b"ds64":
            long_size = int.from_bytes(window.at(position + 8, 8), "little")
        position += size + size % 2
    else:
        raise damaged("WAV")
    if long_size is not None and size == 0xFFFF_FFFF:
        size = 0 if long_size >= 1 << 62 else long_size
    if len(fmt) < 16:
        raise InvalidAudio(
            "The WAV file is damaged: its header does not say in which format the samples are."
        )
    return _checked(window, fmt, position, size, riff_size, limits)


def _checked(
    window: Window, fmt: bytes, begin: int, size: int, riff_size: int, limits: DecodeLimits
) -> WavHeader:
    tag, channels = int.from_bytes(fmt[:2], "little"), int.from_bytes(fmt[2:4], "little")
    rate, byte_rate = int.from_bytes(fmt[4:8], "little"), int.from_bytes(fmt[8:12], "little")
    bits = int.from_bytes(fmt[14:16], "little")
    if tag == _EXTENSIBLE and len(fmt) >= 26:
        tag = int.from_bytes(fmt[24:26], "little")
    check_layout(channels, rate)
    if (tag, bits) in _PCM_TYPES:
        byte_rate = rate * channels * ((bits + 7) // 8)
    if byte_rate == 0:
        raise InvalidAudio("The WAV file is damaged: its header gives a size of zero bits to each sample.")
    there = window.size - begin
    whole = riff_size + 8 == window.size
    if (size == 0 and whole) or (there == 0 and _is_placeholder(size)):
        raise no_samples()
    if _is_placeholder(size) and size != there:
        size = there
    check_declared(size / byte_rate, limits)
    if size > there + _SLIP:
        raise InvalidAudio(
            f"The WAV header announces {spoken(size / byte_rate)} of audio, but the file holds only "
            f"{spoken(there / byte_rate)}. The upload or recording was probably cut off."
        )
    return WavHeader(tag, channels, rate, byte_rate, bits, begin, min(size, there))


def read_pcm(
    source: BinaryIO, header: WavHeader, kind: str, block_samples: int, channel: int | None = None
) -> Iterator[Chunk]:
    """The samples of a PCM file of type ``kind``; 16-bit mono at 16 kHz passes as it lies in the file.

    ``channel`` as in :func:`serve_app.audio.pcm.mix`. Reads pieces of ``block_samples``, so that in the plain
    case a block is one read and no copy.

    Raises:
        InvalidAudio: A float sample is NaN or infinite.
        InvalidParameter: There is no such channel.
    """
    frame = header.bits // 8 * header.channels
    plain = header.channels == 1 and header.rate == SAMPLE_RATE and kind == "<i2"
    piece = (block_samples if plain else header.rate) * frame
    rest = header.data_size - header.data_size % frame
    source.seek(header.data_begin)
    while rest > 0:
        data = source.read(min(piece, rest))
        data = data[: len(data) - len(data) % frame]
        if not data:
            return
        rest -= len(data)
        if plain:
            yield Chunk(np.frombuffer(data, np.dtype("<i2")), header.rate)
        else:
            samples = _widened(data) if kind == "s24" else np.frombuffer(data, kind)
            yield Chunk(mix(samples.reshape(-1, header.channels).T, channel), header.rate)


def _widened(data: bytes) -> npt.NDArray[np.int32]:
    """24-bit samples as the upper bytes of 32-bit ones."""
    wide = np.zeros((len(data) // 3, 4), np.uint8)
    wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return wide.view("<i4")[:, 0]
