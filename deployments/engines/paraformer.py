"""Paraformer of any kind, in the form that the machine runs best."""

from pathlib import Path

from deployments.engines.backends import choose_backend
from deployments.engines.base import AsrEngine, EngineOptions
from deployments.engines.model_files import read_config, read_file_names
from deployments.engines.onnx_files import has_torch

_WITH_HOTWORDS = ("SeacoParaformer", "ContextualParaformer")


def load(directory: Path, options: EngineOptions) -> AsrEngine:
    """Load ``directory``, which holds PyTorch's parameters, an ONNX graph, or both.

    Raises:
        ModelFilesError: it is incomplete, holds another kind of model, or not the form that is asked for.
        ValueError: an option has no such value.
    """
    requested = options.backend
    # Which form is the faster one is not what hotwords are chosen by: only parameters listen for them.
    if requested == "auto" and has_torch(directory) and _kind(directory) in _WITH_HOTWORDS:
        requested = "torch"
    if choose_backend(requested, directory, options.device, options.precision) == "onnx":
        from deployments.engines.paraformer_onnx import ParaformerOnnxEngine

        return ParaformerOnnxEngine(directory, threads=options.threads, device=options.device)
    from deployments.engines.paraformer_torch import ParaformerTorchEngine

    return ParaformerTorchEngine(
        directory, threads=options.threads, device=options.device, precision=options.precision
    )


def _kind(directory: Path) -> str:
    name = read_file_names(directory).get("config", "config.yaml")
    return str(read_config(directory / name)["model"])
