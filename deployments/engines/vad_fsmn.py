"""Voice-activity detection by FunASR's FSMN-VAD in PyTorch, for many recordings in one call."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from deployments.engines.fsmn import Fsmn
from deployments.engines.model_files import SAME_MODEL, ModelFiles, ModelFilesError, read_model_files
from deployments.engines.vad_detector import FsmnDetector, Posteriors, Stretch
from deployments.engines.vad_recording import Floats


class FsmnVadEngine(FsmnDetector):
    """A :class:`~deployments.engines.base.VadEngine` over the directory of a ``FsmnVADStreaming``.

    The spans of a recording are those of FunASR's own ``generate(max_end_silence_time=...)`` over the whole
    recording (which switches its dynamic silence schedule off), however it is cut into blocks and whatever
    else is in a call. They are multiples of the frame shift; one that is open at the end of the recording
    ends with the last whole frame, less than 25 ms before the last sample. Where FunASR fails, because a
    posterior is exactly 0 or 1, the engine does not.
    """

    def __init__(self, model_dir: Path, *, threads: int, device: str = "cpu") -> None:
        """``threads`` is how many torch uses in this process from now on.

        Raises:
            ModelFilesError: the directory does not hold such a model.
        """
        torch.set_num_threads(threads)
        files = read_model_files(model_dir)
        if files.config["model"] != "FsmnVADStreaming" or files.cmvn is None:
            raise ModelFilesError(files.directory, "is not an FsmnVADStreaming with a frontend", SAME_MODEL)
        super().__init__(files, _Network(files, torch.device(device)), threads=threads)


class _Network:
    """All stretches of a call laid end to end in one pass."""

    def __init__(self, files: ModelFiles, device: torch.device) -> None:
        self._device = device
        self._fsmn = Fsmn(files, device)
        self.memory_shape = self._fsmn.memory_shape
        self._silence = [int(output) for output in files.section("model_conf").get("sil_pdf_ids", [0])]

    def score(self, stretches: Sequence[Stretch]) -> list[tuple[Posteriors, Floats]]:
        """See :class:`~deployments.engines.vad_detector.SilenceNetwork`."""
        lengths = [stretch.features.shape[1] for stretch in stretches]
        features = torch.from_numpy(np.concatenate([stretch.features for stretch in stretches], axis=1))
        memories = torch.from_numpy(np.stack([stretch.memory for stretch in stretches]))
        scores, kept = self._fsmn(features.to(self._device), lengths, memories.to(self._device))
        silence = scores[self._silence].double().sum(dim=0).cpu().numpy()
        parts = np.split(silence, np.cumsum(lengths)[:-1])
        return list(zip(parts, kept.cpu().numpy(), strict=True))
