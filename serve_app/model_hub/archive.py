"""What a tar of models looks like, and the streams that it is written to and read from.

Its first member is ``manifest.json``; the files of the models come after it, as
``models/<hub>/<owner>/<name>/<path>``, in the order of the manifest.
"""

import gzip
import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, cast

import zstandard
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from deployments.model_record import FileRecord, Hub, ModelRecord
from serve_app.model_hub.errors import ModelHubError
from serve_app.model_hub.listing import check_relative

MANIFEST = "manifest.json"
MANIFEST_LIMIT = 16 << 20
"""Bytes of a manifest; that of a hundred models takes less than one hundredth of it."""

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*"
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_GZIP_LEVEL = 1
"""Weights hardly get smaller, whatever the effort."""
_STDIO = "-"


class PackedFile(BaseModel):
    """A file of a model; ``size`` in bytes, ``sha256`` in hexadecimal."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @field_validator("path")
    @classmethod
    def _relative(cls, path: str) -> str:
        try:
            check_relative(path)
        except ModelHubError as error:
            raise ValueError(str(error)) from error
        return path


class PackedModel(BaseModel):
    """A model: where it came from, and its files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    hub: Hub
    id: str = Field(pattern=f"^{_PART}/{_PART}$")
    revision: str = Field(pattern=f"^{_PART}$", max_length=100)
    files: tuple[PackedFile, ...] = Field(min_length=1)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def prefix(self) -> str:
        """What the names of its members begin with."""
        return f"models/{self.hub}/{self.id}/"

    def record(self) -> ModelRecord:
        """What is written down of it where it is unpacked."""
        files = {file.path: FileRecord(file.size, file.sha256) for file in self.files}
        return ModelRecord(self.hub, self.id, self.revision, files)


class Manifest(BaseModel):
    """What a tar of models holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["asr-serve models"] = "asr-serve models"
    version: Literal[1] = 1
    models: tuple[PackedModel, ...] = Field(min_length=1)


def parse_manifest(content: bytes) -> Manifest:
    """Raises ModelHubError if it is not one, or one of a later version, or names a path that leads astray."""
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelHubError(f"Its {MANIFEST} cannot be used: {where}: {first['msg']}.") from error
    members = [model.prefix + file.path for model in manifest.models for file in model.files]
    if len({member.lower() for member in members}) != len(members):
        raise ModelHubError(f"Its {MANIFEST} has two files of one name.")
    return manifest


@contextmanager
def writing(target: str) -> Iterator[BinaryIO]:
    """A stream into a file, which is there once all has been written; compressed as its suffix says.

    Raises:
        ModelHubError: its suffix is none of .tar, .tar.gz, .tgz and .tar.zst.
    """
    if target == _STDIO:
        yield sys.stdout.buffer
        return
    path = Path(target).expanduser()
    kind = re.search(r"\.(tar|tar\.gz|tgz|tar\.zst)$", path.name)
    if kind is None:
        raise ModelHubError(f"{path.name} must end in .tar, .tar.gz or .tar.zst.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            if kind[1].endswith("gz"):
                with gzip.GzipFile(path.name, "wb", _GZIP_LEVEL, file) as stream:
                    yield cast(BinaryIO, stream)
            elif kind[1].endswith("zst"):
                with zstandard.ZstdCompressor().stream_writer(file, closefd=False) as stream:
                    yield cast(BinaryIO, stream)
            else:
                yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class BoundedReader(io.RawIOBase):
    """What is left of a stream of which only so much may be read as was allowed: a header that claims to be
    gigabytes long is refused before it is in memory."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._allowed = 0

    def allow(self, size: int) -> None:
        """Let so many more bytes be read than have been."""
        self._allowed = size

    def read(self, size: int = -1) -> bytes:
        """As of a file.

        Raises:
            ModelHubError: more is read than was allowed, or the stream is damaged.
        """
        try:
            block = self._stream.read(size)
        except (EOFError, OSError, zstandard.ZstdError) as error:
            raise ModelHubError(f"It is damaged or cut off: {error}.") from error
        self._allowed -= len(block)
        if self._allowed < 0:
            raise ModelHubError("It holds more than its manifest says.")
        return block


@contextmanager
def reading(source: str) -> Iterator[BoundedReader]:
    """A stream of what a file holds, uncompressed.

    Raises:
        ModelHubError: there is no such file.
    """
    if source == _STDIO:
        with _uncompressed(sys.stdin.buffer) as stream:
            yield BoundedReader(stream)
        return
    try:
        file = Path(source).expanduser().open("rb")
    except OSError as error:
        raise ModelHubError(f"{source} cannot be opened: {error.strerror}.") from error
    with file, _uncompressed(file) as stream:
        yield BoundedReader(stream)


@contextmanager
def _uncompressed(file: BinaryIO) -> Iterator[BinaryIO]:
    buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, file))
    head = buffered.peek(4)[:4]
    if head.startswith(_GZIP):
        with gzip.GzipFile(fileobj=buffered) as stream:
            yield cast(BinaryIO, stream)
    elif head == _ZSTD:
        with zstandard.ZstdDecompressor().stream_reader(buffered, closefd=False) as stream:
            yield cast(BinaryIO, stream)
    else:
        yield buffered
