"""SenseVoiceSmall, in the form that the machine runs best."""

from pathlib import Path

from deployments.engines.backends import choose_backend
from deployments.engines.base import AsrEngine, EngineOptions


def load(directory: Path, options: EngineOptions) -> AsrEngine:
    """Load ``directory``, which holds PyTorch's parameters, an ONNX graph, or both.

    Raises:
        ModelFilesError: it is incomplete, holds another kind of model, or not the form that is asked for.
        ValueError: an option has no such value.
    """
    if choose_backend(options.backend, directory, options.device, options.precision) == "onnx":
        from deployments.engines.sensevoice_onnx import SenseVoiceOnnxEngine

        return SenseVoiceOnnxEngine(directory, threads=options.threads, device=options.device)
    from deployments.engines.sensevoice_torch import SenseVoiceTorchEngine

    return SenseVoiceTorchEngine(
        directory, threads=options.threads, device=options.device, precision=options.precision
    )
