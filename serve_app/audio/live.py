"""Live audio: bytes in at any packet size, 16 kHz samples out, with the same result however they were cut."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from deployments.engines.base import SAMPLE_RATE, Pcm
from serve_app.audio.limits import check_layout
from serve_app.audio.pcm import mix
from serve_app.audio.resampling import Resampler
from serve_app.audio.wav import WavHeader
from serve_app.errors import InvalidAudio, UnsupportedFormat

Encoding = Literal["s16le"]
"""How raw samples are written: signed 16-bit little-endian, one channel."""

_PCM, _EXTENSIBLE = 1, 0xFFFE
_UNKNOWN_SIZE = 0x7FFF_0000
"""From here on, a size of the data is what writers put that cannot seek back to correct it, as is 0."""
_NO_AUDIO = frozenset(
    (b"LIST", b"id3 ", b"ID3 ", b"JUNK", b"junk", b"bext", b"cue ", b"fact", b"iXML", b"smpl", b"_PMX")
)
"""Chunks that programs write behind the samples."""


class LiveDecoder:
    """Decodes one live stream.

    A WAV header at the very begin is taken off, however it is split, and believed in what it says of rate,
    channels and sample type. Its size of the data is not: who streams often cannot know it.
    """

    def __init__(self, rate: float = SAMPLE_RATE, encoding: Encoding = "s16le") -> None:
        """``rate`` in Hz, and ``encoding``, are those of audio without a header.

        Raises:
            UnsupportedFormat: a rate that no recorder has, or an unknown encoding.
        """
        if encoding != "s16le":
            raise UnsupportedFormat(f"Raw audio must be s16le, not {encoding}.")
        check_layout(1, round(rate))
        self._samples = _Samples(WavHeader(_PCM, 1, round(rate), 2 * round(rate), 16, 0, 0))
        self._start: _Start | None = _Start()
        self._tail: _Tail | None = None

    def feed(self, data: bytes) -> Pcm:
        """Take the next bytes, any number of them; returns the samples that are ready.

        Raises:
            InvalidAudio: a damaged header, or a float sample that is not a number.
            UnsupportedFormat: a header that announces compressed audio or an impossible layout.
        """
        if self._start is not None:
            if not self._start.feed(data):
                return np.zeros(0, np.int16)
            data = self._begin(self._start)
        if self._tail is not None:
            data = self._tail.feed(data)
        return self._samples.feed(data)

    def flush(self) -> Pcm:
        """The last samples; no bytes follow. Half a sample at the end is dropped.

        Raises:
            InvalidAudio: the stream ended within a WAV header.
        """
        data = b""
        if self._start is not None:
            if self._start.is_wav:
                raise InvalidAudio("The WAV header is cut off: the audio ended before any samples.")
            data = self._begin(self._start)
        elif self._tail is not None:
            data = self._tail.flush()
        return np.concatenate((self._samples.feed(data), self._samples.flush()))

    def _begin(self, start: "_Start") -> bytes:
        self._start = None
        if start.header is not None:
            self._samples = _Samples(start.header)
            self._tail = _Tail(start.header.data_size)
        return bytes(start.held)


class _Start:
    """Reads the begin of a stream up to its first sample.

    ``held`` are the bytes that were not read yet: at the end, the first of the samples. ``header`` stays
    ``None`` where there is none.
    """

    def __init__(self) -> None:
        self.held = bytearray()
        self.header: WavHeader | None = None
        self.is_wav = False
        self._fmt = b""
        self._skip = 0

    def feed(self, data: bytes) -> bool:
        """Whether the first sample has been reached."""
        self.held += data
        if not self.is_wav:
            if not _may_be_wav(self.held):
                return True
            if len(self.held) < 12:
                return False
            self.is_wav = True
            del self.held[:12]
        while self._to_next_chunk():
            name, size = bytes(self.held[:4]), int.from_bytes(self.held[4:8], "little")
            if name == b"data":
                del self.held[:8]
                self.header = _header(self._fmt, size)
                return True
            if name == b"fmt ":
                wanted = min(size, 40)
                if len(self.held) < 8 + wanted:
                    return False
                self._fmt = bytes(self.held[8 : 8 + wanted])
            del self.held[:8]
            self._skip = size + size % 2
        return False

    def _to_next_chunk(self) -> bool:
        skipped = min(self._skip, len(self.held))
        del self.held[:skipped]
        self._skip -= skipped
        return self._skip == 0 and len(self.held) >= 8


def _may_be_wav(begin: bytearray) -> bool:
    """Whether the first bytes of a stream are, as far as they go, those of a WAV file."""
    kinds = b"RIFF", b"RF64", b"BW64"
    kind, wave = bytes(begin[:4]), bytes(begin[8:12])
    return any(known.startswith(kind) for known in kinds) and b"WAVE".startswith(wave)


def _header(fmt: bytes, size: int) -> WavHeader:
    if len(fmt) < 16:
        raise InvalidAudio("The WAV header is damaged: it does not say in which format the samples are.")
    tag, channels = int.from_bytes(fmt[:2], "little"), int.from_bytes(fmt[2:4], "little")
    rate, bits = int.from_bytes(fmt[4:8], "little"), int.from_bytes(fmt[14:16], "little")
    if tag == _EXTENSIBLE and len(fmt) >= 26:
        tag = int.from_bytes(fmt[24:26], "little")
    check_layout(channels, rate)
    header = WavHeader(tag, channels, rate, rate * channels * bits // 8, bits, 0, size)
    if header.pcm is None:
        raise UnsupportedFormat("Live WAV audio must be PCM; the header announces another codec.")
    return header


class _Tail:
    """Finds the end of the samples of a WAV stream whose header told their true size.

    Behind that many bytes, a chunk that holds no audio ends the stream; anything else is more audio.
    """

    def __init__(self, size: int) -> None:
        known = 0 < size < _UNKNOWN_SIZE
        self._left: int | None = size + size % 2 if known else None
        self._held = b""
        self._over = False

    def feed(self, data: bytes) -> bytes:
        """The part of ``data`` that is audio, as far as that is known."""
        if self._over:
            return b""
        if self._left is None:
            return data
        if len(data) <= self._left:
            self._left -= len(data)
            return data
        audio, self._held = data[: self._left], self._held + data[self._left :]
        self._left = 0
        if len(self._held) < 4:
            return audio
        self._over = self._held[:4] in _NO_AUDIO
        self._left = None
        return audio if self._over else audio + self._held

    def flush(self) -> bytes:
        return b"" if self._over or self._left is None else self._held


class _Samples:
    """Bytes of samples to mono int16 at 16 kHz."""

    def __init__(self, header: WavHeader) -> None:
        self._header = header
        self._resampler = Resampler(header.rate)
        self._rest = b""
        """Less than a sample of all channels."""

    def feed(self, data: bytes) -> Pcm:
        joined = self._rest + data
        kind, channels = str(self._header.pcm), self._header.channels
        frame = self._header.bits // 8 * channels
        whole = len(joined) - len(joined) % frame
        self._rest = joined[whole:]
        if not whole:
            return np.zeros(0, np.int16)
        if kind == "<i2" and channels == 1 and self._resampler.rate == SAMPLE_RATE:
            return np.frombuffer(joined, "<i2", whole // 2).astype(np.int16)
        samples = _widened(joined[:whole]) if kind == "s24" else np.frombuffer(joined[:whole], kind)
        return self._resampler.feed(mix(samples.reshape(-1, channels).T))

    def flush(self) -> Pcm:
        self._rest = b""
        return self._resampler.flush()


def _widened(data: bytes) -> npt.NDArray[np.int32]:
    """24-bit samples as the upper bytes of 32-bit ones."""
    wide = np.zeros((len(data) // 3, 4), np.uint8)
    wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return wide.view("<i4")[:, 0]
