"""Brings models from their hubs to this machine, whole and checked, or not at all."""

import io
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deployments.model_layout import ModelMissing, check_whole
from deployments.model_record import UNFINISHED, Hub, write_record
from serve_app.model_hub.errors import DamagedDownload, HubUnreachable, ModelHubError
from serve_app.model_hub.huggingface import HuggingFaceHub
from serve_app.model_hub.listing import Listing, RemoteFile, check_file
from serve_app.model_hub.modelscope import ModelScopeHub
from serve_app.model_hub.selection import Wanted

_TRIES = 2
"""How often a file that came damaged is fetched."""
_LOOK_SEC = 0.2
_RESERVE = 64 << 20
"""Bytes of disk that stay free."""


class ModelHub(Protocol):
    """A hub; see :class:`ModelScopeHub` for what its methods do."""

    @property
    def name(self) -> Hub: ...
    @property
    def title(self) -> str: ...
    def listing(self, identifier: str, revision: str | None) -> Listing: ...
    def directory(self, listing: Listing) -> Path: ...
    def fetch(self, listing: Listing, files: Sequence[RemoteFile], directory: Path) -> None: ...
    def bytes_here(self, files: Sequence[RemoteFile], directory: Path) -> int: ...
    def discard(self, directory: Path, file: RemoteFile) -> None: ...
    def publish(self, listing: Listing, directory: Path) -> None: ...


class Progress(Protocol):
    """Who is told how a model comes along. Sizes are in bytes."""

    def begin(self, name: str, source: str, size: int) -> None:
        """What is to be fetched of a model, and from which hub."""

    def at(self, size: int) -> None:
        """How much of it is here."""

    def end(self) -> None:
        """It is here, or will not come."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """``directory`` of a model that is whole now; ``fetched``: bytes that were missing before."""

    name: str
    directory: Path
    fetched: int


def pull(
    wanted: Wanted,
    modelscope_path: Path,
    progress: Progress,
    *,
    local_dir: Path | None = None,
    revision: str | None = None,
) -> Pulled:
    """Fetch what is missing of a model, and compare every file with its hub's hashes.

    Args:
        wanted: the model, and the hubs to ask, in order. The next one is asked if one does not answer.
        modelscope_path: root of ModelScope's cache.
        progress: is told how far it is.
        local_dir: where the files go; not given: the cache of the hub.
        revision: a branch, tag or commit of the hub.

    Raises:
        ModelHubError: it could not be fetched, or what came is not what the hub says it should be.
    """
    for number, (name, identifier) in enumerate(wanted.sources, start=1):
        hub = _hub(name, modelscope_path, local_dir)
        try:
            listing = hub.listing(identifier, revision)
            directory = local_dir or hub.directory(listing)
            return _bring(wanted.name, hub, listing, directory, progress)
        except HubUnreachable:
            if number == len(wanted.sources):
                raise
    raise ModelHubError(f"The model {wanted.name} is on no hub.")


def _hub(name: Hub, modelscope_path: Path, local_dir: Path | None) -> ModelHub:
    return HuggingFaceHub(local_dir) if name == "huggingface" else ModelScopeHub(modelscope_path)


def _bring(name: str, hub: ModelHub, listing: Listing, directory: Path, progress: Progress) -> Pulled:
    hashes, missing = _compare(listing.files, directory)
    to_fetch = sum(file.size for file in missing)
    if missing:
        _check_space(directory, to_fetch)
        progress.begin(name, hub.title, to_fetch)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / UNFINISHED).touch()
        try:
            hashes |= _fetch_checked(hub, listing, missing, directory, progress)
        finally:
            progress.end()
    (directory / UNFINISHED).unlink(missing_ok=True)
    write_record(directory, listing.record(hashes))
    _check_use(listing, directory)
    hub.publish(listing, directory)
    return Pulled(name, directory, to_fetch)


def _fetch_checked(
    hub: ModelHub, listing: Listing, files: Sequence[RemoteFile], directory: Path, progress: Progress
) -> dict[str, str]:
    """The SHA-256 of each of the files once they are here and as they should be."""
    missing = [*files]
    hashes: dict[str, str] = {}
    for _ in range(_TRIES):
        try:
            _fetch(hub, listing, missing, directory, progress)
        except DamagedDownload:
            missing = _compare(missing, directory)[1]
            break
        new, missing = _compare(missing, directory)
        hashes |= new
        if not missing:
            return hashes
    for file in missing:
        hub.discard(directory, file)
    raise ModelHubError(
        f"{missing[0].path} of {listing.id} came damaged from {hub.title}, and again when it was fetched "
        "once more: it is not what the hash there says. It was deleted. Try again, or take another hub or "
        "mirror (--hub, HF_ENDPOINT, MODELSCOPE_ENDPOINT)."
    )


def _compare(files: Sequence[RemoteFile], directory: Path) -> tuple[dict[str, str], list[RemoteFile]]:
    """The SHA-256 of those that are as they should be, by their paths, and those that are not."""
    hashes, wrong = {}, []
    for file in files:
        if (sha256 := check_file(directory, file)) is None:
            wrong.append(file)
        else:
            hashes[file.path] = sha256
    return hashes, wrong


def _fetch(
    hub: ModelHub, listing: Listing, files: Sequence[RemoteFile], directory: Path, progress: Progress
) -> None:
    with _silenced():
        _watch(
            lambda: hub.fetch(listing, files, directory),
            lambda: progress.at(hub.bytes_here(files, directory)),
        )


def _watch(work: Callable[[], None], look: Callable[[], None]) -> None:
    """Do some work in a thread, and look at how it goes until it ends. Ctrl-C is heard at once."""
    executor = ThreadPoolExecutor(1)
    try:
        future = executor.submit(work)
        while wait([future], _LOOK_SEC).not_done:
            look()
        future.result()
    finally:
        executor.shutdown(wait=False)


class _Nowhere(io.TextIOBase):
    """Takes whatever is written."""

    def write(self, text: str) -> int:
        return len(text)


@contextmanager
def _silenced() -> Iterator[None]:
    """Without the hubs' own progress bars, which are no good in a log and of two kinds on a terminal, and
    without what else they tell that is no warning."""
    logger = logging.getLogger("modelscope_hub")
    level = logger.level
    if "MODELSCOPE_LOG_LEVEL" not in os.environ:
        logger.setLevel(logging.WARNING)
    try:
        with redirect_stderr(_Nowhere()):
            yield
    finally:
        logger.setLevel(level)


def _check_space(directory: Path, size: int) -> None:
    there = next(path for path in (directory, *directory.parents) if path.is_dir())
    if (free := shutil.disk_usage(there).free) < size + _RESERVE:
        raise ModelHubError(
            f"{directory} needs {size / 1e6:.0f} MB, and {free / 1e6:.0f} MB of the disk are free. Make "
            "room, or set MODELSCOPE_PATH or HF_HOME to a directory on another disk."
        )


def _check_use(listing: Listing, directory: Path) -> None:
    """All files are as on the hub; a model whose repository lacks one is of no use all the same."""
    try:
        check_whole(directory)
    except ModelMissing as error:
        raise ModelHubError(f"{listing.id} is all here, but cannot be used: {error}") from error
