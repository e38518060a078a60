"""From 16 kHz to 8 kHz, inside of engines whose model heard telephone lines.

A linear-phase low-pass (windowed sinc with a Kaiser window: Oppenheim and Schafer, "Discrete-Time Signal
Processing", 7.6), of which every second output is kept. It is centered, so nothing is delayed, and has no
memory but the samples around, so a recording may be cut anywhere.
"""

from functools import cache

import torch
from torch import Tensor

CONTEXT = 64
"""Samples at 16 kHz, 4 ms, to either side of one that its value at 8 kHz depends on."""

_RATE = 16_000
_CUTOFF_HZ = 3700
"""Flat to 0.01 dB up to 3.4 kHz, where telephone lines end; 72 dB down at 4 kHz."""
_BETA = 7.0
_BLOCK = 4096
"""Outputs at once: their inputs stay in a core's cache."""


@cache
def _taps() -> Tensor:
    at = torch.arange(-CONTEXT, CONTEXT + 1, dtype=torch.float64)
    taps = torch.kaiser_window(2 * CONTEXT + 1, periodic=False, beta=_BETA, dtype=torch.float64)
    taps *= torch.sinc(2 * _CUTOFF_HZ / _RATE * at)
    return (taps / taps.sum()).float()


def half_count(samples: int) -> int:
    """How many samples at 8 kHz ``samples`` at 16 kHz are."""
    return (samples + 1) // 2


def halved(samples: Tensor) -> Tensor:
    """All of a recording: fp32 ``(samples,)`` at 16 kHz to ``(half_count(samples),)``; silence around it."""
    return halved_inside(torch.nn.functional.pad(samples, (CONTEXT, CONTEXT)))


def halved_inside(samples: Tensor) -> Tensor:
    """As :func:`halved`, of which the first and last :data:`CONTEXT` samples are only looked at."""
    if len(samples) <= 2 * CONTEXT:
        return samples.new_zeros(0)
    windows = samples.unfold(0, 2 * CONTEXT + 1, 2)
    return torch.cat([block @ _taps() for block in windows.split(_BLOCK)])
