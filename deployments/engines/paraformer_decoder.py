"""Paraformer's decoder for inference on whole batches without padding.

The computation is that of FunASR's ``ParaformerSANMDecoder`` (Gao et al., "Paraformer: Fast and Accurate
Parallel Transformer for Non-autoregressive End-to-End Speech Recognition", arXiv:2206.08317) on the same
parameters; the layout and the precision are those of :mod:`deployments.engines.sanm`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deployments.engines.model_files import Parameters
from deployments.engines.sanm import (
    Linear,
    Memory,
    Norm,
    Placement,
    Rows,
    attend_segments,
    require_plain_blocks,
)

DECODER_DEFAULTS = {
    "attention_heads": 4,
    "linear_units": 2048,
    "num_blocks": 6,
    "att_layer_num": 6,
    "kernel_size": 21,
    "sanm_shfit": 0,
}
"""FunASR's own, for what a ``decoder_conf`` does not say."""


class DecoderBlock:
    """Feed-forward, then an FSMN memory, then attention to the encoder's rows; any but the first optional."""

    def __init__(
        self,
        source: Parameters,
        name: str,
        size: int,
        conf: dict[str, Any],
        at: Placement,
        *,
        memory: bool = True,
        attention: bool = True,
    ) -> None:
        units = int(conf["linear_units"])
        self._heads = int(conf["attention_heads"])
        self._norm1 = Norm.load(source, f"{name}.norm1", size, at)
        self._up = Linear.load(source, f"{name}.feed_forward.w_1", (units, size), at)
        self._inner = Norm.load(source, f"{name}.feed_forward.norm", units, at)
        self._down = Linear.load(source, f"{name}.feed_forward.w_2", (size, units), at, bias=False)
        self._memory: Memory | None = None
        self._query: Linear | None = None
        if memory:
            self._memory = Memory.load(source, f"{name}.self_attn.fsmn_block", size, conf, at)
            self._norm2 = Norm.load(source, f"{name}.norm2", size, at)
        if attention:
            scaled = size, (size // self._heads) ** -0.5
            self._query = Linear.load(source, f"{name}.src_attn.linear_q", (size, size), at, scaled=scaled)
            self._key_value = Linear.load(source, f"{name}.src_attn.linear_k_v", (2 * size, size), at)
            self._out = Linear.load(source, f"{name}.src_attn.linear_out", (size, size), at)
            self._norm3 = Norm.load(source, f"{name}.norm3", size, at)

    def __call__(
        self,
        x: Tensor,
        encoded: Tensor,
        remember: Callable[[Memory, Tensor], Tensor],
        attend: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """``x``: fp32 ``(tokens, size)``; ``encoded``: ``(rows, size)`` in the dtype of products.

        ``remember`` applies a memory block to each segment's rows. ``attend`` gives the heads' results,
        ``(tokens, size)``, for queries (scaled already) and for keys and values side by side.
        """
        x = self.remembered(x, encoded.dtype, remember)
        return x if self._query is None else x.add_(self.attended(x, encoded, attend))

    def remembered(
        self, x: Tensor, dtype: torch.dtype, remember: Callable[[Memory, Tensor], Tensor]
    ) -> Tensor:
        """Feed-forward and the memory block, whose products are in ``dtype``; a new fp32 tensor."""
        fed = self._down(self._inner(self._up(self._norm1(x), relu=True)))
        if self._memory is None:
            return fed.float()
        return x + remember(self._memory, self._norm2(fed.float()).to(dtype))

    def attended(self, x: Tensor, encoded: Tensor, attend: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Attention alone, of a block that has it."""
        assert self._query is not None
        return self._out(attend(self._query(self._norm3(x)), self._key_value(encoded)))


class DecoderStack:
    """The blocks of a FunASR ``ParaformerSANMDecoder`` and the normalization after them."""

    def __init__(
        self, source: Parameters, prefix: str, size: int, conf: dict[str, Any], at: Placement
    ) -> None:
        """``conf`` is the ``decoder_conf`` of a FunASR ``ParaformerSANMDecoder``.

        Raises:
            ModelFilesError: as for :class:`SanmEncoder`.
        """
        require_plain_blocks(source, conf)
        conf = {**DECODER_DEFAULTS, **conf}
        self.attending, total = int(conf["att_layer_num"]), int(conf["num_blocks"])
        self.heads = int(conf["attention_heads"])
        self._dtype = at.dtype
        self._blocks = [
            DecoderBlock(source, f"{prefix}decoders.{index}", size, conf, at)
            for index in range(self.attending)
        ]
        self._blocks += [
            DecoderBlock(
                source, f"{prefix}decoders2.{index}", size, {**conf, "sanm_shfit": 0}, at, attention=False
            )
            for index in range(total - self.attending)
        ]
        last = f"{prefix}decoders3.0"
        self._blocks.append(DecoderBlock(source, last, size, conf, at, memory=False, attention=False))
        self._norm = Norm.load(source, f"{prefix}after_norm", size, at)

    def hidden(
        self,
        x: Tensor,
        encoded: Tensor,
        remember: Callable[[Memory, Tensor], Tensor],
        attend: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """The normalized output of the last block, fp32 ``(tokens, size)``; takes what a block takes."""
        for block in self._blocks:
            x = block(x, encoded, remember, attend)
        return self._norm(x)


class ParaformerDecoder(DecoderStack):
    """Turns acoustic embeddings, one for each token, into log-probabilities over the vocabulary."""

    def __init__(
        self,
        source: Parameters,
        prefix: str,
        size: int,
        vocabulary: int,
        conf: dict[str, Any],
        at: Placement,
    ) -> None:
        """As :class:`DecoderStack`."""
        super().__init__(source, prefix, size, conf, at)
        # In fp32: rounded to bf16, two likely tokens would often tie. It costs 1 % of the whole.
        exact = Placement(torch.float32, at.device)
        self._output = Linear.load(source, f"{prefix}output_layer", (vocabulary, size), exact)

    def __call__(self, embeddings: Tensor, rows: Rows, encoded: Tensor, encoded_rows: Rows) -> Tensor:
        """fp32 ``(tokens, size)`` to fp32 log-probabilities ``(tokens, vocabulary)``."""
        return self.with_hidden(embeddings, rows, encoded, encoded_rows)[0]

    def with_hidden(
        self, embeddings: Tensor, rows: Rows, encoded: Tensor, encoded_rows: Rows
    ) -> tuple[Tensor, Tensor]:
        """As above, and what the log-probabilities are made from: fp32 ``(tokens, size)``."""

        def attend(query: Tensor, key_value: Tensor) -> Tensor:
            key, value = key_value.chunk(2, dim=1)
            return attend_segments(query, rows, key, value, encoded_rows, self.heads)

        def remember(memory: Memory, x: Tensor) -> Tensor:
            return memory(x, rows)

        hidden = self.hidden(embeddings, encoded.to(self._dtype), remember, attend)
        return self._log_probs(hidden), hidden

    def decode(
        self,
        x: Tensor,
        encoded: Tensor,
        remember: Callable[[Memory, Tensor], Tensor],
        attend: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Log-probabilities, with what a :class:`DecoderBlock` takes."""
        return self._log_probs(self.hidden(x, encoded, remember, attend))

    def _log_probs(self, hidden: Tensor) -> Tensor:
        return torch.log_softmax(self._output(hidden), dim=-1)
