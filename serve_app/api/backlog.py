"""What a WebSocket client has sent and nobody has worked off yet.

Serve's proxy hands messages on without flow control: whatever is not read here piles up in the proxy, which
all clients share. So every live protocol reads its socket at all times and keeps here what its session
cannot take yet: the first of it in memory, the rest in a temporary file, all of it bounded.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO

from serve_app.errors import AudioTooLarge

Message = str | bytes

_PIECE = 1 << 16
"""Bytes of binary data that are handed out at a time, at most; longer frames are cut."""

_IN_MEMORY = 1 << 20
_OVERHEAD = 64
"""Bytes by which a message in memory is larger than its content."""

_MAX_TEXTS = 1000


@dataclass(slots=True)
class _Stored:
    """A message in the file. ``begin`` counts all bytes that were ever written, ``length`` its own."""

    begin: int
    length: int
    is_text: bool


class Backlog:
    """A first-in first-out queue of messages for one writer and one reader.

    Binary messages are a stream of bytes: their bounds are not kept. Text messages keep theirs, and their
    place in the stream.
    """

    def __init__(self, max_bytes: int, in_memory: int = _IN_MEMORY, max_texts: int = _MAX_TEXTS) -> None:
        """``max_bytes`` may wait in all, ``in_memory`` of them in memory, and ``max_texts`` text messages."""
        self._max_bytes = max_bytes
        self._max_texts = max_texts
        self._in_memory = in_memory
        self._items: deque[Message | _Stored] = deque()
        self._waiting = self._memory = self._texts = 0
        self._written = self._stored = 0
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._filled = asyncio.Event()

    async def put(self, message: Message) -> None:
        """Add a message.

        Raises:
            AudioTooLarge: more than the limit waits.
        """
        if isinstance(message, str):
            self._texts += 1
        size = len(message.encode()) if isinstance(message, str) else len(message)
        self._waiting += size
        if self._waiting > self._max_bytes or self._texts > self._max_texts:
            raise AudioTooLarge(
                "The audio comes in faster than it can be recognized, and more of it waits "
                "than this server keeps; send live audio at the speed at which it is spoken."
            )
        for piece in [message] if isinstance(message, str) else _cut(message):
            await self._put(piece)
            self._filled.set()

    async def get(self) -> Message:
        """The next text message, or the next bytes, at most 64 KiB; waits until there are any."""
        while not self._items:
            self._filled.clear()
            await self._filled.wait()
        item = self._items.popleft()
        if isinstance(item, _Stored):
            data = await asyncio.to_thread(self._read, item)
            self._stored -= len(data)
            if not self._stored:
                await asyncio.to_thread(self._empty)
            item = data.decode() if item.is_text else data
            size = len(data)
        else:
            size = len(item.encode()) if isinstance(item, str) else len(item)
            self._memory -= size + _OVERHEAD
        self._texts -= isinstance(item, str)
        self._waiting -= size
        return item

    def close(self) -> None:
        """Forget everything and free the file. Nothing may be put or taken afterwards."""
        with self._lock:
            self._closed = True
            if self._file is not None:
                self._file.close()
        self._items.clear()

    async def _put(self, message: Message) -> None:
        data = message.encode() if isinstance(message, str) else message
        if self._memory + len(data) + _OVERHEAD <= self._in_memory:
            self._memory += len(data) + _OVERHEAD
            self._items.append(message)
            return
        self._stored += len(data)
        begin = await asyncio.to_thread(self._write, data)
        last = self._items[-1] if self._items else None
        if isinstance(message, bytes) and isinstance(last, _Stored) and _joins(last, begin, len(data)):
            last.length += len(data)
        else:
            self._items.append(_Stored(begin, len(data), isinstance(message, str)))

    def _write(self, data: bytes) -> int:
        """Append to the file, which is used as a ring of ``max_bytes``; returns where ``data`` begins."""
        with self._lock:
            begin = self._written
            if self._closed:
                return begin
            if self._file is None:
                self._file = TemporaryFile(buffering=0)  # noqa: SIM115 (close() is its end)
            for position, part in self._parts(begin, len(data)):
                self._file.seek(position)
                rest = memoryview(data)[part]
                while rest:
                    rest = rest[self._file.write(rest) :]
            self._written += len(data)
            return begin

    def _read(self, item: _Stored) -> bytes:
        data = b""
        with self._lock:
            if self._closed or self._file is None:
                return data
            for position, part in self._parts(item.begin, item.length):
                self._file.seek(position)
                data += self._file.read(part.stop - part.start)
        return data

    def _parts(self, begin: int, length: int) -> Iterator[tuple[int, slice]]:
        """Where in the file a stretch of the ring lies: position, and part of the stretch."""
        position = begin % self._max_bytes
        first = min(length, self._max_bytes - position)
        yield position, slice(0, first)
        if first < length:
            yield 0, slice(first, length)

    def _empty(self) -> None:
        """Give the file's space back once nothing in it is needed."""
        with self._lock:
            if self._file is not None and not self._closed and not self._stored:
                self._file.truncate(0)
                self._written = 0


def _cut(data: bytes) -> Iterator[bytes]:
    if len(data) <= _PIECE:
        yield data
        return
    for begin in range(0, len(data), _PIECE):
        yield data[begin : begin + _PIECE]


def _joins(last: _Stored, begin: int, length: int) -> bool:
    """Whether bytes can be added to the record before them: tiny frames must not cost one each."""
    return not last.is_text and last.begin + last.length == begin and last.length + length <= _PIECE
