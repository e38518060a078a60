"""Position encoding that starts anywhere while training, so that no position is new at recognition time."""

from __future__ import annotations

import torch
from funasr.models.transformer.embedding import SinusoidalPositionEncoder

_LONGEST = 1500
"""Encoder frames of the longest segment a service may send (90 s)."""


class RandomPositions(SinusoidalPositionEncoder):  # type: ignore[misc]
    """In training mode every second batch starts at a random position up to 90 s minus its own length.

    It holds no weights, so the trained model loads into the plain class.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [batch, frames, size]; returns the same shape with sines and cosines of the positions added."""
        frames = x.shape[1]
        first = 1
        if self.training and frames < _LONGEST and torch.rand(()) < 0.5:
            first += int(torch.randint(_LONGEST - frames, ()))
        positions = torch.arange(first, first + frames, device=x.device)[None, :]
        encoding: torch.Tensor = self.encode(positions, x.shape[2], x.dtype)
        return x + encoding
