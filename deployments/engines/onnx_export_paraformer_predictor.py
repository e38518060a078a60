"""FunASR's predictors in the form in which they go into a graph.

FunASR walks through the frames in a loop, which is slow in a graph, and its graph fails where no token
fires. Here, as in :mod:`deployments.engines.cif`, the running sum is cut at the whole numbers at once, and
there is always room for one token.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PEAK = 1 - 1e-4
"""What FunASR's times take for a full token."""


def weigh(predictor: Any, encoded: Tensor) -> tuple[Tensor, Tensor]:
    """The predictor's hidden layer, ``(batch, frames, size)``, and frames' weights, ``(batch, frames)``."""
    hidden = torch.relu(predictor.cif_conv1d(predictor.pad(encoded.transpose(1, 2)))).transpose(1, 2)
    alphas = torch.sigmoid(predictor.cif_output(hidden))
    return hidden, F.relu(alphas * predictor.smooth_factor - predictor.noise_threshold).squeeze(-1)


def with_tail(alphas: Tensor, lengths: Tensor, tail: float) -> Tensor:
    """One more frame; the frame after the last one that counts weighs ``tail``."""
    extended = F.pad(alphas, (0, 1))
    return extended + (count_to(extended.shape[1]) == lengths[:, None]).float() * tail


def integrate(weights: Tensor, encoded: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens' embeddings, ``(batch, max(1, tokens), size)``, and their number, fp32 ``(batch,)``.

    ``weights``: those of ``encoded``'s frames and of the tail, ``(batch, frames + 1)``. See
    :func:`deployments.engines.cif.integrate`.
    """
    sums = torch.cumsum(weights.double(), 1).float()
    count = torch.floor(sums[:, -1])
    longest = count.max().clamp(min=1).to(torch.int64)
    token = count_to(longest)[:, None].float()
    begins = F.pad(sums[:, :-1], (1, 0))
    shares = torch.minimum(sums[:, None], token + 1) - torch.maximum(begins[:, None], token)
    return shares.clamp(min=0)[:, :, :-1] @ encoded, count


class FineTimes(nn.Module):
    """The head of ``CifPredictorV3`` that was trained for times: FunASR's ``us_alphas``, ``us_cif_peak``.

    FunASR scales both to the number of tokens. Here the former are as they come: whoever reads them knows
    better how many tokens there are, and what the latter is read for has them scaled.
    """

    def __init__(self, predictor: Any) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, encoded: Tensor, hidden: Tensor, mask: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        head = self.predictor
        source = hidden if head.use_cif1_cnn else encoded
        finer = head.upsample_cnn(source.transpose(1, 2)).transpose(1, 2)
        if head.upsample_type == "cnn_blstm":
            finer = head.blstm(finer)[0]
        alphas = torch.sigmoid(head.cif_output2(finer))
        alphas = F.relu(alphas * head.smooth_factor2 - head.noise_threshold2).squeeze(-1)
        alphas = alphas * mask.repeat_interleave(int(head.upsample_times), dim=1)
        scaled = alphas * (count / alphas.sum(1).clamp(min=1e-6))[:, None]
        sums = torch.cumsum(scaled.double(), 1)
        full = torch.floor(F.pad(sums[:, :-1], (1, 0)) / _PEAK)
        return alphas, (sums - full * _PEAK).float()


def count_to(length: Any) -> Tensor:
    """``0, 1, ...``, below ``length``, which may be a tensor while a graph is traced."""
    return torch.arange(0, length)
