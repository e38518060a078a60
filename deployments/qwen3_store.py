"""Where Qwen3 models are on this machine, in the layout of their hubs. Nothing here opens a connection."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployments.model_layout import check_whole
from deployments.model_store import ModelMissing, locate, remedy

_CONFIG = "config.json"
_EXAMPLES = {False: "Qwen/Qwen3-ASR-0.6B", True: "Qwen/Qwen3-ForcedAligner-0.6B"}


def find_qwen3(reference: str, modelscope_path: Path, *, aligner: bool) -> Path:
    """The absolute directory of a Qwen3-ASR model, or of a Qwen3-ForcedAligner.

    Args:
        reference: a directory, a name of the catalogue, or a ModelScope or Hugging Face id (``Qwen/…``) that
            was downloaded before.
        modelscope_path: root of ModelScope's cache, under which models lie by their ids.
        aligner: which of the two it has to be.

    Raises:
        ModelMissing: there is none, it is not whole, or it is a model of another kind.
    """
    directory = locate(reference, modelscope_path)
    _check_kind(directory, _config(directory, remedy(reference)), aligner)
    check_whole(directory, remedy(reference))
    return directory.resolve()


def _config(directory: Path, what_to_do: str) -> dict[str, Any]:
    path = directory / _CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelMissing(
            f"The model directory {directory.resolve()} has no {_CONFIG}. {what_to_do}."
        ) from None
    except (OSError, ValueError) as error:
        raise ModelMissing(f"{path} cannot be read ({error}). {what_to_do}.") from error
    if not isinstance(config, dict):
        raise ModelMissing(f"{path} is not a JSON object. {what_to_do}.")
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
