"""MP4, M4A and MOV files before they are decoded: whether they are all there, and whether they are honest.

Layouts: ISO/IEC 14496-12, sections 4.2 (boxes), 8.6.1 (stts, ctts), 8.7 (stsz, stz2, stsc, stco, co64),
8.8.8 (trun).
"""

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from serve_app.audio.limits import damaged, truncated
from serve_app.audio.reader import Window
from serve_app.errors import InvalidAudio, UnsupportedFormat

_MAX_BOXES = 2_000_000
_MAX_SAMPLES = 10_000_000
"""Coded samples of one track that an index may list: eight hours of the shortest Opus packets."""

_NO_INDEX = {b"mdat", b"free", b"skip", b"wide", b"ftyp", b"styp"}
_TABLES = re.compile(rb"trak|stts|ctts|stsz|stz2|stsc|stco|co64|trun|cmov")
_PIECE = 1 << 20
_OVERLAP = 16


def check_mp4(window: Window, name: str) -> None:
    """Walks the top-level boxes, and the sizes of the tables that index the samples.

    Raises:
        InvalidAudio: A box passes the end of the file or is none, the index is missing, or it lists more
            samples than the file can hold.
        UnsupportedFormat: The index is compressed.
    """
    seen: set[bytes] = set()
    index = _Index(window, name)
    for kind, begin, end in _boxes(window, name):
        if not kind and seen >= {b"moov", b"mdat"} and window.only_zeros(begin):
            break
        if end > window.size or window.size - begin < 8:
            raise truncated(name)
        if not kind:
            raise damaged(name)
        seen.add(kind)
        if kind not in _NO_INDEX:
            index.scan(begin, end)
    index.finish_track()
    if b"moov" not in seen:
        raise InvalidAudio(f"The {name} file is incomplete: its index (the 'moov' box) is missing.")


def _boxes(window: Window, name: str) -> Iterator[tuple[bytes, int, int]]:
    """Type, begin and end of each top-level box; an empty type for bytes that are none."""
    position = 0
    for _ in range(_MAX_BOXES):
        head = window.at(position, 16)
        if not head:
            return
        size, kind, smallest = int.from_bytes(head[:4], "big"), head[4:8], 8
        if size == 1:
            size, smallest = int.from_bytes(head[8:16], "big"), 16
        elif size == 0:
            size = window.size - position
        if len(head) < 8 or size < smallest or not (kind.isascii() or kind[:1] == b"\xa9"):
            yield b"", position, window.size
            return
        yield kind, position, position + size
        position += size
    raise damaged(name)


class _Index:
    """Adds up how many samples the tables of a file announce.

    FFmpeg expands them to some 36 bytes a sample before it reads any, so that ten kilobytes of a file could
    take all memory. It also takes a table wherever it finds one, which is why this looks at all bytes of
    the index and not along the proper nesting only.
    """

    def __init__(self, window: Window, name: str) -> None:
        self._window = window
        self._name = name
        self._fragments = 0
        self._start_track()

    def _start_track(self) -> None:
        self._samples = self._timed = self._chunks = 0
        self._runs = np.empty((0, 3), np.int64)
        # One entry in which each sample lasts one tick: PCM, which FFmpeg indexes by chunks instead.
        self._is_pcm = True

    def finish_track(self) -> None:
        # Old QuickTime files count the samples before compression, which takes half a byte for each.
        allowed = 4 * self._window.size if self._is_pcm else min(self._window.size, _MAX_SAMPLES)
        if max(self._samples, self._timed, self._in_chunks()) > allowed:
            raise damaged(self._name)
        self._start_track()

    def scan(self, begin: int, end: int) -> None:
        """Looks at every table between two positions of the file."""
        while begin < end:
            piece = self._window.at(begin, min(_PIECE + _OVERLAP, end - begin))
            for found in _TABLES.finditer(piece):
                if found.start() < _PIECE:
                    self._read(found.group(), begin + found.start() + 4)
            begin += _PIECE

    def _read(self, kind: bytes, body: int) -> None:
        if kind == b"cmov":
            raise UnsupportedFormat(f"{self._name} files with a compressed index are not supported.")
        if kind == b"trak":
            self.finish_track()
        elif kind == b"trun":
            self._fragments += self._number(body + 4)
            if self._fragments > _MAX_SAMPLES:
                raise damaged(self._name)
        elif kind in (b"stsz", b"stz2"):
            self._samples = max(self._samples, self._number(body + 8))
        elif kind == b"stsc":
            self._runs = self._table(body, 3)
        elif kind in (b"stco", b"co64"):
            self._chunks = max(self._chunks, self._number(body + 4))
        else:
            table = self._table(body, 2)
            self._timed = max(self._timed, int(table[:, 0].sum()))
            self._is_pcm = self._is_pcm and kind == b"stts" and len(table) == 1 and table[0, 1] == 1

    def _in_chunks(self) -> float:
        """Samples in all chunks; a row of ``stsc`` is a first chunk, counted from 1, and samples in each."""
        if len(self._runs) == 0:
            return 0
        lengths = np.diff(self._runs[:, 0], append=max(self._chunks + 1, int(self._runs[-1, 0])))
        return float((lengths.astype(np.float64) * self._runs[:, 1]).sum())

    def _number(self, position: int) -> int:
        return int.from_bytes(self._window.at(position, 4), "big")

    def _table(self, body: int, columns: int) -> npt.NDArray[np.int64]:
        """The rows of a table with a count before them, as far as the file goes."""
        rows = self._number(body + 4)
        if rows > _MAX_SAMPLES:
            raise damaged(self._name)
        data = self._window.at(body + 8, rows * columns * 4)
        data = data[: len(data) - len(data) % (columns * 4)]
        return np.frombuffer(data, ">u4").reshape(-1, columns).astype(np.int64)
