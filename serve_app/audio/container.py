"""Decodes a container with FFmpeg, through PyAV: demux, decode, check, mix to mono."""

from collections.abc import Iterator
from typing import BinaryIO

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard

from serve_app.audio.limits import DecodeLimits, check_declared, check_layout, damaged, too_long, truncated
from serve_app.audio.pcm import Chunk, mix
from serve_app.audio.sniff import Container
from serve_app.errors import NoAudioTrack, UnsupportedFormat

_CODECS = {
    *("aac", "aac_latm", "ac3", "alac", "amr_nb", "amr_wb", "eac3", "flac"),
    *("mp1", "mp2", "mp3", "opus", "speex", "vorbis"),
    *("adpcm_g722", "adpcm_g726", "adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms", "gsm", "gsm_ms"),
}
"""Codecs that are let in, beside all ``pcm_*``: what recorders and phones write. FFmpeg has hundreds more,
which were made for games and never for hostile input."""

_MAX_PACKET = 16 << 20
"""Bytes of one compressed packet. Speech packets have hundreds; a whole file in one is an attack."""

_GAP_SECONDS = 0.1
"""A step in the time stamps that is more than rounding or jitter."""

_GAPS_ARE_PAUSES = (Container.MP4, Container.MATROSKA)
_GAPS_ARE_LOSSES = (Container.OGG, Container.FLAC)
_DECLARES_EXACTLY = (Container.FLAC, Container.AIFF, Container.CAF)


def read_container(
    source: BinaryIO, kind: Container, limits: DecodeLimits, channel: int | None = None
) -> Iterator[Chunk]:
    """The first audio track of ``source`` as mono chunks of about a second, at the file's own rate.

    ``channel`` as in :func:`serve_app.audio.pcm.mix`.

    Raises:
        InvalidAudio: Damaged or truncated, no audio track, or samples that are no numbers.
        UnsupportedFormat: A codec, channel count or sample rate that is not decoded.
        AudioTooLarge: More than ``limits.max_seconds`` announced, or pauses that pass it.
        InvalidParameter: There is no such channel.
    """
    source.seek(0)
    track = _Track(kind, limits, channel)
    try:
        # The format is forced: FFmpeg's own guess could pick a playlist demuxer, which opens other files.
        with av.open(
            source,
            "r",
            format=kind.value,
            metadata_errors="replace",
            buffer_size=1 << 18,
        ) as container:
            yield from track.read(container)
    except (av.FFmpegError, EOFError) as error:
        raise damaged(kind.title, track.seconds if track.frames else None) from error


def probe_container(source: BinaryIO, kind: Container) -> tuple[int, int, float | None]:
    """Channels, sample rate (Hz) and, where it is announced, duration (seconds) of the first audio track.

    Raises:
        InvalidAudio: Damaged, or no audio track.
        UnsupportedFormat: A codec that is not decoded.
    """
    source.seek(0)
    track = _Track(kind, DecodeLimits())
    try:
        with av.open(source, "r", format=kind.value, metadata_errors="replace") as container:
            return track.probe(container)
    except (av.FFmpegError, EOFError) as error:
        raise damaged(kind.title) from error


