"""Finds what may go from the caches: models that nobody needs, old revisions, downloads that were cut off."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deployments.catalogue import Catalogue, ModelEntry
from deployments.model_caches import (
    hugging_face_cache,
    hugging_face_places,
    hugging_face_repository,
    modelscope_places,
    modelscope_roots,
)
from deployments.model_layout import ModelMissing
from deployments.model_store import directories, locate
from serve_app.model_hub.errors import ModelHubError
from serve_app.model_hub.unpack import STAGING

_STILL_GOING_SEC = 600
"""What was written to since then may be a download that goes on."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file or directory that may go; ``size`` in bytes, ``why`` as the end of a sentence."""

    path: Path
    size: int
    why: str


@dataclass(frozen=True, slots=True)
class _Kept:
    """Directories that are not touched, nor what is in them, nor what they are in."""

    directories: frozenset[Path]

    def holds(self, path: Path) -> bool:
        real = path.resolve()
        return any(real.is_relative_to(kept) or kept.is_relative_to(real) for kept in self.directories)


def leftovers(needed: Sequence[str], catalogue: Catalogue, modelscope_path: Path) -> list[Leftover]:
    """What may go. Of the caches, only models that the catalogue knows are looked at.

    Args:
        needed: names, ids or directories of models that stay.
        catalogue: what the names mean.
        modelscope_path: root of ModelScope's cache.

    Raises:
        CatalogueError: a file of models is wrong.
    """
    kept = _kept(needed, catalogue, modelscope_path)
    wanted = {entry.name for reference in needed if (entry := catalogue.find(reference)) is not None}
    found: dict[Path, Leftover] = {}
    for entry in catalogue:
        for leftover in _of_entry(entry, entry.name in wanted, kept, modelscope_path):
            found.setdefault(leftover.path, leftover)
    for leftover in _given_up(modelscope_path):
        found.setdefault(leftover.path, leftover)
    return [each for each in found.values() if not _inside_another(each.path, found)]


def remove(leftover: Leftover) -> None:
    """Remove it. Raises ModelHubError if that is not allowed."""
    path = leftover.path
    try:
        if path.is_symlink() or path.is_file():
            path.unlink()
        else:
            shutil.rmtree(path)
    except OSError as error:
        raise ModelHubError(f"{path} could not be removed: {error.strerror}.") from error


def _kept(needed: Sequence[str], catalogue: Catalogue, modelscope_path: Path) -> _Kept:
    kept = set()
    for reference in needed:
        with suppress(ModelMissing):
            kept.add(locate(reference, modelscope_path).resolve())
    for entry in catalogue:
        if entry.path is not None:
            kept |= {path.resolve() for path in directories(entry, modelscope_path)}
    return _Kept(frozenset(kept))


def _of_entry(entry: ModelEntry, wanted: bool, kept: _Kept, modelscope_path: Path) -> Iterator[Leftover]:
    if entry.path is not None:
        return
    for identifier in entry.ids:
        for path in modelscope_places(identifier, modelscope_path):
            if path.is_dir() and path.parent.name != "snapshots":
                if not wanted and not kept.holds(path):
                    yield _leftover(path, f"no model that is needed ({entry.name})")
                yield from _partial(path)
        for repository in _repositories(identifier, modelscope_path):
            yield from _of_repository(repository, entry, wanted, kept)


def _repositories(identifier: str, modelscope_path: Path) -> Iterator[Path]:
    """Directories with all revisions of a model, in the layouts that have them."""
    mark = identifier.replace("/", "--")
    candidates = [
        hugging_face_repository(identifier),
        *(root / mark for root in modelscope_roots(modelscope_path)),
    ]
    yield from (path for path in candidates if (path / "snapshots").is_dir())


def _of_repository(repository: Path, entry: ModelEntry, wanted: bool, kept: _Kept) -> Iterator[Leftover]:
    if not wanted and not kept.holds(repository):
        yield _leftover(repository, f"no model that is needed ({entry.name})")
        return
    yield from _partial(repository / "blobs")
    if repository.name.startswith("models--"):
        yield from _old_revisions(repository, kept)


def _old_revisions(repository: Path, kept: _Kept) -> Iterator[Leftover]:
    """Snapshots that neither ``main`` nor a setting means, and the blobs that only they have."""
    identifier = repository.name.removeprefix("models--").replace("--", "/", 1)
    current = next((path for path in hugging_face_places(identifier) if path.is_dir()), None)
    snapshots = [path for path in (repository / "snapshots").iterdir() if path.is_dir()]
    old = [path for path in snapshots if path != current and not kept.holds(path)]
    used = {file.resolve() for path in snapshots if path not in old for file in path.rglob("*")}
    for path in old:
        yield _leftover(path, f"an old revision of {identifier}")
        for file in path.rglob("*"):
            blob = file.resolve()
            if (
                file.is_symlink()
                and blob.is_file()
                and blob not in used
                and blob.is_relative_to(repository.resolve())
            ):
                yield _leftover(blob, f"of an old revision of {identifier}")


def _partial(directory: Path) -> Iterator[Leftover]:
    for path in directory.rglob("*.incomplete"):
        if path.is_file() and _at_rest(path):
            yield _leftover(path, "a download that was interrupted")


def _given_up(modelscope_path: Path) -> Iterator[Leftover]:
    for root in {*modelscope_roots(modelscope_path), hugging_face_cache()}:
        for path in root.glob(f"{STAGING}*"):
            if path.is_dir() and _at_rest(path):
                yield _leftover(path, "a tar that was being unpacked when its command was killed")


def _at_rest(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > _STILL_GOING_SEC


def _leftover(path: Path, why: str) -> Leftover:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if not file.is_symlink()]
    return Leftover(path, sum(file.stat().st_size for file in files if file.is_file()), why)


def _inside_another(path: Path, found: dict[Path, Leftover]) -> bool:
    return any(parent in found for parent in path.parents)
