"""Reads the directory of a speaker model, in either of the layouts in which they are published."""

import json
from pathlib import Path
from typing import Any

from deployments.engines.model_files import (
    COPY_AGAIN,
    ModelFiles,
    ModelFilesError,
    read_model_files,
    read_parameters,
)

_KINDS = {"cam++-sv": "CAMPPlus", "eres2netv2-sv": "ERes2NetV2"}
"""FunASR's classes by the names that ModelScope's own pipelines have for them."""
_OPTIONS = {
    "fbank_dim": "feat_dim",
    "emb_size": "embedding_size",
    "embed_dim": "embedding_size",
    "baseWidth": "baseWidth",
    "scale": "scale",
    "expansion": "expansion",
}


def read_speaker_files(model_dir: Path) -> ModelFiles:
    """Read a directory that FunASR can use, or one that only ModelScope's own pipelines can.

    The former has a ``config.yaml``, and ``configuration.json`` may name the file with the parameters
    (``campplus_cn_common.bin``); the latter has all that in ``configuration.json``.

    Raises:
        ModelFilesError: the directory or a file is missing or cannot be read.
    """
    model_dir = model_dir.expanduser().resolve()
    described = model_dir / "configuration.json"
    if (model_dir / "config.yaml").exists() or not described.is_file():
        return read_model_files(model_dir, needs_cmvn=False)
    try:
        description = json.loads(described.read_text(encoding="utf-8"))
        named = description.get("file_path_metas") or {}
        model: dict[str, Any] = dict(description.get("model") or {})
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelFilesError(described, f"not a JSON object of a model ({error})", COPY_AGAIN) from error
    if "config" in named or "pretrained_model" not in model:
        return read_model_files(model_dir, needs_cmvn=False)
    kind = str(model.get("type"))
    if kind not in _KINDS:
        problem = f"model.type: {kind} is not one of {', '.join(_KINDS)}"
        raise ModelFilesError(described, problem, "point SPEAKER_MODEL at a CAM++ or ERes2NetV2")
    options = dict(model.get("model_config") or {})
    conf = {name: options[theirs] for theirs, name in _OPTIONS.items() if theirs in options}
    parameters = read_parameters(model_dir / str(model["pretrained_model"]))
    return ModelFiles(model_dir, {"model": _KINDS[kind], "model_conf": conf}, parameters, (), None)
