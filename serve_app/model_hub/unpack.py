"""Brings models out of a tar to where a server finds them: all of it checked, or nothing of it."""

import hashlib
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from deployments.model_caches import hugging_face_cache, hugging_face_repository, masked
from deployments.model_layout import ModelMissing, check_whole
from deployments.model_record import write_record
from serve_app.model_hub.archive import (
    MANIFEST,
    MANIFEST_LIMIT,
    BoundedReader,
    Manifest,
    PackedFile,
    PackedModel,
    parse_manifest,
    reading,
)
from serve_app.model_hub.errors import ModelHubError

STAGING = ".unpacking-"
"""What the names of directories begin with in which models are put together."""

_HEADERS = 4 << 20
"""Bytes that may be read for the header of a member; reading ahead counts too."""
_BLOCK = 1 << 20
_RESERVE = 64 << 20
"""Bytes of disk that stay free."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """``directory`` of a model; ``replaced``: whether another one was there."""

    name: str
    directory: Path
    replaced: bool


def unpack(source: str, modelscope_path: Path, local_dir: Path | None = None) -> list[Unpacked]:
    """Unpack a tar of :func:`serve_app.model_hub.pack.pack`.

    Every file is compared with its hash. Members that are no plain files, that the manifest does not name, or
    that are larger than it says, end it. Until all is here and checked, nothing is where a server would find
    it; what was there before stays.

    Args:
        source: the tar, uncompressed, or compressed by gzip or zstd; ``-``: standard input.
        modelscope_path: root of ModelScope's cache, for models from there; others go to Hugging Face's.
        local_dir: where the models go, each in a directory of its name; not given: into the caches.

    Raises:
        ModelHubError: it is not such a tar, or damaged, or there is no room for it.
    """
    try:
        with reading(source) as stream:
            stream.allow(_HEADERS)
            with tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK) as tar:
                manifest = _manifest(tar, stream)
                targets = [_target(model, modelscope_path, local_dir) for model in manifest.models]
                with _staging(manifest, targets) as staged:
                    _extract(tar, stream, manifest, staged)
                    _check(manifest, staged)
                    return _move(manifest, staged, targets)
    except (tarfile.TarError, ModelHubError) as error:
        raise ModelHubError(f"{source} was not unpacked. {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, ModelHubError) else f"It is damaged, or no tar: {error}."


def _manifest(tar: tarfile.TarFile, stream: BoundedReader) -> Manifest:
    member = tar.next()
    if member is None or member.name != MANIFEST or not member.isreg() or member.size > MANIFEST_LIMIT:
        raise ModelHubError(
            f"It does not begin with a {MANIFEST}, so `asr-serve models pack` did not make it."
        )
    return parse_manifest(_content(tar, member, stream).read())


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, stream: BoundedReader) -> IO[bytes]:
    stream.allow(member.size + _HEADERS)
    content = tar.extractfile(member)
    assert content is not None, "whoever calls has seen that it is a plain file"
    return content


@dataclass(frozen=True, slots=True)
class _Target:
    """``directory`` for a model, under ``root``, which is on the same disk."""

    root: Path
    directory: Path


def _target(model: PackedModel, modelscope_path: Path, local_dir: Path | None) -> _Target:
    if local_dir is not None:
        root = local_dir.expanduser().resolve()
        return _Target(root, root / model.id.partition("/")[2])
    if model.hub == "huggingface":
        snapshots = hugging_face_repository(model.id) / "snapshots"
        return _Target(hugging_face_cache(), snapshots / model.revision)
    root = modelscope_path.expanduser()
    return _Target(root, root / masked(model.id))


@contextmanager
def _staging(manifest: Manifest, targets: Sequence[_Target]) -> Iterator[list[Path]]:
    """A directory for each model, on the disk of its target; gone at the end."""
    if len({target.directory for target in targets}) != len(targets):
        raise ModelHubError("Two of its models would go into one directory.")
    with ExitStack() as stack:
        made: dict[Path, Path] = {}
        for root in {target.root for target in targets}:
            root.mkdir(parents=True, exist_ok=True)
            needed = sum(
                model.size
                for model, target in zip(manifest.models, targets, strict=True)
                if target.root == root
            )
            if (free := shutil.disk_usage(root).free) < needed + _RESERVE:
                raise ModelHubError(
                    f"It needs {needed / 1e6:.0f} MB in {root}, and {free / 1e6:.0f} MB of the disk are free."
                )
            made[root] = Path(tempfile.mkdtemp(prefix=STAGING, dir=root))
            stack.callback(shutil.rmtree, made[root], ignore_errors=True)
        yield [made[target.root] / str(number) for number, target in enumerate(targets)]


def _extract(tar: tarfile.TarFile, stream: BoundedReader, manifest: Manifest, staged: Sequence[Path]) -> None:
    expected = {
        model.prefix + file.path: (directory / file.path, file)
        for model, directory in zip(manifest.models, staged, strict=True)
        for file in model.files
    }
    while expected:
        stream.allow(_HEADERS)
        if (member := tar.next()) is None:
            raise ModelHubError(f"It ends before {next(iter(expected))}: it is cut off.")
        if not member.isreg() or member.name not in expected:
            raise ModelHubError(f"It holds {member.name!r:.200}, of which its {MANIFEST} knows nothing.")
        path, file = expected.pop(member.name)
        if member.size != file.size:
            raise ModelHubError(f"{member.name} has {member.size} bytes, and should have {file.size}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(_content(tar, member, stream), path, file)


def _write(content: IO[bytes], path: Path, file: PackedFile) -> None:
    sha256 = hashlib.sha256()
    with path.open("xb") as target:
        while block := content.read(_BLOCK):
            sha256.update(block)
            target.write(block)
    if sha256.hexdigest() != file.sha256:
        raise ModelHubError(f"{file.path} is damaged: its content does not have the SHA-256 of the manifest.")


def _check(manifest: Manifest, staged: Sequence[Path]) -> None:
    for model, directory in zip(manifest.models, staged, strict=True):
        write_record(directory, model.record())
        try:
            check_whole(directory)
        except ModelMissing as error:
            raise ModelHubError(f"{model.id} cannot be used: {error}") from error


def _move(manifest: Manifest, staged: Sequence[Path], targets: Sequence[_Target]) -> list[Unpacked]:
    """Put each model in its place by renaming: a server that starts meanwhile sees the old one or the new."""
    done = []
    for model, new, target in zip(manifest.models, staged, targets, strict=True):
        place = target.directory
        place.parent.mkdir(parents=True, exist_ok=True)
        replaced = place.exists() or place.is_symlink()
        if replaced:
            old = new.with_name(f"{new.name}-old")
            place.rename(old)
        try:
            new.rename(place)
        except OSError:
            if replaced:
                old.rename(place)
            raise
        if model.hub == "huggingface" and place.parent.name == "snapshots":
            reference = place.parents[1] / "refs" / "main"
            reference.parent.mkdir(exist_ok=True)
            reference.write_text(model.revision, encoding="utf-8")
        done.append(Unpacked(model.name, place, replaced))
    return done
