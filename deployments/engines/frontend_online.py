"""Features of live streams, chunk by chunk, for all streams of a step at once.

What FunASR's ``WavFrontendOnline`` gives. Feature row ``t`` stacks the seven frames of 10 ms around frame
``6 t``, so a chunk needs the last 30 ms before it; the first frame stands in for frames before the begin,
the last one for frames after the end. Unlike FunASR, nothing but samples is carried from chunk to chunk:
recomputing the frame in which two chunks overlap is cheaper than keeping it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deployments.engines.base import SAMPLE_RATE, Pcm
from deployments.engines.features import Frontend

FRAME_SAMPLES = 960
"""Samples of one feature row, 60 ms."""
CARRIED_SAMPLES = 480
"""Samples before a chunk that its first rows need, 30 ms; zeros at the begin of a stream."""

_STACK, _STRIDE = 7, 6
_SHIFT, _LENGTH = 160, 400
_AHEAD = CARRIED_SAMPLES // _SHIFT
_NOISE_PERIOD = 1 << 17
_NOISE_SEED = 0


class OnlineFrontend:
    """A FunASR ``frontend_conf`` of class ``WavFrontendOnline``; for dither see :class:`Frontend`."""

    def __init__(self, conf: dict[str, Any], cmvn: npt.NDArray[np.float32] | None) -> None:
        """``cmvn``: shift and scale, shape ``(2, features)``.

        Raises:
            ValueError: ``conf`` asks for other frames than the published models have.
        """
        expected = {
            "lfr_m": _STACK,
            "lfr_n": _STRIDE,
            "frame_length": 25,
            "frame_shift": 10,
            "fs": SAMPLE_RATE,
        }
        if any(int(conf.get(key, 0 if "lfr" in key else value)) != value for key, value in expected.items()):
            raise ValueError(
                "frontend_conf: only fs 16000, lfr_m 7, lfr_n 6, frame_length 25, frame_shift 10"
            )
        # FunASR's online frontend scales samples to int16 whatever `upsacle_samples` says.
        self._frontend = Frontend({**conf, "upsacle_samples": True, "dither": 0.0}, cmvn)
        self.size, self.frame_ms = self._frontend.size, self._frontend.frame_ms
        dither = float(conf.get("dither", 1.0))
        generator = torch.Generator().manual_seed(_NOISE_SEED)
        period = torch.randn(_NOISE_PERIOD, generator=generator) * dither
        # Twice, so that any chunk's noise is one slice of it.
        self._noise = period.repeat(2).numpy() if dither else None

    def rows(self, samples: int) -> int:
        """Feature rows of a chunk of so many samples, the carried ones included, at least 1440."""
        frames = (samples - _LENGTH) // _SHIFT + 1
        return -(-(frames - _AHEAD) // _STRIDE)

    def __call__(self, windows: Sequence[Pcm], positions: Sequence[int]) -> Tensor:
        """fp32 ``(rows, size)``: the rows of all ``windows``, one below the other.

        Each window is a chunk's samples after the ``CARRIED_SAMPLES`` before it; ``positions``: how many rows
        of its stream came before.
        """
        # A frame begins every 160 samples of the whole, so each window must begin at a multiple of that.
        lengths = [-(-len(window) // _SHIFT) * _SHIFT for window in windows]
        begins = np.concatenate([[0], np.cumsum(lengths)])
        waveform = np.zeros(begins[-1] + _LENGTH, np.float32)
        indices = []
        for window, position, begin in zip(windows, positions, begins, strict=False):
            part = waveform[begin : begin + len(window)]
            part[:] = window
            if self._noise is not None:
                offset = position * FRAME_SAMPLES % _NOISE_PERIOD
                part += self._noise[offset : offset + len(window)]
            frames = (len(window) - _LENGTH) // _SHIFT + 1
            centers = np.arange(self.rows(len(window)))[:, None] * _STRIDE
            first = 0 if position else _AHEAD
            frame = np.clip(centers + np.arange(_STACK), first, frames - 1)
            indices.append(begin // _SHIFT + frame)
        log_mel = self._frontend.log_mel(torch.from_numpy(waveform))
        stacked = log_mel.index_select(0, torch.from_numpy(np.concatenate(indices).ravel()))
        return self._frontend.normalize(stacked.view(-1, self.size))
