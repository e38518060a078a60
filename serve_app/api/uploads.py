"""Takes uploads in: forms and raw bodies stream to temporary files, which are gone when the request is.

Sizes are in bytes. An upload that is too large is refused as soon as its announced length or what came in
of it says so, not after it was stored.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import asynccontextmanager
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from serve_app.errors import AudioTooLarge, InvalidParameter

_MIB = 1 << 20
_FORM_OVERHEAD = _MIB
"""What boundaries, part headers and the other fields of a form may add to the audio."""

_IN_MEMORY = _MIB
"""Bytes of a body that are kept in memory before it moves to disk; the form parser uses the same."""

_MAX_FILES = 4
_MAX_FIELDS = 200
_FIELD_BYTES = 4 * _MIB
"""Of one text field: a data URL with 10 s of audio, as its microphone recorded it."""

_TEXT_BYTES = 20 * _MIB
"""Of all text fields, which are in memory."""


class UploadForm:
    """The fields and files of a form. A name means the same with and without ``[]`` at its end."""

    def __init__(self, data: FormData, max_bytes: int) -> None:
        self._items = [(name.removesuffix("[]"), value) for name, value in data.multi_items()]
        for _, value in self._items:
            if isinstance(value, UploadFile) and (value.size or 0) > max_bytes:
                raise _too_large(max_bytes)

    def fields(self, lists: Collection[str] = ()) -> dict[str, str | list[str]]:
        """All text fields. Those named in ``lists`` hold every value that was sent, others the last one."""
        found: dict[str, str | list[str]] = {}
        for name, value in self._items:
            if isinstance(value, UploadFile):
                continue
            known = found.setdefault(name, []) if name in lists else value
            if isinstance(known, list):
                known.append(value)
            else:
                found[name] = value
        return found

    def file(self, *names: str) -> BinaryIO:
        """The file that was sent under the first of ``names`` that is there; open until the form is left.

        Raises:
            InvalidParameter: There is none, or it was sent as plain text.
        """
        for name in names:
            for sent, value in self._items:
                if sent == name and isinstance(value, UploadFile):
                    return value.file
        if any(sent in names for sent, _ in self._items):
            raise InvalidParameter(
                f"The form field {names[0]!r} was sent as text; it must be a file, with a file name.",
                names[0],
            )
        raise InvalidParameter(f"The form field {names[0]!r} with the audio file is missing.", names[0])

    def files(self, name: str) -> list[BinaryIO]:
        """All files that were sent under ``name``, in order; open until the form is left.

        Raises:
            InvalidParameter: One was sent as plain text.
        """
        sent = [value for key, value in self._items if key == name]
        found = [value.file for value in sent if isinstance(value, UploadFile)]
        if len(found) < len(sent):
            raise InvalidParameter(
                f"The form field {name!r} was sent as text; it must be a file, with a file name.", name
            )
        return found

    def filename(self, name: str) -> str | None:
        """What the client calls the file that it sent under ``name``; ``None`` if it sent none."""
        sent = (value for key, value in self._items if key == name and isinstance(value, UploadFile))
        return next((value.filename or "" for value in sent), None)


class _Parser(MultiPartParser):
    """Starlette's parser, which takes a body without its closing boundary for a whole one and then
    leaves the file that was being written open. Here, also text is bounded as a whole."""

    complete = False
    text_bytes = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is None:
            self.text_bytes += end - start
            if self.text_bytes > _TEXT_BYTES:
                raise MultiPartException(f"Its fields without files exceed {_TEXT_BYTES // _MIB} MB.")
        super().on_part_data(data, start, end)

    def on_end(self) -> None:
        self.complete = True

    def close_files(self) -> None:
        for file in self._files_to_close_on_error:
            file.close()


@asynccontextmanager
async def read_form(request: Request, *, max_bytes: int) -> AsyncIterator[UploadForm]:
    """Reads a ``multipart/form-data`` body to its end; its files are closed on the way out, whatever happens.

    Raises:
        AudioTooLarge: A file passes ``max_bytes``; raised while the body is still coming in.
        InvalidParameter: Another content type, no boundary, or a body that is no such form.
        ClientDisconnect: (Starlette's) the client went away before the end of the body.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        sent = f"this request has {kind!r}" if kind else "this request has none"
        raise InvalidParameter(f"The content type must be multipart/form-data; {sent}.")
    limit = max_bytes + _FORM_OVERHEAD
    _check_length(request, limit, max_bytes)
    parser = _Parser(
        request.headers,
        _counted(request, limit, max_bytes),
        max_files=_MAX_FILES,
        max_fields=_MAX_FIELDS,
        max_part_size=_FIELD_BYTES,
    )
    try:
        try:
            data = await parser.parse()
        except MultiPartException as error:
            raise InvalidParameter(
                f"The multipart form cannot be read: {error.message.rstrip('.')}."
            ) from error
        if not parser.complete:
            raise InvalidParameter("The multipart form is incomplete: its closing boundary is missing.")
        yield UploadForm(data, max_bytes)
    finally:
        parser.close_files()


@asynccontextmanager
async def spool_body(request: Request, *, max_bytes: int) -> AsyncIterator[BinaryIO]:
    """The raw body of a request as a temporary file, at its begin; closed on the way out.

    Raises:
        AudioTooLarge: It passes ``max_bytes``; raised while the body is still coming in.
        ClientDisconnect: (Starlette's) the client went away before the end of the body.
    """
    _check_length(request, max_bytes, max_bytes)
    with SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
        # UploadFile moves the writes to a thread once the file lies on disk.
        upload = UploadFile(cast("BinaryIO", file), size=0)
        async for chunk in _counted(request, max_bytes, max_bytes):
            await upload.write(chunk)
        await upload.seek(0)
        yield upload.file


def _check_length(request: Request, limit: int, max_bytes: int) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(max_bytes)


async def _counted(request: Request, limit: int, max_bytes: int) -> AsyncGenerator[bytes, None]:
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > limit:
            raise _too_large(max_bytes)
        yield chunk


def _too_large(max_bytes: int) -> AudioTooLarge:
    size = f"{max_bytes / _MIB:g} MB" if max_bytes % _MIB == 0 else f"{max_bytes} bytes"
    return AudioTooLarge(f"The upload is larger than {size}, which is the most that this server takes.")
