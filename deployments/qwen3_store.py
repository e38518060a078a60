"""Where Qwen3 models are on this machine, in the layout of their hubs. Nothing here opens a connection."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from deployments.model_store import ModelMissing

_CONFIG, _WEIGHTS, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_BESIDE = ("preprocessor_config.json", "tokenizer_config.json", "vocab.json", "merges.txt")
_EXAMPLES = {False: "Qwen/Qwen3-ASR-0.6B", True: "Qwen/Qwen3-ForcedAligner-0.6B"}


def find_qwen3(reference: str, modelscope_path: Path, *, aligner: bool) -> Path:
    """The absolute directory of a Qwen3-ASR model, or of a Qwen3-ForcedAligner.

    Args:
        reference: a directory, or a ModelScope or Hugging Face id (``Qwen/…``) that was downloaded before.
        modelscope_path: root of ModelScope's cache, under which models lie by their ids.
        aligner: which of the two it has to be.

    Raises:
        ModelMissing: there is none, it lacks a file, or it is a model of another kind.
    """
    directory = next((path for path in _places(reference, modelscope_path) if path.is_dir()), None)
    if directory is None:
        raise ModelMissing(
            f"There is no model at {Path(reference).expanduser().resolve()}, and none named {reference!r} "
            f"under {modelscope_path} or {_hugging_face_cache()}. Give the path of a model directory, or "
            f"download the model first (`modelscope download --model {_EXAMPLES[aligner]}`)."
        )
    config = _config(directory)
    _check_kind(directory, config, aligner)
    for path in _required(directory):
        if not path.is_file():
            raise ModelMissing(
                f"The model directory {directory.resolve()} has no {path.name}. Copy or download the model "
                "again."
            )
    return directory.resolve()


def _places(reference: str, modelscope_path: Path) -> Iterator[Path]:
    # A directory wins over an id of the same name, as it does in ModelScope and transformers.
    local = Path(reference).expanduser()
    yield local
    if local.is_absolute():
        return
    cached = modelscope_path.expanduser()
    yield cached / reference
    # ModelScope writes its directories so, with or without a link of the right name beside them.
    yield cached / reference.replace(".", "___")
    yield from _snapshots(_hugging_face_cache() / f"models--{reference.replace('/', '--')}")


def _snapshots(model: Path) -> Iterator[Path]:
    """What ``main`` was when it was downloaded, else the newest that there is."""
    snapshots = model / "snapshots"
    with suppress(OSError):
        yield snapshots / (model / "refs" / "main").read_text(encoding="utf-8").strip()
    if snapshots.is_dir():
        yield from sorted(snapshots.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)


def _hugging_face_cache() -> Path:
    """As ``huggingface_hub`` finds it."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(home).expanduser() / "hub"


def _config(directory: Path) -> dict[str, Any]:
    path = directory / _CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelMissing(
            f"The model directory {directory.resolve()} has no {_CONFIG}. Copy or download the model again."
        ) from None
    except (OSError, ValueError) as error:
        raise ModelMissing(f"{path} cannot be read ({error}). Copy or download the model again.") from error
    if not isinstance(config, dict):
        raise ModelMissing(f"{path} is not a JSON object. Copy or download the model again.")
    return config


def _check_kind(directory: Path, config: Mapping[str, Any], aligner: bool) -> None:
    wanted = f"one such as {_EXAMPLES[aligner]} is needed"
    thinker = config.get("thinker_config")
    if not isinstance(thinker, dict):
        # Loaders take such a directory too, and leave its weights random.
        if config.get("model_type") == "qwen3_asr":
            reason = "is in the layout of transformers (those whose names end in -hf)"
        else:
            reason = f"holds a model of the type {config.get('model_type')!s:.40}"
        raise ModelMissing(f"The model in {directory.resolve()} {reason}; {wanted}.")
    if ("forced_aligner" in str(thinker.get("model_type"))) is not aligner:
        kind = "recognizes speech and aligns nothing" if aligner else "is a forced aligner and writes no text"
        raise ModelMissing(f"The model in {directory.resolve()} {kind}; {wanted}.")


def _required(directory: Path) -> Iterator[Path]:
    for name in _BESIDE:
        yield directory / name
    index = directory / _INDEX
    if not index.is_file():
        yield directory / _WEIGHTS
        return
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelMissing(
            f"{index} cannot be read ({error!r}). Copy or download the model again."
        ) from error
    for name in sorted(set(files)):
        yield directory / str(name)
