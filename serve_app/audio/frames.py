"""Files that are nothing but one frame after the other: MP3 (all MPEG audio), AAC in ADTS, AMR.

They carry no total length, and FFmpeg resynchronizes in silence where bytes are missing. So the chain of
frame headers is walked before decoding, which costs about a microsecond a frame and tells of truncation,
of damage and of an excessive duration before any work is done.

Layouts: ISO/IEC 11172-3 and 13818-3 (MPEG audio header), ISO/IEC 14496-3 Annex 1.A (ADTS), RFC 4867
section 5 (AMR storage format).
"""

from enum import Enum
from typing import NamedTuple

from serve_app.audio.limits import DecodeLimits, check_declared, damaged, no_samples, too_long, truncated
from serve_app.audio.reader import Window


class Frame(NamedTuple):
    """What one frame header says: bytes with the header, samples per channel, sample rate in Hz."""

    length: int
    samples: int
    rate: int


_V1_BITRATES = {
    1: (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    2: (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
_V2_BITRATES = {
    1: (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    3: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_RATES = (44_100, 48_000, 32_000)
_ADTS_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_AMR_NB_BYTES = (13, 14, 16, 18, 20, 21, 27, 32, 6, 0, 0, 0, 0, 0, 0, 1)
_AMR_WB_BYTES = (18, 24, 33, 37, 41, 47, 51, 59, 61, 6, 0, 0, 0, 0, 1, 1)


def _mpeg_frame(head: bytes) -> Frame | None:
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bitrate_index, rate_index = head[2] >> 4, head[2] >> 2 & 3
    if head[0] != 0xFF or head[1] < 0xE0 or version == 1 or layer == 4:
        return None
    if bitrate_index in (0, 15) or rate_index == 3:
        return None
    first = version == 3
    kbits = (_V1_BITRATES if first else _V2_BITRATES)[layer][bitrate_index - 1]
    rate = _MPEG_RATES[rate_index] >> (0 if first else 1 if version == 2 else 2)
    padding = head[2] >> 1 & 1
    if layer == 1:
        return Frame((12_000 * kbits // rate + padding) * 4, 384, rate)
    samples = 576 if layer == 3 and not first else 1152
    return Frame(samples // 8 * 1000 * kbits // rate + padding, samples, rate)


def _adts_frame(head: bytes) -> Frame | None:
    rate_index = head[2] >> 2 & 15
    if head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or rate_index >= len(_ADTS_RATES):
        return None
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    if length < 7:
        return None
    return Frame(length, 1024 * ((head[6] & 3) + 1), _ADTS_RATES[rate_index])


def _amr_frame(head: bytes, sizes: tuple[int, ...], rate: int) -> Frame | None:
    length = sizes[head[0] >> 3 & 15]
    return Frame(length, rate // 50, rate) if length and not head[0] & 0x83 else None


class FrameSyntax(Enum):
    """A kind of frame header; the value is how many bytes of it are looked at."""

    MPEG = ("mpeg", 4)
    ADTS = ("adts", 7)
    AMR_NB = ("amr-nb", 1)
    AMR_WB = ("amr-wb", 1)

    @property
    def head(self) -> int:
        return self.value[1]

    def parse(self, head: bytes) -> Frame | None:
        """What a header of :attr:`head` bytes says, or ``None`` if it is none."""
        if self is FrameSyntax.MPEG:
            return _mpeg_frame(head)
        if self is FrameSyntax.ADTS:
            return _adts_frame(head)
        if self is FrameSyntax.AMR_NB:
            return _amr_frame(head, _AMR_NB_BYTES, 8_000)
        return _amr_frame(head, _AMR_WB_BYTES, 16_000)


_SEARCH = 1 << 16
_JUNK = 4096
"""Bytes after the last frame that are taken for padding of an unknown tool."""


def chain_begin(window: Window, begin: int, syntax: FrameSyntax) -> int | None:
    """Where a chain of frames starts within 64 KiB from ``begin``: three in a row, of one sample rate.

    At ``begin`` itself fewer are enough if the file then ends: a short clip, or a truncated one.
    """
    if _links(window, begin, syntax, 3, to_the_end=True):
        return begin
    return _find_chain(window, begin + 1, min(begin + _SEARCH, window.size), syntax)


def _find_chain(window: Window, begin: int, end: int, syntax: FrameSyntax) -> int | None:
    piece = window.at(begin, max(0, end - begin))
    found = piece.find(b"\xff")
    while found >= 0:
        if _links(window, begin + found, syntax, 3, to_the_end=False):
            return begin + found
        found = piece.find(b"\xff", found + 1)
    return None


def _links(window: Window, position: int, syntax: FrameSyntax, count: int, *, to_the_end: bool) -> bool:
    rate = 0
    for index in range(count):
        head = window.at(position, syntax.head)
        if len(head) < syntax.head:
            return to_the_end and index > 0
        frame = syntax.parse(head)
        if frame is None or rate not in (0, frame.rate):
            return False
        rate = frame.rate
        position += frame.length
    return True


def check_frames(window: Window, begin: int, syntax: FrameSyntax, name: str, limits: DecodeLimits) -> None:
    """Walks all frames from ``begin`` to the end of the file.

    An MP3 that was cut exactly between two frames and has no Xing, Info or VBRI header is
    indistinguishable from a whole one, and so are ADTS and AMR files that were cut between two frames.

    Raises:
        InvalidAudio: No frames, a last frame that is cut, bytes between frames that are none, or fewer
            frames than the header of a variable-rate MP3 announces.
        AudioTooLarge: Longer than ``limits.max_seconds``.
    """
    announced = _announced_frames(window, begin, limits) if syntax is FrameSyntax.MPEG else None
    position, count, seconds = begin, 0, 0.0
    while position < window.size:
        head = window.at(position, syntax.head)
        frame = syntax.parse(head) if len(head) == syntax.head else None
        if frame is None:
            position = _past_tag(window, position, syntax, name, seconds)
            continue
        position += frame.length
        if position > window.size:
            raise truncated(name, seconds)
        count += 1
        seconds += frame.samples / frame.rate
        if seconds > limits.max_seconds + 1:
            raise too_long(limits)
    if count == 0 or (announced is not None and count == 1):
        raise no_samples()
    # The header's own frame is not counted by most encoders and counted by a few.
    if announced is not None and count - 1 < announced - 1:
        raise truncated(name, seconds)


def _past_tag(window: Window, position: int, syntax: FrameSyntax, name: str, seconds: float) -> int:
    """The byte after a tag or padding at ``position``, where no frame is; raises if it is damage."""
    head = window.at(position, 32)
    if head[:3] == b"ID3" and len(head) >= 10:
        size = (head[6] & 127) << 21 | (head[7] & 127) << 14 | (head[8] & 127) << 7 | head[9] & 127
        return position + 10 + size
    if head[:3] == b"TAG":
        return position + 128
    if head[:8] == b"APETAGEX" and len(head) == 32:
        # APEv2: the size at byte 12 counts the items and the footer, not the header.
        return position + 32 + int.from_bytes(head[12:16], "little")
    rest = window.size - position
    if rest < syntax.head and head[0] == 0xFF:
        raise truncated(name, seconds)
    if window.only_zeros(position):
        return window.size
    if rest > _JUNK or _find_chain(window, position, window.size, syntax) is not None:
        raise damaged(name, seconds)
    return window.size


def _announced_frames(window: Window, begin: int, limits: DecodeLimits) -> int | None:
    """The number of frames that a Xing, Info or VBRI header in the first frame announces.

    Raises:
        InvalidAudio: The header announces more bytes than there are.
        AudioTooLarge: It announces more than ``limits.max_seconds``.
    """
    first = FrameSyntax.MPEG.parse(window.at(begin, 4).ljust(4, b"\0"))
    if first is None:
        return None
    body = window.at(begin, first.length)
    frames = size = 0
    place = max(body.find(b"Xing", 0, 64), body.find(b"Info", 0, 64))
    if place >= 0 and len(body) >= place + 16:
        flags = body[place + 7]
        fields = [int.from_bytes(body[at : at + 4], "big") for at in (place + 8, place + 12)]
        frames = fields[0] if flags & 1 else 0
        size = (fields[1] if flags & 1 else fields[0]) if flags & 2 else 0
    elif body[36:40] == b"VBRI" and len(body) >= 54:
        size, frames = int.from_bytes(body[46:50], "big"), int.from_bytes(body[50:54], "big")
    elif place < 0:
        return None
    check_declared(frames * first.samples / first.rate, limits)
    # Some encoders count the tags after the audio into the size, which a tagger may have taken off.
    if size > window.size - begin + _JUNK:
        raise truncated("MP3")
    return frames
