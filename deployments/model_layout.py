"""What a model directory must hold: in ModelScope's layout, as ONNX graphs, or in that of transformers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deployments.engines.onnx_files import has_torch, onnx_file
from deployments.model_integrity import damage
from deployments.model_record import RECORD, UNFINISHED, read_record

CONFIG, WEIGHTS = "config.yaml", "model.pt"
"""What a directory in ModelScope's layout holds, unless its configuration.json has other names."""

_OLD_CONFIGS = ("vad.yaml", "punc.yaml")
"""What older ONNX directories call their configuration."""

_CONFIG, _SAFETENSORS, _INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_BESIDE = ("preprocessor_config.json", "tokenizer_config.json", "vocab.json", "merges.txt")
"""What the Qwen3 models need besides."""

COPY_AGAIN = "Copy or download the model again"


class ModelMissing(Exception):
    """A model is not there, or not whole. The message names the file and what to do."""


def check_whole(directory: Path, remedy: str = COPY_AGAIN) -> None:
    """Check that nothing that a model needs is missing, and that no file is cut off.

    Of large files a few kilobytes are read.

    Args:
        directory: of the model, in any layout.
        remedy: what to do about it: a sentence without its full stop.

    Raises:
        ModelMissing: something is; the message names it.
    """
    required = [*required_files(directory, remedy)]
    for path in required:
        if not path.is_file():
            raise ModelMissing(_absent(directory, path.name, remedy))
    for path in required:
        if (problem := damage(path)) is not None:
            raise ModelMissing(f"{path} is damaged: {problem}. {remedy}.")
    if (directory / UNFINISHED).exists():
        raise ModelMissing(f"The download of {directory.resolve()} has not been finished. {remedy}.")
    if (record := read_record(directory)) is None:
        return
    for name, file in record.files.items():
        path = directory / name
        if not path.is_file():
            raise ModelMissing(_absent(directory, name, remedy))
        if (size := path.stat().st_size) != file.size:
            raise ModelMissing(
                f"{path} has {size} bytes, and had {file.size} when it was downloaded. {remedy}; if you have "
                f"changed it on purpose, delete {directory / RECORD}."
            )


def is_whole(directory: Path) -> bool:
    """Whether it is a model with all that it needs."""
    try:
        check_whole(directory)
    except ModelMissing:
        return False
    return True


def _absent(directory: Path, name: str, remedy: str) -> str:
    # Hugging Face's client has the files that it has begun beside the snapshots.
    begun = [*directory.glob("*.incomplete"), *directory.parent.parent.glob("blobs/*.incomplete")]
    interrupted = ": its download was interrupted" if begun else ""
    return f"The model directory {directory.resolve()} has no {name}{interrupted}. {remedy}."


def required_files(directory: Path, remedy: str = COPY_AGAIN) -> Iterator[Path]:
    """The files without which nothing can be done with the model, whether they are there or not.

    Raises:
        ModelMissing: the list of the weights' files cannot be read.
    """
    if is_transformers_layout(directory):
        yield from _of_transformers(directory, remedy)
        return
    graph = onnx_file(directory)
    if graph is not None:
        # Live models have a second one, for the decoder; those with hotwords one for these.
        yield from {graph, *sorted(directory.glob("*.onnx"))}
    if graph is None or has_torch(directory):
        yield from _of_funasr(directory)
        return
    configs = [config_file(directory), *(directory / name for name in _OLD_CONFIGS)]
    yield next((path for path in configs if path.is_file()), configs[0])


def _of_funasr(directory: Path) -> Iterator[Path]:
    description = _description(directory)
    # Speaker models that were made for ModelScope's own pipelines say in configuration.json what others
    # say in config.yaml.
    if "pretrained_model" not in _section(description, "model"):
        yield config_file(directory)
    yield weights_file(directory)
    named = _section(description, "file_path_metas")
    for section in ("tokenizer_conf", "frontend_conf"):
        for name in _section(named, section).values():
            if isinstance(name, str):
                yield directory / name


def is_transformers_layout(directory: Path) -> bool:
    """Whether a directory is laid out as transformers does it, and not as FunASR."""
    return (directory / _CONFIG).is_file() and not (directory / CONFIG).is_file()


def config_file(directory: Path) -> Path:
    """Where a model directory says how its network is built; older speaker models have no such file."""
    return directory / str(_section(_description(directory), "file_path_metas").get("config", CONFIG))


def weights_file(directory: Path) -> Path:
    """Where a model directory has its parameters."""
    description = _description(directory)
    named, model = _section(description, "file_path_metas"), _section(description, "model")
    return directory / str(named.get("init_param") or model.get("pretrained_model") or WEIGHTS)


def _of_transformers(directory: Path, remedy: str) -> Iterator[Path]:
    yield directory / _CONFIG
    for name in _BESIDE:
        yield directory / name
    index = directory / _INDEX
    if not index.is_file():
        yield directory / _SAFETENSORS
        return
    yield index
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelMissing(f"{index} cannot be read ({error!r}). {remedy}.") from error
    for name in sorted(set(files)):
        yield directory / str(name)


def _section(description: dict[str, Any], name: str) -> dict[str, Any]:
    section = description.get(name)
    return section if isinstance(section, dict) else {}


def _description(directory: Path) -> dict[str, Any]:
    """``configuration.json``; empty where there is none, or where it is not one: its reader tells that."""
    try:
        description = json.loads((directory / "configuration.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return description if isinstance(description, dict) else {}
