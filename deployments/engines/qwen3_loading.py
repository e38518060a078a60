"""Loads a Qwen3-ASR checkpoint, in the layout of the hub, with the classes of the qwen-asr package.

Those are imported when they are needed: the package brings a web interface and the dictionaries of two
languages along, which takes some seconds, and none of it can be imported alone.
"""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import torch

from deployments.engines.model_files import SAME_MODEL, ModelFilesError

TIED_HEAD = "thinker.lm_head.weight"
"""Need not be there: it is the embedding once more."""


def read_config(model_dir: Path, *, aligner: bool) -> dict[str, Any]:
    """The contents of ``config.json``, if it describes a Qwen3-ASR, or its aligner, in the hub's layout.

    Raises:
        ModelFilesError: it does not, or cannot be read.
    """
    path = model_dir / "config.json"
    kind = "Qwen3-ForcedAligner" if aligner else "Qwen3-ASR"
    try:
        config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFilesError(
            path, f"cannot be read: {error}", f"point to the directory of a {kind}"
        ) from error
    thinker = config.get("thinker_config")
    if not isinstance(thinker, dict):
        remedy = f"use a {kind} as published on the hub, without `-hf` in its name"
        raise ModelFilesError(path, "holds no thinker_config", remedy)
    if ("forced_aligner" in str(thinker.get("model_type"))) is not aligner:
        raise ModelFilesError(path, f"does not describe a {kind}", f"point to the directory of a {kind}")
    return config


def load_package_model(model_dir: Path, dtype: torch.dtype, device: torch.device, attention: str) -> Any:
    """The package's model in evaluation mode.

    ``attention``: a name that transformers' attention interface knows.

    Raises:
        ImportError: the package is not installed, or not beside this version of transformers.
        ModelFilesError: weights are missing, or do not fit.
    """
    backend = _package()
    try:
        model, info = backend.Qwen3ASRForConditionalGeneration.from_pretrained(
            str(model_dir),
            dtype=dtype,
            attn_implementation=attention,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelFilesError(model_dir, f"cannot be loaded: {error}", SAME_MODEL) from error
    tied = model.thinker.config.text_config.tie_word_embeddings
    missing = sorted(set(info["missing_keys"]) - ({TIED_HEAD} if tied else set()))
    if missing or info["mismatched_keys"]:
        problem = f"lacks weights, or has some of another shape: {[*missing, *info['mismatched_keys']][:3]}"
        raise ModelFilesError(model_dir, problem, SAME_MODEL)
    return model.eval().requires_grad_(requires_grad=False).to(device)


def load_package_processor(model_dir: Path) -> Any:
    """The package's processor: tokenizer and feature extractor.

    Raises:
        ImportError: as for :func:`load_package_model`.
        ModelFilesError: files are missing.
    """
    backend = _package()
    try:
        return backend.Qwen3ASRProcessor.from_pretrained(
            str(model_dir), local_files_only=True, fix_mistral_regex=True
        )
    except (OSError, ValueError) as error:
        raise ModelFilesError(model_dir, f"cannot be loaded: {error}", SAME_MODEL) from error


def _package() -> Any:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints advice on attention kernels
            from qwen_asr.core import transformers_backend
    except (ImportError, TypeError) as error:  # TypeError: beside transformers 5
        remedy = "install it beside asr-serve: pip install 'asr-serve[qwen]'"
        raise ImportError(f"the qwen-asr package cannot be imported ({error}); {remedy}") from error
    return transformers_backend
