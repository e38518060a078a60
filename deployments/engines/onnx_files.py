"""Which of the two formats a model directory holds. Reads names only, and imports neither PyTorch nor ONNX
Runtime, so that a command line that lists models stays quick.
"""

import json
from pathlib import Path
from typing import Any

_GRAPH_KEY = "onnx"
"""The entry of ``file_path_metas`` in ``configuration.json`` that gives ``model.onnx`` another name."""


def onnx_file(directory: Path, stem: str = "model") -> Path | None:
    """The graph ``stem`` of a directory: ``<stem>_quant.onnx`` where there is one, else ``<stem>.onnx``.

    Neither: for ``model``, what ``configuration.json`` names as ``file_path_metas.onnx``. ``None``: the
    directory holds no such graph.
    """
    names = [f"{stem}_quant.onnx", f"{stem}.onnx"]
    if stem == "model" and isinstance(named := _file_path_metas(directory).get(_GRAPH_KEY), str):
        names.append(named)
    return next((directory / name for name in names if (directory / name).is_file()), None)


def has_torch(directory: Path) -> bool:
    """Whether the directory holds PyTorch weights: ``model.pt``, or what ``configuration.json`` names."""
    named = [
        _file_path_metas(directory).get("init_param"),
        _section(directory, "model").get("pretrained_model"),
    ]
    return any(
        (directory / name).is_file() for name in [*named, "model.pt"] if isinstance(name, str) and name
    )


def _file_path_metas(directory: Path) -> dict[str, Any]:
    return _section(directory, "file_path_metas")


def _section(directory: Path, name: str) -> dict[str, Any]:
    """A mapping in ``configuration.json``; empty where there is none, or no such file, or a broken one."""
    try:
        description = json.loads((directory / "configuration.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    section = description.get(name) if isinstance(description, dict) else None
    return section if isinstance(section, dict) else {}
