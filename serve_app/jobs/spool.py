"""The recordings of jobs: a directory for each, in which what was promised is on disk. Everything blocks."""

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from serve_app.jobs.database import disk_full

_PIECE = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Spool:
    """``root`` is made when it is first needed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, job_id: str, recording: BinaryIO) -> str:
        """Copy a recording from its begin to disk, whole or not at all; its SHA-256 in hex.

        Raises:
            Overloaded: the disk is full.
        """
        directory = self._root / job_id
        digest = hashlib.sha256()
        recording.seek(0)
        with _full_disk_told():
            for path in (self._root.parent, self._root, directory):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = directory / "part"
            try:
                with part.open("wb") as file:
                    while piece := recording.read(_PIECE):
                        digest.update(piece)
                        file.write(piece)
                    file.flush()
                    os.fsync(file.fileno())
                part.rename(directory / "recording")
            except BaseException:
                part.unlink(missing_ok=True)
                raise
            for changed in (directory, self._root):
                _sync_directory(changed)
        return digest.hexdigest()

    def has(self, job_id: str) -> bool:
        return (self._root / job_id / "recording").is_file()

    def open(self, job_id: str) -> BinaryIO:
        """The recording; raises ``FileNotFoundError``."""
        return (self._root / job_id / "recording").open("rb")

    def remove(self, job_id: str) -> None:
        """Remove what is there of a job's recording."""
        shutil.rmtree(self._root / job_id, ignore_errors=True)

    def abandoned(self, older_than: float) -> list[str]:
        """Jobs whose directory is untouched for so many seconds; not all need to be there in vain."""
        if not self._root.is_dir():
            return []
        limit = time.time() - older_than
        found = []
        for directory in self._root.iterdir():
            try:
                if directory.stat().st_mtime < limit:
                    found.append(directory.name)
            except FileNotFoundError:
                continue
        return found


@contextmanager
def _full_disk_told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full() from error
        raise


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
