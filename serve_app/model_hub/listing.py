"""What a hub says of a model, which of its files are fetched, and whether those on the disk are the same."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from deployments.model_record import FileRecord, Hub, ModelRecord
from serve_app.model_hub.errors import ModelHubError

IGNORED = (
    ".*",
    "*/.*",
    *(f"*.{suffix}" for suffix in ("wav", "mp3", "flac", "mp4", "png", "jpg", "jpeg", "gif", "svg", "pdf")),
    *(f"{folder}/*" for folder in ("asset", "assets", "example", "examples", "fig", "figures", "resources")),
    *(f"*.{suffix}" for suffix in ("h5", "msgpack", "gguf", "mnn")),
)
"""Patterns of files that no model needs: examples, pictures, what git keeps, weights for other programs."""

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as its hub describes it.

    ``path`` in the repository, ``size`` in bytes, ``sha256`` of its content, or where a hub does not give
    that, ``git_id``: the id that git gives the content. Both in hexadecimal.
    """

    path: str
    size: int
    sha256: str | None = None
    git_id: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """One revision of a model on a hub, with those of its files that are fetched."""

    hub: Hub
    id: str
    revision: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def record(self, hashes: Mapping[str, str]) -> ModelRecord:
        """What is written down of it once it is here; ``hashes``: the SHA-256 of each file by its path."""
        files = {file.path: FileRecord(file.size, hashes[file.path]) for file in self.files}
        return ModelRecord(self.hub, self.id, self.revision, files)


def needed(files: Iterable[RemoteFile], identifier: str) -> tuple[RemoteFile, ...]:
    """The files that are fetched.

    Raises:
        ModelHubError: a path leads out of the model's directory, or nothing is left.
    """
    kept = tuple(file for file in files if not any(fnmatch(file.path, pattern) for pattern in IGNORED))
    for file in kept:
        check_relative(file.path)
    if not kept:
        raise ModelHubError(f"The model {identifier} has no files on its hub.")
    return kept


def check_relative(path: str) -> None:
    """Raise ModelHubError if a path, written with slashes, could lead out of the directory it is for."""
    parts = PurePosixPath(path).parts
    unsafe = not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path
    if unsafe or PurePosixPath(path).as_posix() != path:
        raise ModelHubError(f"A file has the name {path!r:.100}, which is refused.")


def content_hash(path: Path, file: RemoteFile | None = None) -> tuple[str, str | None]:
    """SHA-256 of a file, and the id that git would give its content if that is what ``file`` has."""
    sha256 = hashlib.sha256()
    # Git names contents by SHA-1: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
    git = None if file is None or file.git_id is None else hashlib.sha1(usedforsecurity=False)
    if git is not None:
        git.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as content:
        while block := content.read(_BLOCK):
            sha256.update(block)
            if git is not None:
                git.update(block)
    return sha256.hexdigest(), None if git is None else git.hexdigest()


def check_file(directory: Path, file: RemoteFile) -> str | None:
    """SHA-256 of a file of the directory; ``None`` if it is not there or not what its hub describes."""
    path = directory / file.path
    if not path.is_file() or path.stat().st_size != file.size:
        return None
    sha256, git_id = content_hash(path, file)
    if file.sha256 is not None:
        return sha256 if sha256 == file.sha256.lower() else None
    return sha256 if git_id == file.git_id else None


def size_of(path: Path) -> int:
    """Bytes of a file that may not be there (yet)."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
