"""Compressed live audio, any packet size, to the packets of its codec.

Layouts: RFC 3533 (Ogg pages), RFC 7845 (Opus in Ogg), the Speex manual section 7 (Speex in Ogg), and those of
:mod:`serve_app.audio.frames`. The framing of ``opu`` is that of Aliyun's SDKs for C++ and Java: one byte with
the length of an Opus packet, then the packet.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from serve_app.audio.frames import FrameSyntax
from serve_app.errors import InvalidAudio, UnsupportedFormat

_MOST_JUNK = 1 << 16
"""Bytes without a frame after which a stream counts as damaged."""

_LONGEST_PACKET = 1 << 20

_PRE_SKIP = 312
"""Samples at 48 kHz by which Opus encoders delay their input; the decoder drops them."""


class Codec(NamedTuple):
    """What decodes the packets that follow: FFmpeg's name for it, and the header that it needs."""

    name: str
    header: bytes = b""


class Packets(Protocol):
    """Cuts a stream into packets."""

    def feed(self, data: bytes) -> Iterator[Codec | bytes]:
        """The packets that are whole now; a :class:`Codec` comes before the first it holds for.

        Raises:
            InvalidAudio: the stream is damaged, or is not what it should be.
            UnsupportedFormat: of a codec that is not decoded.
        """
        ...

    def flush(self) -> Iterator[Codec | bytes]:
        """The last packets; no bytes follow. Raises as :meth:`feed` does."""
        ...


class FramePackets:
    """Frames one after the other, each with a header that tells its length: MP3, AAC in ADTS, AMR."""

    def __init__(self, syntax: FrameSyntax, codec: Codec, title: str) -> None:
        self._syntax = syntax
        self._codec: Codec | None = codec
        self._title = title
        self._held = bytearray()
        self._skip = 0
        self._junk = 0

    def feed(self, data: bytes) -> Iterator[Codec | bytes]:
        self._held += data
        yield from self._packets(final=False)

    def flush(self) -> Iterator[Codec | bytes]:
        yield from self._packets(final=True)

    def _packets(self, *, final: bool) -> Iterator[Codec | bytes]:
        while self._past_tag():
            frame = self._syntax.parse(bytes(self._held[: self._syntax.head]))
            if frame is None:
                self._drop_one()
                continue
            whole, following = frame.length, bytes(self._held[frame.length :][: self._syntax.head])
            if len(self._held) < whole or (len(following) < self._syntax.head and not final):
                return
            # A header may be there by chance where the stream begins within a frame.
            if self._junk and len(following) == self._syntax.head and not self._syntax.parse(following):
                self._drop_one()
                continue
            if self._codec is not None:
                yield self._codec
                self._codec = None
            yield bytes(self._held[:whole])
            del self._held[:whole]
            self._junk = 0

    def _past_tag(self) -> bool:
        """Whether a header is held, after ID3 tags were passed over (sizes are syncsafe)."""
        while True:
            skipped = min(self._skip, len(self._held))
            del self._held[:skipped]
            self._skip -= skipped
            if self._skip or len(self._held) < self._syntax.head:
                return False
            if self._held[:3] != b"ID3":
                return True
            if len(self._held) < 10:
                return False
            size = self._held[6] << 21 | self._held[7] << 14 | self._held[8] << 7 | self._held[9]
            self._skip = 10 + (size & 0x0FFF_FFFF)

    def _drop_one(self) -> None:
        self._junk += 1
        if self._junk > _MOST_JUNK or self._syntax.head == 1:
            raise InvalidAudio(f"The {self._title} stream is damaged, or it is something else.")
        del self._held[0]


class OpuPackets:
    """Opus packets, each after one byte with its length."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._begun = False

    def feed(self, data: bytes) -> Iterator[Codec | bytes]:
        self._held += data
        while self._held and len(self._held) > self._held[0]:
            end = 1 + self._held[0]
            packet = bytes(self._held[1:end])
            del self._held[:end]
            if not self._begun:
                self._begun = True
                yield Codec("opus", opus_header())
            if packet:
                yield packet

    def flush(self) -> Iterator[Codec | bytes]:
        return iter(())


def opus_header() -> bytes:
    """The header of mono Opus (RFC 7845, section 5.1), for streams that come without one."""
    return b"OpusHead\x01\x01" + _PRE_SKIP.to_bytes(2, "little") + (16_000).to_bytes(4, "little") + bytes(3)


class OggPackets:
    """The first Opus or Speex stream of an Ogg file, and of those that are chained to it."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._serial: bytes | None = None
        self._headers = 0
        """Header packets that still come: the stream's own one was taken, its comments are not audio."""
        self._part = bytearray()

    def feed(self, data: bytes) -> Iterator[Codec | bytes]:
        self._held += data
        while len(self._held) >= 27:
            if self._held[:5] != b"OggS\0":
                raise InvalidAudio("The Ogg stream is damaged, or it is something else.")
            body = 27 + self._held[26]
            lengths = bytes(self._held[27:body])
            size = body + sum(lengths)
            if len(lengths) < self._held[26] or len(self._held) < size:
                return
            page = bytes(self._held[:size])
            del self._held[:size]
            yield from self._page(page, lengths, body)

    def flush(self) -> Iterator[Codec | bytes]:
        return iter(())

    def _page(self, page: bytes, lengths: bytes, position: int) -> Iterator[Codec | bytes]:
        continues, begins, serial = page[5] & 1, page[5] & 2, page[14:18]
        if begins:
            codec = _ogg_codec(page[position : position + sum(lengths)])
            if codec is None:
                return
            self._serial, self._headers = serial, 1
            self._part.clear()
            yield codec
            return
        if serial != self._serial:
            return
        if not continues:
            self._part.clear()
        for length in lengths:
            self._part += page[position : position + length]
            position += length
            if len(self._part) > _LONGEST_PACKET:
                raise InvalidAudio("The Ogg stream is damaged: a packet in it does not end.")
            if length == 255:
                continue
            packet = bytes(self._part)
            self._part.clear()
            if self._headers:
                self._headers -= 1
            elif packet:
                yield packet


def _ogg_codec(header: bytes) -> Codec | None:
    """The codec of a stream that begins with ``header``; ``None`` if it is no audio."""
    if header[:8] == b"OpusHead" and len(header) >= 19:
        return Codec("opus", header)
    if header[:8] == b"Speex   " and len(header) >= 80:
        return Codec("speex", header)
    for magic, name in ((b"\x01vorbis", "Vorbis"), (b"\x7fFLAC", "FLAC"), (b"OpusHead", "damaged Opus")):
        if header.startswith(magic):
            raise UnsupportedFormat(f"Live Ogg audio must be Opus or Speex; the stream holds {name}.")
    return None
