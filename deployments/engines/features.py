"""Log-mel features of whole segments, as the published FunASR models were trained on.

What FunASR's ``WavFrontend`` computes through Kaldi's feature extractor frame by frame (Kaldi's
``compute-fbank-feats``; Povey et al., "The Kaldi Speech Recognition Toolkit", 2011), computed for all frames
at once; then frames are stacked ("low frame rate", LFR) and normalized (CMVN).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deployments.engines.base import SAMPLE_RATE, Pcm
from deployments.engines.half_rate import half_count, halved

_PREEMPHASIS = 0.97
_LOWEST_HZ = 20.0
_SMALLEST_ENERGY = float(np.finfo(np.float32).eps)
_BLOCK_FRAMES = 512
"""As many as stay in a core's cache through all steps: a third less time than a minute at once."""
_RATES = (SAMPLE_RATE, SAMPLE_RATE // 2)
_NOISE_SAMPLES = 1 << 18
_NOISE_SEED = 0
_WINDOWS: dict[str, Callable[[int], Tensor]] = {
    "hamming": lambda length: torch.hamming_window(length, periodic=False),
    "povey": lambda length: torch.hann_window(length, periodic=False).pow(0.85),
}
"""Kaldi's window functions by name; the second is its own, and its default."""


def mel_filters(bins: int, fft_size: int, sample_rate: int = SAMPLE_RATE) -> Tensor:
    """Kaldi's triangular filters, equally wide on the mel scale 1127 ln(1 + f / 700) from 20 Hz to Nyquist.

    Shape ``(fft_size // 2 + 1, bins)``, fp32; Kaldi leaves the Nyquist bin itself out.
    """

    def mel(hertz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hertz / 700.0)

    edges = mel(torch.tensor([_LOWEST_HZ, sample_rate / 2], dtype=torch.float64))
    corners = torch.linspace(float(edges[0]), float(edges[1]), bins + 2, dtype=torch.float64)
    width = corners[1] - corners[0]
    at = mel(torch.arange(fft_size // 2 + 1, dtype=torch.float64) * sample_rate / fft_size)[:, None]
    rising, falling = (at - corners[:-2]) / width, (corners[2:] - at) / width
    filters = torch.minimum(rising, falling).clamp_(min=0)
    filters[-1] = 0
    return filters.float()


class Frontend:
    """Features of one segment, from a FunASR ``frontend_conf`` of class ``WavFrontend``.

    A model of telephone speech (``fs: 8000``) hears the lower half of the band.

    Dither, the noise that Kaldi adds so that digital silence looks like a quiet room, is a fixed sequence
    here: the same samples give the same features, whatever else is computed.
    """

    def __init__(self, conf: dict[str, Any], cmvn: npt.NDArray[np.float32] | None) -> None:
        """``cmvn``: shift and scale, shape ``(2, features)``.

        Raises:
            ValueError: ``conf`` asks for another sample rate or window than the published models have.
        """
        self.rate = int(conf.get("fs", SAMPLE_RATE))
        if self.rate not in _RATES or conf.get("window", "hamming") not in _WINDOWS:
            raise ValueError("frontend_conf: only fs 16000 or 8000, with a hamming or povey window")
        bins = int(conf.get("n_mels", 80))
        self._length = self.rate * int(conf.get("frame_length", 25)) // 1000
        self._shift = self.rate * int(conf.get("frame_shift", 10)) // 1000
        self._stack, self._stride = int(conf.get("lfr_m", 1)), int(conf.get("lfr_n", 1))
        self._fft_size = 1 << math.ceil(math.log2(self._length))
        self._window = _WINDOWS[conf.get("window", "hamming")](self._length)
        self._filters = mel_filters(bins, self._fft_size, self.rate)
        self._cmvn = None if cmvn is None else torch.from_numpy(cmvn)
        # The samples of Kaldi are those of int16; a model may have been trained on [-1, 1) instead.
        self._scale = 1.0 if conf.get("upsacle_samples", True) else 1 / (1 << 15)
        dither = float(conf.get("dither", 1.0))
        generator = torch.Generator().manual_seed(_NOISE_SEED)
        self._noise = torch.randn(_NOISE_SAMPLES, generator=generator) * dither if dither else None
        self.size = bins * self._stack
        self.frame_ms = 1000.0 * self._shift * self._stride / self.rate

    def frames(self, samples: int) -> int:
        """How many feature rows ``samples`` samples give: one every ``frame_ms``, none below one window."""
        if self.rate != SAMPLE_RATE:
            samples = half_count(samples)
        return math.ceil(max(0, 1 + (samples - self._length) // self._shift) / self._stride)

    def __call__(self, samples: Pcm) -> Tensor:
        """fp32, shape ``(frames(len(samples)), size)``."""
        if self.frames(len(samples)) == 0:
            return torch.zeros(0, self.size)
        waveform = torch.from_numpy(samples.astype(np.float32))
        return self.features(waveform if self.rate == SAMPLE_RATE else halved(waveform))

    def features(self, waveform: Tensor) -> Tensor:
        """The rows of a waveform at ``rate``, fp32 and as loud as int16, of one window at least.

        The waveform is changed.
        """
        if self._scale != 1:
            waveform *= self._scale
        if self._noise is not None:
            repeats = -(-len(waveform) // _NOISE_SAMPLES)
            waveform += self._noise.repeat(repeats)[: len(waveform)]
        return self.normalize(self._stacked(self.log_mel(waveform)))

    def normalize(self, features: Tensor) -> Tensor:
        """Apply the CMVN in place to rows of ``size`` values."""
        return features if self._cmvn is None else features.add_(self._cmvn[0]).mul_(self._cmvn[1])

    def log_mel(self, samples: Tensor) -> Tensor:
        """The frames of fp32 ``samples``, one every 10 ms as long as a window is full: ``(frames, bins)``."""
        windows = samples.unfold(0, self._length, self._shift)
        return torch.cat([self._log_mel_of(block) for block in windows.split(_BLOCK_FRAMES)])

    def _log_mel_of(self, frames: Tensor) -> Tensor:
        frames = frames - frames.mean(dim=1, keepdim=True)
        emphasized = torch.empty_like(frames)
        torch.sub(frames[:, 1:], frames[:, :-1], alpha=_PREEMPHASIS, out=emphasized[:, 1:])
        torch.mul(frames[:, 0], 1 - _PREEMPHASIS, out=emphasized[:, 0])
        spectrum = torch.fft.rfft(emphasized.mul_(self._window), n=self._fft_size)
        squares = torch.view_as_real(spectrum).square_()
        power = squares[..., 0] + squares[..., 1]  # 7x faster than a sum over two values each
        return (power @ self._filters).clamp_(min=_SMALLEST_ENERGY).log_()

    def _stacked(self, frames: Tensor) -> Tensor:
        """Each row with its neighbors, every ``stride`` rows; the first and last row repeat at the edges."""
        if self._stack == self._stride == 1:
            return frames
        centers = torch.arange(-(-len(frames) // self._stride)) * self._stride
        window = torch.arange(self._stack) - (self._stack - 1) // 2
        index = (centers[:, None] + window).clamp_(0, len(frames) - 1)
        return frames[index].flatten(1)
