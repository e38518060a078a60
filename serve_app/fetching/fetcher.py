"""Recordings by URL: fetched to disk, within limits that hold whatever the other side does."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

import httpcore
import httpx
from starlette.datastructures import UploadFile

from serve_app.errors import AudioTooLarge, DownloadFailed
from serve_app.fetching.client import AddressRefused, Resolver, SystemResolver, guarded_client
from serve_app.settings import Settings

_MIB = 1 << 20
_IN_MEMORY = _MIB
"""Bytes of a body that are kept in memory before it moves to disk, as for uploads."""

_LONGEST_URL = 8192

_HEADERS = {"accept": "*/*", "accept-encoding": "identity"}
"""A body that grows when it is unpacked would pass any limit on what comes over the network."""


class Fetcher:
    """Fetches over http and https, within the limits of the settings."""

    def __init__(
        self,
        settings: Settings,
        resolver: Resolver | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        """``resolver`` and ``network`` as for :func:`serve_app.fetching.client.guarded_client`."""
        self._settings = settings
        self._resolver = resolver or SystemResolver()
        self._network = network
        self._max_bytes = settings.max_audio_bytes
        self._seconds = settings.download_timeout_sec
        self._max_redirects = settings.download_max_redirects

    @cached_property
    def _ssl_context(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()

    @asynccontextmanager
    async def fetch(self, url: str, *, param: str) -> AsyncIterator[BinaryIO]:
        """The body behind ``url`` as a temporary file, at its begin; closed on the way out.

        Args:
            param: the name that the URL's parameter has on the wire, for errors.

        Raises:
            DownloadFailed: not http or https, an address that may not be fetched, an error status, no
                answer in time, or a body that breaks off.
            AudioTooLarge: the body passes the largest upload; told while it is coming in.
        """
        with SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
            # UploadFile moves the writes to a thread once the file lies on disk.
            sink = UploadFile(cast("BinaryIO", file), size=0)
            try:
                async with asyncio.timeout(self._seconds):
                    await self._download(url, sink)
            except (_Refused, httpx.HTTPError, httpx.InvalidURL, UnicodeError, TimeoutError) as error:
                raise DownloadFailed(self._sentence(error), param, temporary=_is_temporary(error)) from error
            await sink.seek(0)
            yield sink.file

    async def _download(self, url: str, sink: UploadFile) -> None:
        # A client of its own for each: cookies of one customer's storage are none of the next one's.
        async with guarded_client(
            self._settings,
            resolver=self._resolver,
            network=self._network,
            ssl_context=self._ssl_context,
            headers=_HEADERS,
        ) as client:
            request = client.build_request("GET", _parsed(url))
            # Redirects are followed here, because httpx would read the body of each, however long.
            for _ in range(self._max_redirects + 1):
                response = await client.send(request, stream=True)
                try:
                    if response.next_request is None:
                        await self._store(response, sink)
                        return
                    request = response.next_request
                    _check(request.url)
                finally:
                    await response.aclose()
        raise _Refused(f"The URL was redirected more than {self._max_redirects} times.")

    async def _store(self, response: httpx.Response, sink: UploadFile) -> None:
        if response.status_code != httpx.codes.OK:
            raise _Refused(
                f"The server of the URL answered with status {response.status_code}.",
                temporary=response.status_code in _TEMPORARY,
            )
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise _Refused(
                "The server of the URL compressed its answer although it was asked not to; "
                "only uncompressed answers are taken."
            )
        announced = response.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            raise self._too_large()
        total = 0
        async for chunk in response.aiter_raw():
            total += len(chunk)
            if total > self._max_bytes:
                raise self._too_large()
            await sink.write(chunk)

    def _too_large(self) -> AudioTooLarge:
        size = self._max_bytes
        text = f"{size / _MIB:g} MB" if size % _MIB == 0 else f"{size} bytes"
        return AudioTooLarge(
            f"The recording behind the URL is larger than {text}, which is the most that this server takes."
        )

    def _sentence(self, error: Exception) -> str:
        match error:
            case _Refused():
                return str(error)
            case AddressRefused():
                return (
                    "The host of the URL cannot be used: this server finds no address of that name, "
                    "or it is not one on the public internet."
                )
            case httpx.ConnectError() | httpx.ConnectTimeout():
                return "No connection could be made to the server of the URL."
            case httpx.TimeoutException():
                return "The server of the URL stopped sending."
            case TimeoutError():
                return f"The recording behind the URL did not arrive within {self._seconds:g} seconds."
            case httpx.UnsupportedProtocol():
                return _SCHEME
            case httpx.InvalidURL() | UnicodeError():
                return "The URL, or one that it was redirected to, cannot be read."
            case _:
                return "The connection to the server of the URL broke off, or its answer is not valid HTTP."


_SCHEME = "The URL must begin with http:// or https://."


_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
"""Statuses of a server that is overloaded, or that is being restarted."""


class _Refused(Exception):
    """A URL, or an answer, that is not taken; the message is a sentence for the client."""

    def __init__(self, message: str, *, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


def _is_temporary(error: Exception) -> bool:
    if isinstance(error, _Refused):
        return error.temporary
    lasting = AddressRefused | httpx.UnsupportedProtocol
    return isinstance(error, httpx.TransportError | TimeoutError) and not isinstance(error, lasting)


def _parsed(text: str) -> httpx.URL:
    """Raises :class:`_Refused`, or :class:`httpx.InvalidURL`."""
    text = text.strip()
    if len(text) > _LONGEST_URL:
        raise _Refused(f"The URL is longer than {_LONGEST_URL} characters.")
    url = httpx.URL(text)
    _check(url)
    return url


def _check(url: httpx.URL) -> None:
    if url.scheme not in ("http", "https"):
        raise _Refused(_SCHEME)
    if not url.host:
        raise _Refused("The URL names no host.")
    if url.port is not None and not 0 < url.port < 65536:
        raise _Refused("The port of the URL must be 1 to 65535.")
    if url.userinfo:
        raise _Refused("The URL holds a user name or password, which is not taken; sign the URL instead.")
