"""Puts models into one tar, for a site without a network. Nothing is copied on the disk besides."""

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO

from deployments.catalogue import Catalogue
from deployments.model_caches import modelscope_roots
from deployments.model_layout import ModelMissing
from deployments.model_record import RECORD, Hub, read_record
from deployments.model_store import find_model
from serve_app.model_hub.archive import MANIFEST, Manifest, PackedFile, PackedModel, writing
from serve_app.model_hub.errors import ModelHubError
from serve_app.model_hub.listing import IGNORED, content_hash
from serve_app.model_hub.selection import is_id

_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model on the disk came from."""

    hub: Hub
    id: str
    revision: str


def pack(references: Sequence[str], catalogue: Catalogue, modelscope_path: Path, target: str) -> Manifest:
    """Write models that are on this machine to a tar.

    Args:
        references: names, aliases, ids, or directories that ``models pull`` or ``models unpack`` has made.
        catalogue: what the names mean.
        modelscope_path: root of ModelScope's cache.
        target: a ``.tar``, ``.tar.gz`` or ``.tar.zst``; ``-``: standard output, uncompressed.

    Returns:
        What it holds.

    Raises:
        ModelHubError: a model is missing or damaged, or comes with the service.
    """
    chosen = [_find(reference, catalogue, modelscope_path) for reference in references]
    directories = {directory: name for name, directory in chosen}
    models = [_describe(name, directory, modelscope_path) for directory, name in directories.items()]
    manifest = Manifest(models=tuple(models))
    with writing(target) as stream:
        _write(stream, manifest, [*directories])
    return manifest


def _find(reference: str, catalogue: Catalogue, modelscope_path: Path) -> tuple[str, Path]:
    entry = catalogue.find(reference)
    if entry is not None and not entry.ids:
        raise ModelHubError(f"The model {entry.name} comes with the service; it need not be packed.")
    try:
        directory = find_model(reference, modelscope_path)
    except ModelMissing as error:
        raise ModelHubError(str(error)) from error
    return entry.name if entry is not None else reference, directory


def origin(directory: Path, modelscope_path: Path) -> Origin:
    """Where a model came from, by its record or else by its place in a cache.

    Raises:
        ModelHubError: neither tells.
    """
    if (record := read_record(directory)) is not None:
        return Origin(record.hub, record.id, record.revision)
    if directory.parent.name == "snapshots":
        repository = directory.parents[1].name
        hub: Hub = "huggingface" if repository.startswith("models--") else "modelscope"
        return Origin(hub, repository.removeprefix("models--").replace("--", "/", 1), directory.name)
    identifier = f"{directory.parent.name}/{directory.name.replace('___', '.')}"
    roots = {root.resolve() for root in modelscope_roots(modelscope_path)}
    if not is_id(identifier) or directory.parents[1].resolve() not in roots:
        raise ModelHubError(
            f"It is not known where {directory} came from. Fetch the model with `asr-serve models pull`, "
            "which writes that down."
        )
    return Origin("modelscope", identifier, _UNKNOWN)


def files_of(directory: Path) -> list[str]:
    """The paths of a model's files: those that were recorded, or else all but what no model needs."""
    if (record := read_record(directory)) is not None:
        return sorted(record.files)
    names = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return sorted(name for name in names if not any(fnmatch(name, pattern) for pattern in IGNORED))


def _describe(name: str, directory: Path, modelscope_path: Path) -> PackedModel:
    """Hash all files of a model, and compare them with what was recorded."""
    came, record = origin(directory, modelscope_path), read_record(directory)
    files = []
    for path in files_of(directory):
        sha256, _ = content_hash(directory / path)
        if record is not None and record.files[path].sha256 != sha256:
            raise ModelHubError(
                f"{directory / path} is damaged: it is not what was downloaded. Run `asr-serve models pull "
                f"{came.id}`; if you have changed it on purpose, delete {directory / RECORD}."
            )
        files.append(PackedFile(path=path, size=(directory / path).stat().st_size, sha256=sha256))
    return PackedModel(name=name, hub=came.hub, id=came.id, revision=came.revision, files=tuple(files))


def _write(stream: BinaryIO, manifest: Manifest, directories: Sequence[Path]) -> None:
    with tarfile.open(fileobj=stream, mode="w|") as tar:
        content = manifest.model_dump_json(indent=1).encode()
        tar.addfile(_member(MANIFEST, len(content)), io.BytesIO(content))
        for model, directory in zip(manifest.models, directories, strict=True):
            for file in model.files:
                with (directory / file.path).open("rb") as source:
                    tar.addfile(_member(model.prefix + file.path, file.size), source)


def _member(name: str, size: int) -> tarfile.TarInfo:
    """The same for all: whose file it was, and when it was written, concerns nobody."""
    member = tarfile.TarInfo(name)
    member.size = size
    return member
