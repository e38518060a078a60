"""A client's audio, in the format of its session, to samples."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from deployments.messages import Pcm
from serve_app.api.realtime.config import AudioFormat, Pcm16, Pcmu
from serve_app.audio import g711
from serve_app.audio.live import LiveDecoder
from serve_app.audio.pcm import mix
from serve_app.audio.resampling import Resampler

_PIECE_SECONDS = 1
"""What is decoded at once: more would keep all others waiting."""


class _Decoder(Protocol):
    def feed(self, data: bytes) -> Pcm: ...

    def flush(self) -> Pcm: ...


class InputAudio:
    """Decodes what comes between two commits, however it is cut."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self._decoder: _Decoder
        if isinstance(audio_format, Pcm16):
            self._decoder = LiveDecoder(audio_format.rate)
            self._byte_rate = 2 * audio_format.rate
        else:
            self._decoder = _TelephoneDecoder("ulaw" if isinstance(audio_format, Pcmu) else "alaw")
            self._byte_rate = g711.RATE

    def seconds(self, data: bytes) -> float:
        """How long ``data`` sounds."""
        return len(data) / self._byte_rate

    def decoded(self, data: bytes) -> Iterator[Pcm]:
        """The samples that are ready, at 16 kHz, in pieces. Raises :class:`InvalidAudio`."""
        step = _PIECE_SECONDS * self._byte_rate
        for begin in range(0, len(data), step):
            yield self._decoder.feed(data[begin : begin + step])

    def flush(self) -> Pcm:
        """The last samples. Raises :class:`InvalidAudio`."""
        return self._decoder.flush()


class _TelephoneDecoder:
    def __init__(self, law: g711.Law) -> None:
        self._law: g711.Law = law
        self._resampler = Resampler(g711.RATE)

    def feed(self, data: bytes) -> Pcm:
        if not data:
            return np.zeros(0, np.int16)
        return self._resampler.feed(mix(g711.decode(data, self._law)[np.newaxis]))

    def flush(self) -> Pcm:
        return self._resampler.flush()
