"""Recordings by URL: fetched to disk, from addresses that a stranger may name.

A URL comes from a client, and this server may stand where the client may not look: what it fetches must
not be something inside of its own network.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from typing import BinaryIO

from serve_app.errors import DownloadFailed
from serve_app.settings import Settings


class Fetcher:
    """Fetches over http and https, within the limits of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._max_bytes = settings.max_audio_bytes

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
        if url:
            raise DownloadFailed("Recordings by URL are not supported yet.", param)
        yield BytesIO()
