"""Speaker models in PyTorch: windows of speech in, voices out."""

from pathlib import Path

import torch

from deployments.engines.model_files import ModelFiles, ModelFilesError
from deployments.engines.precision import Precision, resolve_precision
from deployments.engines.sanm import Placement
from deployments.engines.speaker_campplus import CampplusNetwork
from deployments.engines.speaker_eres2net import Eres2NetV2Network
from deployments.engines.speaker_files import read_speaker_files
from deployments.engines.speaker_layers import SpeakerNetwork
from deployments.engines.speaker_windows import SpeakerWindows


class SpeakerTorchEngine(SpeakerWindows):
    """A :class:`~deployments.engines.base.SpeakerEngine` for FunASR's ``CAMPPlus`` and ``ERes2NetV2``."""

    def __init__(
        self, model_dir: Path, *, threads: int, device: str = "cpu", precision: Precision = "auto"
    ) -> None:
        """Load a model directory in ModelScope's layout.

        ``threads``: how many threads PyTorch uses for this engine's calls (a setting of the process).

        Raises:
            ModelFilesError: the directory is incomplete, its files do not fit each other, or it holds
                another kind of model.
            ValueError: ``precision`` is unknown, or ``threads`` is less than one.
        """
        place = torch.device(device)
        self.dtype = resolve_precision(precision, place)
        network = _network(read_speaker_files(model_dir), Placement(self.dtype, place))
        super().__init__(network, threads=threads, device=device)


def _network(files: ModelFiles, at: Placement) -> SpeakerNetwork:
    match str(files.config["model"]):
        case "CAMPPlus":
            return CampplusNetwork(files, at)
        case "ERes2NetV2":
            return Eres2NetV2Network(files, at)
        case other:
            problem = f"model: {other} is neither CAMPPlus nor ERes2NetV2"
            raise ModelFilesError(files.directory, problem, "point SPEAKER_MODEL at a CAM++ or ERes2NetV2")
