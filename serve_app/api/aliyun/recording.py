"""A recording as Aliyun's clients hand it in: labels that do not fit, channels by themselves."""

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar, cast

from fastapi import Request

from serve_app.api.aliyun.errors import BadWavHeader, EmptyMessage
from serve_app.api.aliyun.wire import RecordingQuery
from serve_app.api.uploads import spool_body
from serve_app.audio.decode import AudioInfo, RawPcm, probe
from serve_app.audio.reader import Window
from serve_app.audio.sniff import Container, sniff
from serve_app.errors import InvalidAudio, InvalidParameter, UnknownContent, UnsupportedFormat
from serve_app.services import Services

Result = TypeVar("Result")

_HEADERLESS = ("", "pcm", "raw", "wav")
_BY_FRAMES = (Container.MP3, Container.ADTS)
_WAV = (b"RIFF", b"RF64", b"BW64")
_NO_AUDIO = "音频数据为空: neither a body nor audio_address was sent."


@dataclass(frozen=True, slots=True)
class Recording:
    """``raw``: how to read ``source`` if it has no header; ``info``: what it says of itself."""

    source: BinaryIO
    raw: RawPcm | None
    info: AudioInfo


@asynccontextmanager
async def open_recording(
    request: Request, query: RecordingQuery, services: Services
) -> AsyncIterator[Recording]:
    """The body of a request, or what is behind its ``audio_address``.

    Raises:
        EmptyMessage: there is neither.
        AsrError: as :meth:`serve_app.fetching.Fetcher.fetch`, :func:`serve_app.api.uploads.spool_body` and
            :func:`serve_app.audio.decode.probe` do; :class:`BadWavHeader` for a WAV file that cannot be read.
    """
    query.check()
    if query.audio_address is not None:
        async with services.fetcher.fetch(query.audio_address, param="audio_address") as source:
            yield await asyncio.to_thread(_inspect, source, query)
        return
    if request.headers.get("content-type", "").lower().startswith("multipart/"):
        raise InvalidParameter("The audio must be the body itself, not a part of a form.", "content-type")
    async with spool_body(request, max_bytes=services.settings.max_audio_bytes) as source:
        yield await asyncio.to_thread(_inspect, source, query)


def _inspect(source: BinaryIO, query: RecordingQuery) -> Recording:
    size = source.seek(0, io.SEEK_END)
    if size == 0:
        raise EmptyMessage(_NO_AUDIO)
    raw = RawPcm(query.sample_rate) if _is_headerless(source, (query.format or "").lower()) else None
    if raw is not None and size % 2:
        # A recorder that stops within a sample loses nothing that could be heard.
        source.truncate(size - 1)
    try:
        return Recording(source, raw, probe(source, raw=raw))
    except UnsupportedFormat:
        raise
    except InvalidAudio as error:
        if Window(source).at(0, 4) in _WAV:
            raise BadWavHeader(error.message) from error
        raise


def _is_headerless(source: BinaryIO, label: str) -> bool:
    """Whether it is plain samples. Some clients announce WAV and send only what is behind the header."""
    if label not in _HEADERLESS:
        return False
    window = Window(source)
    try:
        container, begin = sniff(window)
    except UnknownContent:
        return True
    # Samples may look like a few MPEG frames somewhere, but not from their very first byte on.
    tagged = begin == 0 or window.at(0, 3) == b"ID3"
    return label != "" and container in _BY_FRAMES and not tagged


def shared(source: BinaryIO, count: int) -> list[BinaryIO]:
    """``count`` readers of one file, each with a position of its own, for threads that read at once."""
    lock = threading.Lock()
    readers = (io.BufferedReader(_Reader(source, lock), 1 << 18) for _ in range(count))
    return [cast("BinaryIO", reader) for reader in readers]


class _Reader(io.RawIOBase):
    def __init__(self, source: BinaryIO, lock: threading.Lock) -> None:
        self._source = source
        self._lock = lock
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence == io.SEEK_END:
            with self._lock:
                offset += self._source.seek(0, io.SEEK_END)
        elif whence == io.SEEK_CUR:
            offset += self._position
        self._position = max(offset, 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        with self._lock:
            self._source.seek(self._position)
            data = self._source.read(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


async def together(work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Run all of it at once. The first error is raised, after everything else was cancelled."""
    tasks = [asyncio.create_task(item) for item in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
