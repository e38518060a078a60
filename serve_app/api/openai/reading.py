"""A recording as clients of ``/v1`` hand it in: a file of a form, or a URL in one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import BinaryIO
from urllib.parse import parse_qsl

from starlette.datastructures import FormData
from starlette.requests import Request

from serve_app.api.uploads import UploadForm, read_form, spool_body
from serve_app.errors import InvalidParameter
from serve_app.fetching import Fetcher

_URL_ENCODED = "application/x-www-form-urlencoded"
_URL_ENCODED_BYTES = 1 << 20
_MAX_FIELDS = 200


@asynccontextmanager
async def read_recording_form(request: Request, *, max_bytes: int) -> AsyncIterator[UploadForm]:
    """As :func:`serve_app.api.uploads.read_form`; without a file, a form may also be URL-encoded.

    Many clients encode it so by themselves if all that they have is the URL of a recording.

    Raises:
        AsrError, ClientDisconnect: as there; ``AudioTooLarge`` also if a URL-encoded form passes 1 MB.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _URL_ENCODED:
        async with read_form(request, max_bytes=max_bytes) as form:
            yield form
        return
    async with spool_body(request, max_bytes=min(max_bytes, _URL_ENCODED_BYTES)) as body:
        try:
            fields = parse_qsl(
                body.read().decode("utf-8"),
                keep_blank_values=True,
                max_num_fields=_MAX_FIELDS,
                errors="strict",
            )
        except ValueError as error:
            raise InvalidParameter(
                f"The URL-encoded form cannot be read: it must be UTF-8, with {_MAX_FIELDS} fields at most."
            ) from error
        yield UploadForm(FormData([*fields]), max_bytes)


@asynccontextmanager
async def recording(form: UploadForm, url: str | None, fetcher: Fetcher) -> AsyncIterator[BinaryIO]:
    """The field ``file``, or else what is behind ``url``; closed on the way out.

    Raises:
        InvalidParameter: neither was sent.
        DownloadFailed, AudioTooLarge: see :meth:`serve_app.fetching.Fetcher.fetch`.
    """
    try:
        file = form.file("file")
    except InvalidParameter:
        if not url:
            raise
    else:
        yield file
        return
    async with fetcher.fetch(url, param="audio_address") as fetched:
        yield fetched
