"""Live audio whose client says what it is: believed only where the content does not tell."""

from typing import Literal, Protocol

import numpy as np

from deployments.engines.base import SAMPLE_RATE, Pcm
from serve_app.audio.coded import CodedDecoder
from serve_app.audio.frames import FrameSyntax
from serve_app.audio.limits import check_layout
from serve_app.audio.live import LiveDecoder
from serve_app.audio.packets import Codec, FramePackets, OggPackets, OpuPackets
from serve_app.errors import InvalidAudio, UnsupportedFormat

Format = Literal["pcm", "wav", "ogg", "opu", "mp3", "aac", "amr"]
"""``pcm`` is signed 16-bit little-endian mono; ``ogg`` holds Opus or Speex; ``opu`` is Opus in Aliyun's
framing; ``aac`` is AAC in ADTS."""

_HEAD = 12
"""Bytes by which a container is told."""

_AMR_MAGIC = {b"#!AMR\n": ("amrnb", FrameSyntax.AMR_NB), b"#!AMR-WB\n": ("amrwb", FrameSyntax.AMR_WB)}
_RECORDINGS = (b"fLaC", b"\x1a\x45\xdf\xa3", b"caff", b"FORM")


class StreamDecoder(Protocol):
    """Bytes in at any packet size, 16 kHz samples out."""

    def feed(self, data: bytes) -> Pcm:
        """The samples that are ready. Raises :class:`InvalidAudio`."""
        ...

    def flush(self) -> Pcm:
        """The last samples; no bytes follow. Raises :class:`InvalidAudio`."""
        ...


class AnnouncedDecoder:
    """Decodes one live stream. WAV, Ogg, AMR and tagged MP3 are told by their begin, the rest by the client.

    Some clients announce WAV and send samples without a header; others announce PCM and send a file.
    """

    def __init__(self, announced: Format, rate: int = SAMPLE_RATE) -> None:
        """``rate`` in Hz is that of audio that does not tell its own.

        Raises:
            UnsupportedFormat: a rate that no recorder has.
        """
        check_layout(1, rate)
        self._announced = announced
        self._rate = rate
        self._head = b""
        self._decoder: StreamDecoder | None = None

    def feed(self, data: bytes) -> Pcm:
        """Take the next bytes, any number of them; returns the samples that are ready.

        Raises:
            UnsupportedFormat: this is no audio that can be recognized while it comes in.
            InvalidAudio: the stream is damaged, or is not what was announced.
        """
        if self._decoder is not None:
            return self._decoder.feed(data)
        self._head += data
        if len(self._head) < _HEAD:
            return np.zeros(0, np.int16)
        return self._begin().feed(self._head)

    def flush(self) -> Pcm:
        """The last samples; no bytes follow. Raises as :meth:`feed` does."""
        if self._decoder is not None:
            return self._decoder.flush()
        if not self._head:
            return np.zeros(0, np.int16)
        decoder = self._begin()
        return np.concatenate((decoder.feed(self._head), decoder.flush()))

    def _begin(self) -> StreamDecoder:
        self._decoder = self._chosen(self._head)
        return self._decoder

    def _chosen(self, head: bytes) -> StreamDecoder:
        if head.startswith(b"OggS"):
            return CodedDecoder(OggPackets(), "Ogg")
        if head.startswith(b"#!AMR"):
            return _amr(head)
        if head.startswith(_RECORDINGS) or head[4:8] == b"ftyp":
            raise UnsupportedFormat(
                "Live audio must be PCM, WAV, Ogg (Opus or Speex), MP3, AAC in ADTS or AMR; "
                "this is the begin of a recording in another format."
            )
        if head.startswith((b"RIFF", b"RF64", b"BW64")):
            return LiveDecoder(self._rate)
        match self._announced:
            case "mp3":
                return _mp3()
            case "aac":
                return CodedDecoder(FramePackets(FrameSyntax.ADTS, Codec("aac"), "AAC"), "AAC")
            case "amr":
                return _headerless_amr(self._rate)
            case "opu":
                return CodedDecoder(OpuPackets(), "opu")
            case "ogg":
                raise InvalidAudio("Opus and Speex must come in Ogg; the audio is not an Ogg stream.")
        return _mp3() if head.startswith(b"ID3") else LiveDecoder(self._rate)


def _mp3() -> StreamDecoder:
    return CodedDecoder(FramePackets(FrameSyntax.MPEG, Codec("mp3"), "MP3"), "MP3")


def _headerless_amr(rate: int) -> StreamDecoder:
    name, syntax = ("amrwb", FrameSyntax.AMR_WB) if rate == SAMPLE_RATE else ("amrnb", FrameSyntax.AMR_NB)
    return CodedDecoder(FramePackets(syntax, Codec(name), "AMR"), "AMR")


def _amr(head: bytes) -> StreamDecoder:
    for magic, (name, syntax) in _AMR_MAGIC.items():
        if head.startswith(magic):
            return _Behind(len(magic), CodedDecoder(FramePackets(syntax, Codec(name), "AMR"), "AMR"))
    raise UnsupportedFormat("AMR streams with several channels are not supported.")


class _Behind:
    """A decoder that does not get the first ``skip`` bytes, all of which come at once."""

    def __init__(self, skip: int, decoder: StreamDecoder) -> None:
        self._skip = skip
        self._decoder = decoder

    def feed(self, data: bytes) -> Pcm:
        data, self._skip = data[self._skip :], 0
        return self._decoder.feed(data)

    def flush(self) -> Pcm:
        return self._decoder.flush()
