"""Where models are on this machine. Nothing here opens a network connection."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONFIG, WEIGHTS = "config.yaml", "model.pt"
"""What a model directory in ModelScope's layout holds, unless its configuration.json has other names."""


class ModelMissing(Exception):
    """A model directory is not there, or not whole. The message names the file and what to do."""


def find_model(reference: str, modelscope_path: Path) -> Path:
    """The absolute directory of a model.

    Args:
        reference: a directory, or a ModelScope id (``iic/…``) that has been downloaded before.
        modelscope_path: root of ModelScope's cache, under which models lie by their ids.

    Raises:
        ModelMissing: neither exists, or the directory lacks a file.
    """
    local = Path(reference).expanduser()
    cached = modelscope_path.expanduser() / reference
    # A directory wins over an id of the same name, as it does in FunASR and ModelScope.
    directory = local if local.is_dir() or local.is_absolute() else cached
    if not directory.is_dir():
        raise ModelMissing(
            f"There is no model at {local.resolve()}, and none named {reference!r} under {modelscope_path}. "
            "Give the path of a model directory, or download the model first "
            f"(`modelscope download --model {reference}`)."
        )
    for path in _required_files(directory):
        if not path.is_file():
            raise ModelMissing(
                f"The model directory {directory.resolve()} has no {path.name}. Copy or download the model "
                "again; a directory of ModelScope's PyTorch layout is needed."
            )
    return directory.resolve()


def config_file(directory: Path) -> Path:
    """Where a model directory says how its network is built; older speaker models have no such file."""
    return directory / str(_section(_description(directory), "file_path_metas").get("config", CONFIG))


def fingerprint(directory: Path) -> str:
    """What tells the weights of a model from those of any other, wherever they lie; 16 hexadecimal digits."""
    with weights_file(directory).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def weights_file(directory: Path) -> Path:
    """Where a model directory has its parameters."""
    description = _description(directory)
    named, model = _section(description, "file_path_metas"), _section(description, "model")
    return directory / str(named.get("init_param") or model.get("pretrained_model") or WEIGHTS)


def _required_files(directory: Path) -> Iterator[Path]:
    # Speaker models that were made for ModelScope's own pipelines say in configuration.json what others
    # say in config.yaml.
    if "pretrained_model" not in _section(_description(directory), "model"):
        yield config_file(directory)
    yield weights_file(directory)


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
