"""Reads a model directory in the ModelScope layout: configuration, parameters, vocabulary, normalization.

Needs no FunASR (importing it costs about 5 s and 280 MB in every process) and no network. What is wrong
with a directory is an exception that names the file and the remedy.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import OmegaConf

from deployments.engines.model_errors import COPY_AGAIN, SAME_MODEL, ModelFilesError

__all__ = [
    "COPY_AGAIN",
    "SAME_MODEL",
    "SENTENCEPIECE",
    "ModelFiles",
    "ModelFilesError",
    "Parameters",
    "read_cmvn",
    "read_config",
    "read_file_names",
    "read_model_files",
    "read_parameters",
    "read_tokens",
    "sentencepiece_file",
]

SENTENCEPIECE = "SentencepiecesTokenizer"
"""The tokenizer whose vocabulary is a SentencePiece model."""

_PIECES = "chn_jpn_yue_eng_ko_spectok.bpe.model"
_WRAPPERS = ("state_dict", "model_state_dict", "model")


class Parameters(Mapping[str, torch.Tensor]):
    """The tensors of one checkpoint, by name, as they are stored (fp32 or fp16, on the CPU)."""

    def __init__(self, path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        self.path = path
        self._tensors = dict(tensors)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def take(self, name: str, *shape: int) -> torch.Tensor:
        """The parameter ``name`` in fp32.

        Raises:
            ModelFilesError: there is none of that name, or it has another shape.
        """
        if name not in self._tensors:
            raise ModelFilesError(self.path, f"lacks the parameter {name}", SAME_MODEL)
        tensor = self._tensors[name]
        if tuple(tensor.shape) != shape:
            problem = f"{name} has the shape {tuple(tensor.shape)}, but config.yaml asks for {shape}"
            raise ModelFilesError(self.path, problem, SAME_MODEL)
        return tensor.float()


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What one model directory holds.

    ``config`` is ``config.yaml`` with the directory's own files filled in. ``tokens`` is empty for a model
    without a vocabulary. ``cmvn`` has shape ``(2, features)``, float32: what is added to each feature, then
    what it is multiplied by; ``None`` for a model without ``am.mvn``.
    """

    directory: Path
    config: dict[str, Any]
    parameters: Parameters
    tokens: tuple[str, ...]
    cmvn: npt.NDArray[np.float32] | None

    def section(self, name: str) -> dict[str, Any]:
        """The mapping ``name`` of the config, such as ``encoder_conf``; empty if it is absent or null."""
        return dict(self.config.get(name) or {})


def read_model_files(model_dir: Path, *, needs_cmvn: bool = True) -> ModelFiles:
    """Read ``model_dir``, a directory in ModelScope's layout.

    That is: ``config.yaml``, ``model.pt``, ``tokens.json`` where a tokenizer is configured (a SentencePiece
    model, ``tokenizer_conf.bpemodel``, where the tokenizer is one of those), ``am.mvn`` where
    a frontend is configured and ``needs_cmvn`` is true. ``configuration.json``, if there, may give these
    files other names (its ``file_path_metas``).

    Raises:
        ModelFilesError: the directory or a file is missing or cannot be read.
    """
    model_dir = model_dir.expanduser().resolve()
    if not model_dir.is_dir():
        raise ModelFilesError(model_dir, "there is no such directory", "check the configured model path")
    names = read_file_names(model_dir)
    config = read_config(model_dir / names.get("config", "config.yaml"))
    parameters = read_parameters(model_dir / names.get("init_param", "model.pt"))
    tokens: tuple[str, ...] = ()
    if config.get("tokenizer") == SENTENCEPIECE:
        pieces = sentencepiece_file(model_dir, names)
        tokens = _read_pieces(pieces)
        config["tokenizer_conf"] = {**(config.get("tokenizer_conf") or {}), "bpemodel": str(pieces)}
    elif config.get("tokenizer"):
        token_file = model_dir / names.get("tokenizer_conf.token_list", "tokens.json")
        tokens = read_tokens(token_file)
        config["tokenizer_conf"] = {**(config.get("tokenizer_conf") or {}), "token_list": str(token_file)}
    cmvn: npt.NDArray[np.float32] | None = None
    cmvn_file = model_dir / names.get("frontend_conf.cmvn_file", "am.mvn")
    if config.get("frontend") and (needs_cmvn or cmvn_file.exists()):
        cmvn = read_cmvn(cmvn_file)
        config["frontend_conf"] = {**(config.get("frontend_conf") or {}), "cmvn_file": str(cmvn_file)}
    return ModelFiles(model_dir, config, parameters, tokens, cmvn)


