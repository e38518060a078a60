"""Reads what lies beside the graph in a model directory of FunASR's ``-onnx`` kind.

Today's directories hold the ``config.yaml``, ``am.mvn`` and ``tokens.json`` of the PyTorch model. Older ones
call their configuration ``vad.yaml`` or ``punc.yaml``, have some of its sections under other names, and the
vocabulary inside of it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployments.engines.model_files import (
    COPY_AGAIN,
    ModelFiles,
    ModelFilesError,
    Parameters,
    read_cmvn,
    read_config,
    read_file_names,
    read_tokens,
)

_CONFIGS = ("config.yaml", "vad.yaml", "punc.yaml")
_TOKENS = ("tokens.json", "tokens.txt")
_OLD_SECTIONS = {"vad_post_conf": "model_conf"}


def read_onnx_directory(
    model_dir: Path, *, needs_cmvn: bool = False, needs_tokens: bool = False
) -> ModelFiles:
    """The configuration, vocabulary and normalization of ``model_dir``; its ``parameters`` are empty.

    ``configuration.json`` may give the files other names, as for PyTorch weights. What is not needed is read
    all the same where it is there. ``config["model"]`` may be missing, or be a name of older versions.

    Raises:
        ModelFilesError: the directory or a file that is needed is missing, or one cannot be read.
    """
    model_dir = model_dir.expanduser().resolve()
    if not model_dir.is_dir():
        raise ModelFilesError(model_dir, "there is no such directory", "check the configured model path")
    names = read_file_names(model_dir)
    config = _config(model_dir, names)
    tokens = _tokens(model_dir, names, config)
    if needs_tokens and not tokens:
        problem = "the file with the vocabulary is missing"
        raise ModelFilesError(model_dir / _TOKENS[0], problem, COPY_AGAIN)
    cmvn_file = model_dir / names.get("frontend_conf.cmvn_file", "am.mvn")
    cmvn = read_cmvn(cmvn_file) if needs_cmvn or cmvn_file.exists() else None
    return ModelFiles(model_dir, config, Parameters(model_dir, {}), tokens, cmvn)


def _config(model_dir: Path, names: Mapping[str, str]) -> dict[str, Any]:
    known = [names["config"]] if "config" in names else []
    there = [model_dir / name for name in (*known, *_CONFIGS) if (model_dir / name).is_file()]
    config = read_config(there[0] if there else model_dir / _CONFIGS[0], needs_model=False)
    for old, new in _OLD_SECTIONS.items():
        if old in config and new not in config:
            config[new] = config[old]
    if "punc_list" in config:
        config["model_conf"] = {"punc_list": config["punc_list"], **(config.get("model_conf") or {})}
    return config


def _tokens(model_dir: Path, names: Mapping[str, str], config: Mapping[str, Any]) -> tuple[str, ...]:
    for name in (names.get("tokenizer_conf.token_list"), *_TOKENS):
        if name and (model_dir / name).is_file():
            return _without_numbers(read_tokens(model_dir / name))
    inside = config.get("token_list")
    return tuple(map(str, inside)) if isinstance(inside, list) else ()


def _without_numbers(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """Some ``tokens.txt`` have each token's number after it."""
    numbered = [token.rpartition(" ") for token in tokens]
    if tokens and all(number == str(index) for index, (_, _, number) in enumerate(numbered)):
        return tuple(token for token, _, _ in numbered)
    return tokens
