"""The SAN-M encoder of live punctuation: words see little of what follows, and of the newest block least.

The computation is that of FunASR's ``SANMVadEncoder`` on the same parameters, in the layout of
:mod:`deployments.engines.sanm`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deployments.engines.model_files import Parameters
from deployments.engines.sanm import (
    EncoderBlock,
    Norm,
    Placement,
    Rows,
    position_encoding,
    require,
    require_plain_blocks,
)


class SanmVadEncoder:
    """A stack of encoder blocks; in all but the last, attention lets no row see a later one.

    In the last one, rows see the whole segment, except that those before the newest words do not see these,
    but for the row right before them. The memory blocks hide nothing: their ``sanm_shfit`` says how far they
    look ahead.
    """

    def __init__(
        self, source: Parameters, prefix: str, input_size: int, conf: dict[str, Any], at: Placement
    ) -> None:
        """``conf`` is the ``encoder_conf`` of a FunASR ``SANMVadEncoder``, ``prefix`` as in ``"encoder."``.

        Raises:
            ModelFilesError: parameters are missing or mis-shaped, or ``conf`` asks for a variant that is
                not implemented here.
        """
        require(source, conf, "input_layer", "pe")
        require(source, conf, "selfattention_layer_type", "sanm")
        require(source, conf, "positionwise_layer_type", "linear")
        require_plain_blocks(source, conf)
        self.size, self._heads = int(conf["output_size"]), int(conf["attention_heads"])
        self._blocks = [EncoderBlock(source, f"{prefix}encoders0.0", input_size, conf, at)]
        self._blocks += [
            EncoderBlock(source, f"{prefix}encoders.{index}", self.size, conf, at)
            for index in range(int(conf["num_blocks"]) - 1)
        ]
        self._norm = Norm.load(source, f"{prefix}after_norm", self.size, at)

    def __call__(self, features: Tensor, rows: Rows, begins: Sequence[int]) -> Tensor:
        """Encode segments given one below the other: fp32 ``(rows, features)`` to fp32 ``(rows, size)``.

        ``begins`` is the row of each segment at which its newest block begins; 0, or a number past its end,
        where there is nothing to hide.
        """
        positions = position_encoding(max(rows.lengths), features.shape[1], features.device)
        x = features * self.size**0.5 + torch.cat([positions[:length] for length in rows.lengths])
        past = [_past(length, rows.device) for length in rows.lengths]
        around = [
            _around(length, begin, rows.device) for length, begin in zip(rows.lengths, begins, strict=True)
        ]
        for index, block in enumerate(self._blocks):
            # An encoder of one block has only the first kind, as in FunASR.
            visible = around if 0 < index == len(self._blocks) - 1 else past
            x = block(x, rows, partial(_attend, self._heads, rows, visible))
        return self._norm(x)


def _attend(heads: int, rows: Rows, visible: Sequence[Tensor], qkv: Tensor) -> Tensor:
    """Attention in which a row sees only those that its segment's mask, bool ``(rows, rows)``, shows it."""
    by_head = qkv.unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3).split(rows.lengths, dim=2)
    attended = [
        F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
        for (query, key, value), mask in zip(by_head, visible, strict=True)
    ]
    return torch.cat(attended, dim=1).transpose(0, 1).flatten(1)


def _past(length: int, device: torch.device) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def _around(length: int, begin: int, device: torch.device) -> Tensor:
    visible = torch.ones(length, length, dtype=torch.bool, device=device)
    if begin > 0:
        visible[: begin - 1, begin:] = False
    return visible
