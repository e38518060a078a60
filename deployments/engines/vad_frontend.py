"""Features of a recording that arrives in pieces: stacked log-mel frames, and their levels.

The result is that of FunASR's ``WavFrontendOnline`` (normalization apart, which the network does), however
the recording is cut: frame ``t`` is stacked with its neighbors, and the first and the last frame stand in
for neighbors before the begin and after the end.
"""

import numpy as np
import numpy.typing as npt
import torch

from deployments.engines.base import SAMPLE_RATE, Pcm
from deployments.engines.features import Frontend
from deployments.engines.half_rate import CONTEXT, halved_inside
from deployments.engines.model_files import ModelFiles
from deployments.engines.vad_recording import Floats, Recording


class VadFrontend:
    """The frontend that ``files`` ask for; ``with_levels``: also the level of each frame.

    ``rows`` is the number of values in a column of :class:`~deployments.engines.vad_recording.Recording`:
    the bands and, with levels, the level in dB.

    Raises:
        ValueError: ``files`` ask for a frontend that no detector of FunASR's goes with.
    """

    def __init__(self, files: ModelFiles, *, with_levels: bool) -> None:
        config = files.section("frontend_conf")
        shift_ms = int(config.get("frame_shift", 10))
        frame_ms = int(files.section("model_conf").get("frame_in_ms", 10))
        self._stack, self._bands = int(config.get("lfr_m", 1)), int(config.get("n_mels", 80))
        if int(config.get("lfr_n", 1)) != 1 or shift_ms != frame_ms or self._stack % 2 == 0:
            raise ValueError("frontend_conf: only an odd lfr_m, lfr_n 1, and frames of frame_in_ms")
        # Noise would depend on where a block begins. Stacking is done here, where neighbors may come later.
        self._log_mel = Frontend({**config, "dither": 0.0, "lfr_m": 1, "lfr_n": 1}, None)
        self._halves = self._log_mel.rate != SAMPLE_RATE
        self._length = int(config.get("frame_length", 25)) * self._log_mel.rate // 1000
        self._shift = shift_ms * self._log_mel.rate // 1000
        self._with_levels = with_levels
        self.rows = self._bands + with_levels

    def take(self, recording: Recording, samples: Pcm, *, final: bool) -> tuple[Floats, Floats]:
        """Go on with ``recording``: the frames that its next ``samples`` complete.

        Returns their features, of shape ``(lfr_m * bands, frames)``, and their levels in dB, ``(frames,)``
        (empty without levels). Two frames wait for their neighbors until ``final``, the end.
        """
        around = self._stack // 2
        columns = np.concatenate([recording.columns, self._new_columns(recording, samples, final)], axis=1)
        if recording.columns.shape[1] == 0:
            columns = np.concatenate([columns[:, :1]] * around + [columns], axis=1)
        if final:
            columns = np.concatenate([columns] + [columns[:, -1:]] * around, axis=1)
        frames = max(0, columns.shape[1] - 2 * around)
        recording.columns = columns[:, frames:]
        bands = columns[: self._bands]
        features = np.concatenate([bands[:, step : step + frames] for step in range(self._stack)])
        return features, columns[self._bands :, around : around + frames].ravel()

    def _new_columns(self, recording: Recording, samples: Pcm, final: bool) -> Floats:
        """The frames that ``samples`` complete, shape ``(rows, frames)``; what is left over stays behind."""
        waveform = self._waveform(recording, samples, final)
        count = max(0, (len(waveform) - self._length) // self._shift + 1)
        recording.samples = recording.samples[count * self._shift * (2 if self._halves else 1) :]
        if not count:
            return np.zeros((self.rows, 0), np.float32)
        heard = waveform[: (count - 1) * self._shift + self._length]
        levels = self._levels(heard) if self._with_levels else None
        columns: Floats = self._log_mel.features(torch.from_numpy(heard)).numpy().T
        return columns if levels is None else np.vstack([columns, levels])

    def _waveform(self, recording: Recording, samples: Pcm, final: bool) -> Floats:
        """All from the next frame on, at the model's rate; ``recording.samples`` take ``samples`` up."""
        if not self._halves:
            recording.samples = np.concatenate([recording.samples, samples])
            return recording.samples.astype(np.float32)
        silence = np.zeros(CONTEXT, np.int16)
        # What comes before the next frame is kept too, so nothing is kept at the begin only.
        known = recording.samples if len(recording.samples) else silence
        recording.samples = np.concatenate([known, samples])
        around = np.concatenate([recording.samples, silence]) if final else recording.samples
        return halved_inside(torch.from_numpy(around.astype(np.float32))).numpy()

    def _levels(self, waveform: Floats) -> npt.NDArray[np.float32]:
        """10 log10 of each frame's energy with full scale at 1, as in FunASR's ``ComputeDecibel``."""
        scaled = waveform / 32768
        frames = np.lib.stride_tricks.sliding_window_view(scaled, self._length)[:: self._shift]
        levels: npt.NDArray[np.float32] = 10 * np.log10(np.square(frames).sum(axis=1) + 1e-6)
        return levels.astype(np.float32)
