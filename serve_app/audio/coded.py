"""Compressed live audio to 16 kHz samples, packet by packet."""

import contextlib
from collections.abc import Iterable

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.packet import Packet

from deployments.engines.base import Pcm
from serve_app.audio.limits import check_layout
from serve_app.audio.packets import Codec, Packets
from serve_app.audio.pcm import Mono, mix
from serve_app.audio.resampling import Resampler
from serve_app.errors import InvalidAudio

_PATIENCE = 5
"""Packets in a row that may fail: the first MP3 frames of a stream refer to ones that came before it."""


class CodedDecoder:
    """Decodes one compressed stream; how it is cut into pieces does not change what comes out.

    A kilobyte can hold a minute of silence: feed little at a time where memory matters.
    """

    def __init__(self, packets: Packets, title: str) -> None:
        self._packets = packets
        self._title = title
        self._codec: AudioCodecContext | None = None
        self._failed = 0
        self._resampler: Resampler | None = None

    def feed(self, data: bytes) -> Pcm:
        """Take the next bytes, any number of them; returns the samples that are ready.

        Raises:
            InvalidAudio: the stream is damaged.
            UnsupportedFormat: it is of a codec or layout that is not decoded.
        """
        return np.concatenate([np.zeros(0, np.int16), *self._decoded(self._packets.feed(data))])

    def flush(self) -> Pcm:
        """The last samples; no bytes follow. What is left of a packet is dropped. Raises as :meth:`feed`."""
        parts = [*self._decoded(self._packets.flush()), *self._end()]
        if self._resampler is not None:
            parts.append(self._resampler.flush())
        return np.concatenate([np.zeros(0, np.int16), *parts])

    def _decoded(self, packets: Iterable[Codec | bytes]) -> Iterable[Pcm]:
        for packet in packets:
            if isinstance(packet, Codec):
                yield from self._end()
                self._begin(packet)
            elif self._codec is not None:
                for frame in self._frames(self._codec, packet):
                    yield from self._samples(frame)

    def _begin(self, codec: Codec) -> None:
        context = av.CodecContext.create(codec.name, "r")
        assert isinstance(context, AudioCodecContext)
        context.thread_count = 1
        if codec.header:
            context.extradata = codec.header
        self._codec = context

    def _frames(self, codec: AudioCodecContext, packet: bytes) -> list[AudioFrame]:
        try:
            frames = codec.decode(Packet(packet))
        except av.FFmpegError as error:
            self._failed += 1
            if self._failed > _PATIENCE:
                raise InvalidAudio(f"The {self._title} stream is damaged: it cannot be decoded.") from error
            return []
        self._failed = 0
        return frames

    def _end(self) -> Iterable[Pcm]:
        """What a decoder that is not needed any longer still holds."""
        if self._codec is None:
            return
        # One that never decoded anything has nothing to give.
        with contextlib.suppress(av.FFmpegError, EOFError):
            for frame in self._codec.decode(None):
                yield from self._samples(frame)
        self._codec = None

    def _samples(self, frame: AudioFrame) -> Iterable[Pcm]:
        check_layout(frame.layout.nb_channels, frame.sample_rate)
        if self._resampler is None or self._resampler.rate != frame.sample_rate:
            if self._resampler is not None:
                yield self._resampler.flush()
            self._resampler = Resampler(frame.sample_rate)
        if frame.samples:
            yield self._resampler.feed(_mono(frame))


def _mono(frame: AudioFrame) -> Mono:
    """A packed frame interleaves its channels in one row."""
    samples = frame.to_ndarray()
    if frame.format.is_packed:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    return mix(samples)
