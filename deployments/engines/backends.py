"""Which of a model's forms a machine runs: PyTorch's parameters or an ONNX graph.

PyTorch is loaded when it is asked, not with this module, which what builds and routes imports, too.
"""

from pathlib import Path
from typing import Literal, get_args

from deployments.engines.base import Backend as RequestedBackend
from deployments.engines.base import Precision
from deployments.engines.model_errors import ModelFilesError
from deployments.engines.onnx_files import has_torch, onnx_file
from deployments.engines.onnx_weights import has_signed_weights

__all__ = ["Backend", "RequestedBackend", "choose_backend", "is_quantized"]

Backend = Literal["torch", "onnx"]

_TORCH_MISSING = "`asr-serve models pull` the PyTorch model, or set FUNASR_ENGINE=auto or onnx"
_ONNX_MISSING = "`asr-serve models export --quantize` the PyTorch model, or set FUNASR_ENGINE=auto or torch"
_MATRIX_UNITS = ("amx_bf16", "avx10_2")
"""Instructions that multiply bf16 several times faster than AVX512-BF16 does."""


def choose_backend(
    requested: RequestedBackend, directory: Path, device: str, precision: Precision = "auto"
) -> Backend:
    """The form in which to load the model in ``directory``.

    What is ``requested`` must be there; ``auto`` takes the only form that is there. Of both it takes

    - PyTorch on a GPU, for a ``precision`` that somebody asked for, and if no graph is quantized to int8;
    - PyTorch, in bf16, on a processor with AMX;
    - on one with AVX512-BF16 the graph, if its int8 weights are signed, as ``asr-serve models export`` makes
      them, and PyTorch, in bf16, if they are not;
    - the graph on any other processor, where PyTorch runs in fp32.

    ``docs/onnx.md`` has the figures. A directory that holds neither form is left to the reader of PyTorch's
    files, which says best what is missing.

    Raises:
        ModelFilesError: the directory does not hold the form that is requested.
        ValueError: ``requested`` is not one of the three.
    """
    if requested not in get_args(RequestedBackend):
        raise ValueError(f"backend must be one of {', '.join(get_args(RequestedBackend))}, not {requested!r}")
    directory = directory.expanduser()
    graph, parameters = onnx_file(directory), has_torch(directory)
    if requested == "onnx" and graph is None:
        raise ModelFilesError(directory, "holds no model_quant.onnx or model.onnx", _ONNX_MISSING)
    if requested == "torch" and graph is not None and not parameters:
        raise ModelFilesError(directory, "holds an ONNX graph only, no model.pt", _TORCH_MISSING)
    if requested != "auto":
        return requested
    if graph is None or not parameters:
        return "torch" if graph is None else "onnx"
    return "torch" if precision != "auto" or not _graph_is_faster(graph, device) else "onnx"


def is_quantized(graph: Path) -> bool:
    """Whether an ONNX file is, by its name, quantized to int8."""
    return graph.stem.endswith("_quant")


def _graph_is_faster(graph: Path, device: str) -> bool:
    if device != "cpu" or not is_quantized(graph):
        return False
    import torch

    from deployments.engines.precision import has_fast_bf16

    if not has_fast_bf16(torch.device(device)):
        return True
    capabilities = torch.cpu.get_capabilities()
    return not any(capabilities.get(name, False) for name in _MATRIX_UNITS) and has_signed_weights(graph)
