"""Any upload to blocks of mono int16 PCM at 16 kHz.

The only door of this package that the rest of the server needs.
"""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from deployments.engines.base import SAMPLE_RATE, Pcm
from serve_app.audio.container import probe_container, read_container
from serve_app.audio.frames import FrameSyntax, check_frames
from serve_app.audio.limits import DecodeLimits, check_declared
from serve_app.audio.mp4 import check_mp4
from serve_app.audio.pcm import Chunk, cut_blocks, mix
from serve_app.audio.reader import Window
from serve_app.audio.sniff import Container, sniff
from serve_app.audio.structure import check_matroska, check_ogg
from serve_app.audio.wav import read_header, read_pcm
from serve_app.errors import InvalidAudio, InvalidParameter, UnsupportedFormat

__all__ = ["AudioInfo", "DecodeLimits", "RawPcm", "decode_blocks", "probe"]


@dataclass(frozen=True, slots=True)
class RawPcm:
    """Headerless signed 16-bit little-endian mono PCM at ``sample_rate`` Hz."""

    sample_rate: int


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a file says of itself: ``seconds`` is ``None`` where only decoding would tell."""

    channels: int
    sample_rate: int
    seconds: float | None


def probe(source: BinaryIO, *, raw: RawPcm | None = None) -> AudioInfo:
    """What :func:`decode_blocks` will find in ``source``, from its header. Blocks on reading.

    Raises:
        InvalidAudio: Empty, not audio, or damaged at its begin.
        UnsupportedFormat: Audio of a kind that is not decoded here.
    """
    window = Window(source)
    if window.size == 0:
        raise InvalidAudio("The audio is empty: no bytes were sent.")
    if raw is not None and not _is_wav(window):
        return AudioInfo(1, raw.sample_rate, window.size / 2 / raw.sample_rate)
    kind, _ = sniff(window)
    if kind is Container.WAV:
        header = read_header(window, DecodeLimits(max_seconds=math.inf))
        return AudioInfo(header.channels, header.rate, header.data_size / header.byte_rate)
    return AudioInfo(*probe_container(source, kind))


def decode_blocks(
    source: BinaryIO,
    *,
    raw: RawPcm | None = None,
    channel: int | None = None,
    block_samples: int,
    limits: DecodeLimits,
) -> Generator[Pcm, None, None]:
    """Decodes ``source`` as it is consumed; run it in a thread, since it blocks on reading and decoding.

    The content alone decides what ``source`` is; with ``raw`` it is headerless PCM, unless it begins with
    a RIFF header after all (some clients declare one thing and send the other). The first audio track is
    taken, its channels are averaged, and what lies beyond full scale is clipped. Pauses in the time stamps
    of MP4 and Matroska files become silence, so that times stay true to the recording. No more than about
    one block is in memory, whatever the length; closing the iterator frees the decoder.

    Whatever a file says about its own length is checked before the first block. Damage inside of the
    compressed data shows only when decoding gets there: the error then comes after some blocks, and the
    caller must drop what it made of them. An MP3 without a Xing, Info or VBRI header, an AAC (ADTS) or an
    AMR file that was cut exactly between two frames cannot be told from a whole one, nor can an Ogg file
    that was cut between two pages.

    Args:
        source: A seekable binary file, read from its begin. It is left open, at any position.
        raw: Take ``source`` as headerless PCM.
        channel: Take this channel (from 0) alone.
        block_samples: Samples of each block at 16 kHz; the last block may be shorter.
        limits: The shortest and the longest recording, in seconds.

    Yields:
        int16 arrays of shape ``(block_samples,)``, at least one in all. They may be read-only.

    Raises:
        InvalidAudio: Empty, not audio, truncated, damaged, too short, or NaN or infinite samples.
        UnsupportedFormat: Audio of a kind that is not decoded here.
        AudioTooLarge: Longer than ``limits.max_seconds``, announced or real.
        InvalidParameter: ``raw.sample_rate`` is out of range, or there is no such channel.
    """
    window = Window(source)
    if window.size == 0:
        raise InvalidAudio("The audio is empty: no bytes were sent.")
    if raw is not None and not _is_wav(window):
        chunks = _read_raw(source, window.size, raw, block_samples, limits)
    else:
        chunks = _read_file(source, window, block_samples, limits, channel)
    yield from cut_blocks(chunks, block_samples, limits)


def _is_wav(window: Window) -> bool:
    head = window.at(0, 12)
    return head[:4] == b"RIFF" and head[8:12] == b"WAVE"


def _read_raw(
    source: BinaryIO, size: int, raw: RawPcm, block_samples: int, limits: DecodeLimits
) -> Iterator[Chunk]:
    if not 4_000 <= raw.sample_rate <= 384_000:
        raise InvalidParameter(
            f"The sample rate must be 4000 to 384000 Hz; it is {raw.sample_rate}.", "sample_rate"
        )
    if size % 2:
        raise InvalidAudio("The audio is not 16-bit PCM: it has an odd number of bytes.")
    check_declared(size / 2 / raw.sample_rate, limits)
    plain = raw.sample_rate == SAMPLE_RATE
    source.seek(0)
    while data := source.read(2 * (block_samples if plain else raw.sample_rate)):
        samples = np.frombuffer(data, "<i2")
        yield Chunk(samples if plain else mix(samples[np.newaxis]), raw.sample_rate)


def _read_file(
    source: BinaryIO, window: Window, block_samples: int, limits: DecodeLimits, channel: int | None
) -> Iterator[Chunk]:
    kind, begin = sniff(window)
    if kind is Container.WAV:
        header = read_header(window, limits)
        if header.pcm is not None:
            return read_pcm(source, header, header.pcm, block_samples, channel)
    elif kind is Container.MP3:
        check_frames(window, begin, FrameSyntax.MPEG, kind.title, limits)
    elif kind is Container.ADTS:
        check_frames(window, begin, FrameSyntax.ADTS, kind.title, limits)
    elif kind is Container.AMR:
        _check_amr(window, limits)
    elif kind is Container.MP4:
        check_mp4(window, kind.title)
    elif kind is Container.MATROSKA:
        check_matroska(window, kind.title)
    elif kind is Container.OGG:
        check_ogg(window, begin, kind.title)
    return read_container(source, kind, limits, channel)


def _check_amr(window: Window, limits: DecodeLimits) -> None:
    for magic, syntax in ((b"#!AMR\n", FrameSyntax.AMR_NB), (b"#!AMR-WB\n", FrameSyntax.AMR_WB)):
        if window.at(0, len(magic)) == magic:
            return check_frames(window, len(magic), syntax, "AMR", limits)
    raise UnsupportedFormat("AMR files with several channels are not supported.")
