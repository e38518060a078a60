"""Where models are on this machine. Nothing here opens a network connection."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.engines.onnx_files import onnx_file
from deployments.model_caches import hugging_face_cache, hugging_face_places, modelscope_places
from deployments.model_layout import (
    CONFIG,
    COPY_AGAIN,
    WEIGHTS,
    ModelMissing,
    check_whole,
    config_file,
    is_whole,
    weights_file,
)

if TYPE_CHECKING:
    from deployments.catalogue import ModelEntry

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "ModelMissing",
    "config_file",
    "directories",
    "find_model",
    "fingerprint",
    "locate",
    "present",
    "remedy",
    "weights_file",
]

_ROOT = Path(__file__).resolve().parents[1]


def find_model(reference: str, modelscope_path: Path, *, prefer_onnx: bool = False) -> Path:
    """The absolute directory of a model.

    Args:
        reference: a directory, a name or an alias of the catalogue, or an id on ModelScope or Hugging Face
            (``iic/…``) that has been downloaded before.
        modelscope_path: root of ModelScope's cache, under which models lie by their ids; the hubs' other
            caches are looked through after it.
        prefer_onnx: whether the ONNX directory of a name is taken where both are there.

    Raises:
        ModelMissing: there is none, or it lacks a file, or one is cut off.
    """
    directory = locate(reference, modelscope_path, prefer_onnx=prefer_onnx)
    check_whole(directory, remedy(reference))
    return directory.resolve()


def locate(reference: str, modelscope_path: Path, *, prefer_onnx: bool = False) -> Path:
    """As :func:`find_model`; but where none is whole, the first that is there.

    Raises:
        ModelMissing: there is none.
    """
    found = [path for path in _places(reference, modelscope_path, prefer_onnx) if path.is_dir()]
    if not found:
        known = _is_id(reference) or _entry(reference) is not None
        nowhere = f"at {Path(reference).expanduser().resolve()}"
        if known:
            nowhere = f"{reference} under {modelscope_path} or {hugging_face_cache()}"
        raise ModelMissing(f"There is no model {nowhere}. {remedy(reference, nowhere=True)}.")
    # A directory that the user names is meant, whatever is in it.
    if len(found) == 1 or found[0] == Path(reference).expanduser():
        return found[0]
    return next((path for path in found if is_whole(path)), found[0])


def present(entry: "ModelEntry", modelscope_path: Path, *, prefer_onnx: bool = False) -> Path | None:
    """The absolute directory of a model of the catalogue, if it is on this machine and whole."""
    places = _places_of(entry, modelscope_path, prefer_onnx)
    found = next((path for path in places if path.is_dir() and is_whole(path)), None)
    return None if found is None else found.resolve()


def remedy(reference: str, *, nowhere: bool = False) -> str:
    """What to do about a model that is missing or broken: a sentence without its full stop."""
    entry = _entry(reference)
    if entry is not None and entry.path is not None:
        return f"Its directory is {entry.path}: copy it there again, or mend the path where it is listed"
    name = reference if _is_id(reference) or entry is not None else None
    if name is None:
        return (
            "Give the path of a model directory, or a name of `asr-serve models list`"
            if nowhere
            else COPY_AGAIN
        )
    pull = f"`asr-serve models pull {name}`"
    if not nowhere:
        return f"Run {pull}, which fetches what is wrong again, or copy the model again"
    return (
        f"Download it with {pull} (or let the start do it: DOWNLOAD_MODELS=true), or give the path of a "
        "model directory"
    )


def fingerprint(directory: Path) -> str:
    """What tells the weights of a model from those of any other, wherever they lie; 16 hexadecimal digits."""
    weights, graph = weights_file(directory), onnx_file(directory)
    with (graph if graph is not None and not weights.is_file() else weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _places(reference: str, modelscope_path: Path, prefer_onnx: bool) -> Iterator[Path]:
    # A directory wins over an id of the same name, as it does in FunASR, ModelScope and transformers.
    local = Path(reference).expanduser()
    yield local
    if local.is_dir() or local.is_absolute():
        return
    entry = _entry(reference)
    if entry is None or _is_id(reference):
        yield from _places_of_id(reference, modelscope_path)
    if entry is None:
        return
    same = [
        each for each in entry.ids if each.partition("/")[2].lower() == reference.partition("/")[2].lower()
    ]
    if not _is_id(reference):
        yield from _places_of(entry, modelscope_path, prefer_onnx)
    else:
        # The same id, in the letters in which it is written.
        for identifier in same:
            yield from _places_of_id(identifier, modelscope_path)


def _places_of(entry: "ModelEntry", modelscope_path: Path, prefer_onnx: bool) -> Iterator[Path]:
    if entry.path is not None:
        yield Path(entry.path) if Path(entry.path).is_dir() else _ROOT / entry.path
    first, last = (entry.onnx, ()) if prefer_onnx else ((), entry.onnx)
    for identifier in (*first, *entry.modelscope, *entry.huggingface, *last):
        yield from _places_of_id(identifier, modelscope_path)


def _places_of_id(identifier: str, modelscope_path: Path) -> Iterator[Path]:
    if _is_id(identifier):
        yield from modelscope_places(identifier, modelscope_path)
        yield from hugging_face_places(identifier)


def _is_id(reference: str) -> bool:
    owner, _, name = reference.partition("/")
    return bool(owner and name) and "/" not in name and not owner.startswith((".", "~"))


def _entry(reference: str) -> "ModelEntry | None":
    # Reading the catalogue takes some 0.1 s, which a directory need not wait for.
    from deployments.catalogue import load_catalogue

    return load_catalogue().find(reference)


def directories(entry: "ModelEntry", modelscope_path: Path) -> list[Path]:
    """All directories of this machine in which a model of the catalogue lies, whole or not, each once."""
    found: dict[Path, Path] = {}
    for path in _places_of(entry, modelscope_path, False):
        if path.is_dir():
            found.setdefault(path.resolve(), path)
    return list(found.values())
