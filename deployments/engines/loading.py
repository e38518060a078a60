"""Builds a FunASR network from a local model directory, strictly, silently and without a network.

FunASR's own ``AutoModel`` treats a missing or mis-shaped parameter as a printed warning, may look a name
up on a hub, and sets the process's seed and thread count. Here a directory that does not fit is an
exception that names the file and the remedy, and nothing but the model is touched.

Importing FunASR imports all of its models (about 5 s of CPU and 280 MB): an engine that can do with the
bare parameters reads them by :func:`deployments.engines.model_files.read_model_files` instead.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deployments.engines.model_files import (
    SAME_MODEL,
    ModelFiles,
    ModelFilesError,
    Parameters,
    read_model_files,
)

__all__ = ["FunAsrModel", "ModelFilesError", "build_network", "load_funasr_model"]

_TRAINING_ONLY = ("ctc.", "decoder.embed.")
"""Parameters that no forward pass at inference reads; exported checkpoints often leave them out."""


@dataclass(frozen=True, slots=True)
class FunAsrModel:
    """A FunASR network in evaluation mode, in fp32 on the CPU, with the files that it came from.

    ``frontend`` is FunASR's own feature extractor (``None`` if the config names none).
    """

    files: ModelFiles
    module: torch.nn.Module
    frontend: torch.nn.Module | None


def load_funasr_model(model_dir: Path, *, needs_cmvn: bool = True) -> FunAsrModel:
    """Build the network that ``model_dir/config.yaml`` describes and load ``model_dir/model.pt`` into it.

    The layout is that of :func:`read_model_files`; parameters stored in fp16 become fp32.

    Raises:
        ModelFilesError: a file is missing or unreadable, a class is unknown to FunASR, or a parameter that
            inference needs is missing or has another shape than the config asks for.
    """
    files = read_model_files(model_dir, needs_cmvn=needs_cmvn)
    module, frontend = build_network(files)
    _load_parameters(module, files.parameters)
    return FunAsrModel(files, module.eval().requires_grad_(False), frontend)


def build_network(files: ModelFiles) -> tuple[torch.nn.Module, torch.nn.Module | None]:
    """The network and the frontend that ``files.config`` describes, with FunASR's initial values.

    Raises:
        ModelFilesError: FunASR knows no such class, or ``files.cmvn`` has another size than the features.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # importing FunASR prints a notice about ffmpeg
        from funasr.register import tables
        from funasr.utils.misc import deep_update

    def registered(table: Mapping[str, Any], kind: str) -> Any:
        name = str(files.config[kind])
        if name not in table:
            remedy = "check the spelling; `pip install -U funasr` if the model is newer than FunASR"
            raise ModelFilesError(files.directory, f"FunASR knows no {kind} `{name}`", remedy)
        return table[name]

    known: dict[str, Any] = {"vocab_size": len(files.tokens), "token_list": list(files.tokens)}
    frontend = None
    if files.config.get("frontend"):
        frontend = registered(tables.frontend_classes, "frontend")(**files.section("frontend_conf"))
        known["input_size"] = frontend.output_size()
        if files.cmvn is not None and files.cmvn.shape[1] != known["input_size"]:
            problem = f"has {files.cmvn.shape[1]} values, the frontend {known['input_size']} features"
            raise ModelFilesError(Path(files.config["frontend_conf"]["cmvn_file"]), problem, SAME_MODEL)
    arguments: dict[str, Any] = {}
    deep_update(arguments, files.section("model_conf"))
    deep_update(arguments, {**files.config, **known, "device": "cpu", "model_path": str(files.directory)})
    model_class = registered(tables.model_classes, "model")
    with _random_state_kept():
        return model_class(**arguments), frontend


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    """Give the caller's random state back: initial values are drawn only to be overwritten."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _load_parameters(module: torch.nn.Module, parameters: Parameters) -> None:
    wanted = {
        name: value
        for name, value in module.state_dict().items()
        if name in parameters or not name.startswith(_TRAINING_ONLY)
    }
    module.load_state_dict(
        {name: parameters.take(name, *value.shape) for name, value in wanted.items()}, strict=False
    )