class _Track:
    """One audio track while it is decoded: where it is in time, and what is still to be checked."""

    def __init__(self, kind: Container, limits: DecodeLimits, channel: int | None = None) -> None:
        self._kind = kind
        self._channel = channel
        self._limits = limits
        self._origin: float | None = None
        self._begin: float | None = None
        self.seconds = 0.0
        """Seconds that were decoded, with the pauses that were filled in."""
        self.frames = 0

    def read(self, container: InputContainer) -> Iterator[Chunk]:
        stream = self._choose(container)
        declared = self._declared(container, stream)
        if declared is not None:
            check_declared(declared, self._limits)
        if self._kind in _GAPS_ARE_PAUSES and stream.start_time is not None:
            self._origin = container.start_time / av.time_base
        batch: list[AudioFrame] = []
        held = 0
        packets = container.demux(stream)
        for packet in packets:
            for frame in self._decode(packet, packets):
                if frame.samples == 0:
                    continue
                pause = self._pause_before(frame)
                if batch and (pause or held >= frame.sample_rate or not _alike(frame, batch[0])):
                    yield _joined(batch, self._channel)
                    batch, held = [], 0
                check_layout(frame.layout.nb_channels, frame.sample_rate)
                yield from self._silence(pause, frame.sample_rate)
                batch.append(frame)
                held += frame.samples
                self.frames += 1
                self.seconds += frame.samples / frame.sample_rate
        if batch:
            yield _joined(batch, self._channel)
        if declared is not None and self._kind in _DECLARES_EXACTLY and self.seconds < declared - 1e-3:
            raise truncated(self._kind.title, self.seconds)

    def probe(self, container: InputContainer) -> tuple[int, int, float | None]:
        stream = self._choose(container)
        return stream.codec_context.channels, stream.rate, self._declared(container, stream)

    def _decode(
        self, packet: "Packet[AudioStream]", following: "Iterator[Packet[AudioStream]]"
    ) -> list[AudioFrame]:
        if packet.size > _MAX_PACKET:
            raise damaged(self._kind.title, self.seconds)
        try:
            # The flag means that a read came short. For a WAV that is so at each end; its header was checked.
            if not packet.is_corrupt or self._kind is Container.WAV:
                return packet.decode()
        except av.FFmpegError:
            if packet.size == 0:
                raise
            # Where MP3 files were joined, FFmpeg hands out the tag between them with the frame after it.
            # That the frames are whole was checked before.
            if self._kind is Container.MP3 and bytes(packet)[:3] in (b"ID3", b"TAG", b"APE"):
                return []
        # The empty packet at the end only flushes the decoder.
        at_end = next(following, packet).size == 0 if packet.size else True
        raise (truncated if at_end else damaged)(self._kind.title, self.seconds)

    def _choose(self, container: InputContainer) -> AudioStream:
        if not container.streams.audio:
            video = ", only pictures" if container.streams.video else ""
            raise NoAudioTrack(f"The {self._kind.title} file holds no audio track{video}.")
        stream = container.streams.audio[0]
        for other in container.streams:
            if other.index != stream.index:
                other.discard = Discard.all
        # PyAV has no context for a codec that FFmpeg does not know, which its types do not say.
        codec = getattr(stream.codec_context, "codec", None)
        name = "an unknown codec" if codec is None else str(codec.canonical_name)
        if name not in _CODECS and not name.startswith("pcm_"):
            raise UnsupportedFormat(f"{self._kind.title} files with audio in {name} are not supported.")
        # Uploads are decoded side by side already; threads of the decoder would only add to the crowd.
        stream.codec_context.thread_count = 1
        # Without it FLAC's checksums are computed for nobody, and broken frames come out as noise.
        stream.codec_context.options = {"err_detect": "crccheck+explode"} if name == "flac" else {}
        return stream

    def _declared(self, container: InputContainer, stream: AudioStream) -> float | None:
        """The duration that the file announces, in seconds; FFmpeg's guesses from bit rates are left out."""
        if self._kind in (Container.MP3, Container.ADTS, Container.AMR, Container.WAV):
            return None
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        return None if container.duration is None else container.duration / av.time_base

    def _pause_before(self, frame: AudioFrame) -> float:
        """Seconds of silence that belong before ``frame``: a recorder was paused, or began after the video.

        Formats that have time stamps but no pauses tell of lost data in this way.
        """
        time = frame.time
        if time is None or self._kind not in _GAPS_ARE_PAUSES + _GAPS_ARE_LOSSES:
            return 0.0
        if self._begin is None:
            self._begin = time if self._origin is None else min(self._origin, time)
        gap = time - self._begin - self.seconds
        if self._kind in _GAPS_ARE_LOSSES:
            if gap > _GAP_SECONDS:
                raise damaged(self._kind.title, self.seconds)
            # Joined recordings each begin at their own zero.
            self._begin += gap
            return 0.0
        return gap if gap > _GAP_SECONDS else 0.0

    def _silence(self, seconds: float, rate: int) -> Iterator[Chunk]:
        if self.seconds + seconds > self._limits.max_seconds + 1:
            raise too_long(self._limits)
        self.seconds += seconds
        for begin in range(0, round(seconds * rate), rate):
            yield Chunk(np.zeros(min(rate, round(seconds * rate) - begin), np.float32), rate)


def _alike(left: AudioFrame, right: AudioFrame) -> bool:
    return (left.sample_rate, left.layout.nb_channels, left.format.name) == (
        right.sample_rate,
        right.layout.nb_channels,
        right.format.name,
    )


def _joined(frames: list[AudioFrame], channel: int | None) -> Chunk:
    """Mono samples of frames of one layout. A packed frame interleaves its channels in one row."""
    first = frames[0]
    try:
        samples = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
    except ValueError as error:
        # Integers of 64 bits, for one, which no recorder writes but a damaged header may announce.
        raise UnsupportedFormat(f"Samples of the format {first.format.name} are not supported.") from error
    if first.format.is_packed:
        samples = samples.reshape(-1, first.layout.nb_channels).T
    return Chunk(mix(samples, channel), first.sample_rate)
