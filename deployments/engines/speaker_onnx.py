"""Speaker models in ONNX Runtime: windows of speech in, voices out."""

from pathlib import Path

import torch
from torch import Tensor

from deployments.engines.model_errors import SAME_MODEL, ModelFilesError
from deployments.engines.onnx_session import OnnxSession, onnx_file
from deployments.engines.speaker_windows import SpeakerWindows

_BANDS = 80
_LEAST_FRAMES = 3
"""As many as PyTorch's network needs: fewer have no deviation over time."""


class SpeakerOnnxEngine(SpeakerWindows):
    """A :class:`~deployments.engines.base.SpeakerEngine` over a CAM++ (or ERes2NetV2) as an ONNX graph.

    There is no official export. What ``asr-serve models export`` writes takes ``features`` of shape
    ``(windows, frames, 80)``, log-mel bands less their mean over the window, and returns ``embedding``,
    ``(windows, dimensions)``. Any graph with one input and one output of these shapes is taken, whatever
    their names, as others have published them. No other file is needed.
    """

    def __init__(self, model_dir: Path, *, threads: int, device: str = "cpu") -> None:
        """``threads``: how many compute one call.

        Raises:
            ModelFilesError: the directory holds no such graph.
            ValueError: ``threads`` is less than one.
        """
        model_dir = model_dir.expanduser().resolve()
        path = onnx_file(model_dir)
        if path is None:
            raise ModelFilesError(model_dir, "holds no model.onnx or model_quant.onnx", SAME_MODEL)
        super().__init__(_Network(OnnxSession(path, threads=threads, device=device)), threads=threads)


class _Network:
    """See :class:`deployments.engines.speaker_windows.VoiceNetwork`."""

    def __init__(self, session: OnnxSession) -> None:
        shapes = list(session.inputs.values())
        if len(shapes) != 1 or len(session.outputs) != 1 or not _takes_frames(shapes[0]):
            problem = f"takes {session.inputs} and gives {', '.join(session.outputs)}, and not features of"
            problem += f" (windows, frames, {_BANDS}) and one embedding"
            raise ModelFilesError(session.path, problem, SAME_MODEL)
        self._session, (self._features,) = session, session.inputs
        self._batched = shapes[0][0] is None
        self.bands, self.least_frames = _BANDS, _LEAST_FRAMES
        self.dimensions = self.forward(torch.zeros(1, 150, _BANDS)).shape[1]

    def forward(self, features: Tensor) -> Tensor:
        """``(windows, frames, bands)`` to ``(windows, dimensions)``, fp32; ``least_frames`` or more."""
        if not self._batched and len(features) > 1:
            return torch.cat([self.forward(window) for window in features.split(1)])
        (voices,) = self._session.run({self._features: features.numpy()})
        return torch.from_numpy(voices).flatten(1)


def _takes_frames(shape: tuple[int | None, ...]) -> bool:
    return len(shape) == 3 and shape[1] is None and shape[2] in (None, _BANDS)
