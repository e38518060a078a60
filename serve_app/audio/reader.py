"""Random access to an upload through one small buffer, for the scanners of this package."""

from typing import BinaryIO

_WINDOW = 1 << 16


class Window:
    """Bytes of a seekable file at any position; neighboring reads cost one read of the file."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.size = source.seek(0, 2)
        """Length of the file, in bytes."""
        self._base = 0
        self._buffer = b""

    def at(self, position: int, count: int) -> bytes:
        """``count`` bytes from ``position``, or as many as there are before the end of the file."""
        begin = position - self._base
        if begin < 0 or begin + count > len(self._buffer):
            if position >= self.size:
                return b""
            self._source.seek(position)
            self._buffer = self._source.read(max(_WINDOW, count))
            self._base = position
            begin = 0
        return self._buffer[begin : begin + count]

    def only_zeros(self, position: int) -> bool:
        """Whether nothing but zero bytes follows ``position``."""
        while piece := self.at(position, _WINDOW):
            if piece.count(0) != len(piece):
                return False
            position += len(piece)
        return True