def read_cmvn(path: Path) -> npt.NDArray[np.float32]:
    """Read a Kaldi nnet1 text ``am.mvn``: shape ``(2, features)``, float32, the shift then the scale.

    Raises:
        ModelFilesError: the file is missing or is not one.
    """
    lines = _existing(path, "the feature normalization").read_text("utf-8", errors="replace").splitlines()
    rows: dict[str, list[float]] = {}
    for line, following in itertools.pairwise(lines):
        name, values = line.split(maxsplit=1)[:1], following.split()
        if name in (["<AddShift>"], ["<Rescale>"]) and values[:1] == ["<LearnRateCoef>"]:
            rows[name[0]] = [float(value) for value in values[3:-1]]
    shift, scale = rows.get("<AddShift>", []), rows.get("<Rescale>", [])
    if not shift or len(shift) != len(scale):
        raise ModelFilesError(path, "no <AddShift> and <Rescale> of one length in it", COPY_AGAIN)
    return np.array([shift, scale], dtype=np.float32)


def _existing(path: Path, what: str) -> Path:
    if not path.is_file():
        raise ModelFilesError(path, f"the file with {what} is missing", COPY_AGAIN)
    return path


def read_file_names(model_dir: Path) -> dict[str, str]:
    """The ``file_path_metas`` of ``configuration.json`` whose files exist, keyed by dotted path.

    Raises:
        ModelFilesError: it is not a JSON object.
    """
    path = model_dir / "configuration.json"
    if not path.is_file():
        return {}
    try:
        metas = json.loads(path.read_text(encoding="utf-8")).get("file_path_metas") or {}
    except (ValueError, AttributeError) as error:
        raise ModelFilesError(path, f"not a JSON object ({error})", COPY_AGAIN) from error
    flat: dict[str, str] = {}
    for key, value in metas.items():
        entries = value.items() if isinstance(value, dict) else [("", value)]
        for name, file in entries:
            if isinstance(file, str) and (model_dir / file).exists():
                flat[f"{key}.{name}".rstrip(".")] = file
    return flat


def read_config(path: Path, *, needs_model: bool = True) -> dict[str, Any]:
    """Read a ``config.yaml``; ``needs_model``: it has to say of which class the model is.

    Raises:
        ModelFilesError: it is missing, no mapping, or says nothing of a class.
    """
    _existing(path, "the architecture")
    try:
        config = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except Exception as error:  # a YAML, an OmegaConf or an encoding error: all mean one thing here
        raise ModelFilesError(path, f"cannot be read as YAML ({error})", COPY_AGAIN) from error
    if not isinstance(config, dict) or (needs_model and not isinstance(config.get("model"), str)):
        raise ModelFilesError(path, "has no `model:` entry", "use a FunASR model's own config.yaml")
    return {str(key): value for key, value in config.items()}


def read_tokens(path: Path) -> tuple[str, ...]:
    """Read a vocabulary: a JSON list, or a ``.txt`` with a token in each line.

    Raises:
        ModelFilesError: it is missing or neither.
    """
    _existing(path, "the vocabulary")
    try:
        text = path.read_text(encoding="utf-8")
        tokens = text.splitlines() if path.suffix == ".txt" else json.loads(text)
    except ValueError as error:
        raise ModelFilesError(path, f"cannot be read as a vocabulary ({error})", COPY_AGAIN) from error
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ModelFilesError(path, "is not a JSON list of strings", COPY_AGAIN)
    return tuple(tokens)


def sentencepiece_file(model_dir: Path, names: Mapping[str, str]) -> Path:
    """The SentencePiece model of a directory, which may be missing; ``names`` is its ``file_path_metas``."""
    named = names.get("tokenizer_conf.bpemodel")
    if named is not None:
        return model_dir / named
    return next(iter(sorted(model_dir.glob("*bpe.model"))), model_dir / _PIECES)


def _read_pieces(path: Path) -> tuple[str, ...]:
    from sentencepiece import SentencePieceProcessor

    _existing(path, "the vocabulary")
    pieces = SentencePieceProcessor()
    try:
        pieces.Load(str(path))
    except (OSError, RuntimeError) as error:
        raise ModelFilesError(path, f"cannot be read as a vocabulary ({error})", COPY_AGAIN) from error
    return tuple(pieces.IdToPiece(number) for number in range(pieces.GetPieceSize()))


def read_parameters(path: Path) -> Parameters:
    """Read a checkpoint.

    Raises:
        ModelFilesError: it is missing or holds no parameters.
    """
    _existing(path, "the model's parameters")
    try:
        # Mapped, not read: several replicas then share one copy of the file in memory while they load.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ... for a bad file
        raise ModelFilesError(path, f"cannot be read as PyTorch weights ({error})", COPY_AGAIN) from error
    for wrapper in _WRAPPERS:
        state = state.get(wrapper, state) if isinstance(state, dict) else state
    if not isinstance(state, dict):
        raise ModelFilesError(path, "holds no dictionary of parameters", COPY_AGAIN)
    tensors = {str(key).removeprefix("module."): value for key, value in state.items()}
    return Parameters(path, {key: value for key, value in tensors.items() if isinstance(value, torch.Tensor)})
