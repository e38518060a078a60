"""Mono samples to 16 kHz while they come in."""

from typing import Any

import numpy as np
import soxr

from deployments.engines.base import SAMPLE_RATE, Pcm
from serve_app.audio.pcm import Mono, to_int16


class Resampler:
    """One stream at ``rate`` Hz to int16 at 16 kHz; how it is cut does not change what comes out."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._stream: Any = None
        if rate != SAMPLE_RATE:
            # The quality of file decoding (see `serve_app.audio.pcm`).
            self._stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, quality="HQ")

    def feed(self, mono: Mono) -> Pcm:
        """The samples that are ready."""
        return to_int16(mono if self._stream is None else self._stream.resample_chunk(mono))

    def flush(self) -> Pcm:
        """The last samples; none follow."""
        if self._stream is None:
            return np.zeros(0, np.int16)
        return to_int16(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))
