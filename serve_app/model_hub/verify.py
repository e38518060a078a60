"""Compares models on the disk with the hashes that were recorded, or by which the hub's client names them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deployments.catalogue import Catalogue
from deployments.model_layout import ModelMissing, check_whole
from deployments.model_record import read_record
from deployments.model_store import directories, locate
from serve_app.model_hub.errors import ModelHubError
from serve_app.model_hub.listing import RemoteFile, check_file

_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """``problem``: a sentence, ``None`` if there is none; ``compared``: files whose hashes are known."""

    name: str
    directory: Path
    problem: str | None
    compared: int


def verify(references: list[str], catalogue: Catalogue, modelscope_path: Path) -> Iterator[Verdict]:
    """Check models; without references, all of the catalogue that are on this machine, wherever they lie.

    Raises:
        ModelHubError: a model that is named is not here.
    """
    for name, directory in _chosen(references, catalogue, modelscope_path):
        yield _verdict(name, directory)


def _chosen(references: list[str], catalogue: Catalogue, modelscope_path: Path) -> Iterator[tuple[str, Path]]:
    for reference in references:
        try:
            yield reference, locate(reference, modelscope_path)
        except ModelMissing as error:
            raise ModelHubError(str(error)) from error
    if not references:
        for entry in catalogue:
            for directory in directories(entry, modelscope_path):
                yield entry.name, directory


def _verdict(name: str, directory: Path) -> Verdict:
    known = [*_known(directory)]
    try:
        check_whole(directory)
    except ModelMissing as error:
        return Verdict(name, directory, str(error), len(known))
    for file in known:
        if check_file(directory, file) is None:
            problem = f"{directory / file.path} is damaged: its content is not what was downloaded."
            return Verdict(name, directory, problem, len(known))
    return Verdict(name, directory, None, len(known))


def _known(directory: Path) -> Iterator[RemoteFile]:
    """The files of which it is known what they should be."""
    if (record := read_record(directory)) is not None:
        for name, file in record.files.items():
            yield RemoteFile(name, file.size, file.sha256)
        return
    if directory.parent.name != "snapshots":
        return
    for path in directory.rglob("*"):
        # What is in large-file storage is called by its SHA-256, and the rest as git calls it.
        blob = path.resolve().name if path.is_symlink() else ""
        if not _HASH.fullmatch(blob):
            continue
        sha256, git_id = (blob, None) if len(blob) == 64 else (None, blob)
        yield RemoteFile(path.relative_to(directory).as_posix(), path.stat().st_size, sha256, git_id)
