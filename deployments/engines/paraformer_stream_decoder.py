"""Paraformer's decoder for live streams: the tokens of many streams' chunks as one batch.

The computation is that of ``ParaformerSANMDecoder.forward_chunk`` in FunASR on the same parameters: tokens
attend to the encoder rows of their chunk and of earlier ones, and memory blocks go on from the tokens before.
FunASR keeps keys and values of earlier rows for every layer. Here the rows are kept and projected again: at
full size 3 % more work in a thirtieth of the memory.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deployments.engines.model_files import Parameters
from deployments.engines.paraformer_decoder import ParaformerDecoder
from deployments.engines.ragged_attention import RaggedAttention
from deployments.engines.row_pool import Indices, Lease, RowPool, write_rows
from deployments.engines.sanm import Memory, Placement
from deployments.engines.stream_state import DecoderCache, Turn


class ChunkDecoder(ParaformerDecoder):
    """The decoder and what streams remember of it."""

    def __init__(
        self,
        source: Parameters,
        prefix: str,
        size: int,
        vocabulary: int,
        conf: dict[str, Any],
        at: Placement,
    ) -> None:
        """As :class:`ParaformerDecoder`."""
        attending, total = int(conf.get("att_layer_num", 6)), int(conf["num_blocks"])
        if total - attending == 1:
            total = attending  # FunASR's online decoder leaves out a single block without attention, too
        conf = {"sanm_shfit": 0, "kernel_size": 21, **conf, "num_blocks": total}
        super().__init__(source, prefix, size, vocabulary, conf, at)
        self._device = at.device
        self._span = int(conf["kernel_size"]) - 1
        self._encoded = EncodedRows(size, at)
        self._history = RowPool(total, size, at)

    def step(
        self, embeddings: Tensor, counts: Sequence[int], encoded: Sequence[Tensor], turns: Sequence[Turn]
    ) -> tuple[Tensor, list[DecoderCache]]:
        """Log-probabilities, fp32 ``(tokens, vocabulary)``, and what the streams remember from now on.

        ``embeddings``: fp32 ``(tokens, size)``, ``counts`` of them for each turn, at least one; ``encoded``:
        each turn's encoder rows.
        """
        rows, keys, caches = self._encoded(encoded, turns)
        attention = RaggedAttention(counts, keys, self.heads, 1, self._device)
        history = _History(self._history, self._span, counts, turns)
        log_probs = self.decode(embeddings, rows, history, attention)
        return log_probs, [
            DecoderCache(encoded_lease, lease)
            for encoded_lease, lease in zip(caches, history.leases, strict=True)
        ]


class EncodedRows:
    """What tokens attend to: their chunk's encoder rows and those of earlier chunks."""

    def __init__(self, size: int, at: Placement) -> None:
        self._at = at
        self._pool = RowPool(1, size, at)

    def __call__(
        self, encoded: Sequence[Tensor], turns: Sequence[Turn]
    ) -> tuple[Tensor, list[Indices], list[Lease]]:
        """Earlier and new encoder rows, which of them are each turn's, and leases of the last of these."""
        pool = self._pool
        known = [_rows_of(turn.state.decoder.encoded) for turn in turns]
        earlier = pool.layers[0].index_select(0, pool.index(known))
        rows = torch.cat([earlier, torch.cat(list(encoded)).to(self._at.dtype)])
        keys, last, at_known, at_new = [], [], 0, len(earlier)
        for turn, before, new in zip(turns, known, encoded, strict=True):
            key = [np.arange(at_known, at_known + len(before)), np.arange(at_new, at_new + len(new))]
            at_known, at_new = at_known + len(before), at_new + len(new)
            keys.append(np.concatenate(key))
            options = turn.state.options
            look_back = max(0, options.decoder_chunk_look_back) * options.chunk_size[1]
            last.append(keys[-1][max(0, len(keys[-1]) - look_back) :])
        leases = pool.lease([len(key) for key in last])
        places = pool.index([lease.rows for lease in leases])
        write_rows(pool.layers[0], places, rows.index_select(0, pool.index(last)))
        return rows, keys, leases


class _History:
    """Applies memory blocks, in the order of layers, to each turn's tokens after those before them.

    The first tokens of a stream have zeros around them as in a whole segment, including those after them if
    the window looks ahead; what comes later looks back only. That is what FunASR does.
    """

    def __init__(self, pool: RowPool, span: int, counts: Sequence[int], turns: Sequence[Turn]) -> None:
        self._span, self._counts = span, counts
        self._known = [turn.state.decoder.history for turn in turns]
        self.leases = pool.lease([span] * len(turns))
        self._pool = pool
        zeros = np.zeros(span, np.int64)
        self._before = pool.index([zeros if lease is None else lease.rows for lease in self._known])
        self._after = pool.index([lease.rows for lease in self.leases])
        ends = np.cumsum([count + span for count in counts])
        begins = ends - np.array(counts) - span
        self._results = pool.index(
            [np.arange(begin, begin + count) for begin, count in zip(begins, counts, strict=True)]
        )
        self._last = pool.index([np.arange(end - span, end) for end in ends])
        self._orders: dict[int, Tensor] = {}
        self._layers = iter(pool.layers)

    def __call__(self, memory: Memory, x: Tensor) -> Tensor:
        layer = next(self._layers)
        spread = torch.cat([layer.index_select(0, self._before), x]).index_select(0, self._order(memory.left))
        write_rows(layer, self._after, spread.index_select(0, self._last))
        return memory.convolve(spread).index_select(0, self._results).add_(x)

    def _order(self, left: int) -> Tensor:
        """Where remembered and new rows come to lie, in one row of all turns with ``span`` more rows each."""
        if left not in self._orders:
            order: list[Indices] = []
            at = len(self._known) * self._span
            for index, (lease, count) in enumerate(zip(self._known, self._counts, strict=True)):
                before = np.arange(index * self._span, (index + 1) * self._span)
                split = left if lease is None else self._span
                order += before[:split], np.arange(at, at + count), before[split:]
                at += count
            self._orders[left] = self._pool.index(order)
        return self._orders[left]


def _rows_of(lease: Lease | None) -> Indices:
    return np.zeros(0, np.int64) if lease is None else lease.rows
