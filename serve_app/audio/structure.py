"""Whether a Matroska/WebM or Ogg file is all there, told by its outer structure.

FFmpeg stops without a word where such a file ends too early, and skips what it cannot read. Walking the
elements or pages finds both before anything is decoded.

Layouts: RFC 8794 and RFC 9559 (EBML, Matroska), RFC 3533 (Ogg).
"""

import zlib

from serve_app.audio.limits import damaged, truncated
from serve_app.audio.reader import Window
from serve_app.errors import InvalidAudio

_MAX_ELEMENTS = 5_000_000
"""Parts of a file that are looked at. A recording has tens a second; only an attack has more in all."""

_SEGMENT, _CLUSTER, _EBML = 0x18538067, 0x1F43B675, 0x1A45DFA3
_LEAVES = {
    # Children of the segment: seek head, info, tracks, cues, attachments, chapters, tags.
    *(0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367),
    # Children of a cluster: timestamp, position, previous size, blocks (three kinds), silent tracks.
    *(0xE7, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF, 0x5854),
    # Anywhere: void, checksum.
    *(0xEC, 0xBF),
}


def _endless(name: str) -> InvalidAudio:
    return InvalidAudio(f"The {name} file is damaged: it is made of far more parts than any recording has.")


def check_matroska(window: Window, name: str) -> None:
    """Raises :class:`InvalidAudio` where an element passes the end of the file, or is none."""
    position = end = 0
    for _ in range(_MAX_ELEMENTS):
        if position >= window.size:
            return
        head = window.at(position, 12)
        id_length = 9 - head[0].bit_length()
        length = 9 - head[id_length].bit_length() if len(head) > id_length else 9
        if id_length > 4 or length > 8:
            break
        identity = int.from_bytes(head[:id_length], "big")
        size = int.from_bytes(head[id_length : id_length + length], "big") & ((1 << 7 * length) - 1)
        body = position + id_length + length
        unknown = size == (1 << 7 * length) - 1
        if identity in (_SEGMENT, _CLUSTER):
            if not unknown and body + size > window.size:
                raise truncated(name)
            if identity == _SEGMENT:
                end = window.size if unknown else body + size
            position = body
        elif identity in _LEAVES or identity == _EBML:
            position = body + size
            if unknown or position > window.size:
                raise truncated(name)
        else:
            break
    else:
        raise _endless(name)
    if 0 < end <= position or window.only_zeros(position):
        return
    raise truncated(name) if window.size - position < 12 else damaged(name)


_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_checksum(page: bytes) -> int:
    """RFC 3533, section 6: the polynomial of zlib's CRC-32, but most significant bit first and from zero.

    On bytes with reversed bits zlib computes the same with its result reversed; it starts from ``~value``
    and gives the complement.
    """
    reflected = ~zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFF_FFFF) & 0xFFFF_FFFF
    return int(f"{reflected:032b}"[::-1], 2)


def check_ogg(window: Window, begin: int, name: str) -> None:
    """Raises :class:`InvalidAudio` where a page is cut, missing, changed, or none.

    The checksums are compared, since FFmpeg drops the pages, of a second or so each, that fail.

    Page numbers may jump after the header pages: who joins a live stream gets those first. A file that was
    cut exactly between two pages is taken as whole, since live recordings have no end mark either.
    """
    position = begin
    numbers: dict[bytes, int] = {}
    for _ in range(_MAX_ELEMENTS):
        head = window.at(position, 27)
        if not head:
            return
        if head[:4] != b"OggS"[: len(head)]:
            if (head[:3] == b"TAG" and window.size - position <= 128) or window.only_zeros(position):
                return
            raise damaged(name)
        if len(head) < 27:
            raise truncated(name)
        table = window.at(position + 27, head[26])
        length = 27 + len(table) + sum(table)
        page = window.at(position, length)
        position += length
        if len(page) < length or len(table) < head[26]:
            raise truncated(name)
        if _ogg_checksum(page[:22] + bytes(4) + page[26:]) != int.from_bytes(page[22:26], "little"):
            raise damaged(name)
        serial, number = head[14:18], int.from_bytes(head[18:22], "little")
        carries_audio = int.from_bytes(head[6:14], "little") > 0
        if serial in numbers and number != numbers[serial]:
            raise damaged(name)
        numbers.pop(serial, None)
        if carries_audio and not head[5] & 4:
            numbers[serial] = (number + 1) & 0xFFFF_FFFF
    raise _endless(name)
