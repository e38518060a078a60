"""The SAN-M encoder for live streams: a step takes a chunk of each of many streams as one batch.

The computation is that of ``SANMEncoderChunkOpt.forward_chunk`` in FunASR (Zhang et al., "SCAMA: Streaming
chunk-aware multihead attention for online end-to-end speech recognition", arXiv:2006.01712) on the same
parameters. A chunk is encoded together with the ``left + right`` frames before it and attends to keys and
values of earlier chunks. All streams' rows lie one below the other, as in :mod:`deployments.engines.sanm`.

FunASR's habits are kept where results depend on them: frames before the begin of a stream are rows of zeros;
with a ``left`` context, keys of a frame are remembered more than once; the first chunk's keys are remembered
whole, even if that is more than the look-back. (That FunASR scales the frames that are left at the end of a
stream twice changes nothing, because they are normalized next.) A ``right`` of 0, with which FunASR would
remember no keys and never drop a frame, means what it says here.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deployments.engines.base import MAX_LOOK_BACK_FRAMES
from deployments.engines.model_files import Parameters
from deployments.engines.ragged_attention import RaggedAttention
from deployments.engines.row_pool import Indices, Lease, RowPool, write_rows
from deployments.engines.sanm import (
    EncoderBlock,
    Memory,
    Norm,
    Placement,
    Rows,
    require,
    require_plain_blocks,
)
from deployments.engines.stream_state import EncoderCache, Turn


class ChunkInputs:
    """Puts the input of an encoder together: frames that are seen again, then new ones at their positions."""

    def __init__(self, size: int, input_size: int, device: torch.device) -> None:
        """``size``: width of the encoder; ``input_size``: of a feature row."""
        self._scale, self._device = size**0.5, device
        half = torch.arange(input_size // 2, dtype=torch.float32)
        step = torch.log(torch.tensor(10_000.0)) / (input_size / 2 - 1)
        self._scales = torch.exp(half * -step).to(device)
        self._pool = RowPool(1, input_size, Placement(torch.float32, device))

    def __call__(self, features: Tensor, turns: Sequence[Turn]) -> tuple[Tensor, Rows, list[Lease]]:
        """The input of the first block, and leases of what the next chunks will see again of it."""
        pool = self._pool.layers[0]
        seen = [_rows_of(turn.state.encoder.overlap, turn.overlap) for turn in turns]
        known = pool.index_select(0, self._pool.index(seen))
        new = features.mul_(self._scale).add_(self._positions(turns)) if len(features) else features
        order: list[Indices] = []
        at_known, at_new = 0, len(known)
        for turn in turns:
            order += np.arange(at_known, at_known + turn.overlap), np.arange(at_new, at_new + turn.rows)
            at_known, at_new = at_known + turn.overlap, at_new + turn.rows
        x = torch.cat([known, new]).index_select(0, self._pool.index(order))
        rows = Rows([turn.length for turn in turns], self._device)
        ends = np.cumsum(rows.lengths)
        leases = self._pool.lease([turn.overlap for turn in turns])
        last = [np.arange(end - turn.overlap, end) for turn, end in zip(turns, ends, strict=True)]
        kept = x.index_select(0, self._pool.index(last))
        write_rows(self._pool.layers[0], self._pool.index([lease.rows for lease in leases]), kept)
        return x, rows, leases

    def _positions(self, turns: Sequence[Turn]) -> Tensor:
        """The position encoding of new rows, which is :func:`~deployments.engines.sanm.position_encoding`."""
        counted = [
            np.arange(1 + turn.state.position, 1 + turn.state.position + turn.rows, dtype=np.float32)
            for turn in turns
        ]
        angles = torch.from_numpy(np.concatenate(counted)).to(self._device)[:, None] * self._scales
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class ChunkEncoder:
    """A stack of encoder blocks and what streams remember of their passage."""

    def __init__(
        self, source: Parameters, prefix: str, input_size: int, conf: dict[str, Any], at: Placement
    ) -> None:
        """``conf`` is the ``encoder_conf`` of a FunASR ``SANMEncoderChunkOpt``.

        Raises:
            ModelFilesError: parameters are missing or mis-shaped, or ``conf`` asks for a variant that is
                not implemented here.
        """
        conf = {"input_layer": "conv2d", "sanm_shfit": 0, "kernel_size": 11, **conf}
        require(source, conf, "input_layer", "pe_online")
        require(source, conf, "selfattention_layer_type", "sanm")
        require(source, conf, "positionwise_layer_type", "linear")
        require_plain_blocks(source, conf)
        self.size, self._heads = int(conf["output_size"]), int(conf["attention_heads"])
        self._device = at.device
        names = ["encoders0.0", *(f"encoders.{index}" for index in range(int(conf["num_blocks"]) - 1))]
        sizes = [input_size] + [self.size] * (len(names) - 1)
        self._blocks = [
            EncoderBlock(source, prefix + name, size, conf, at)
            for name, size in zip(names, sizes, strict=True)
        ]
        self._norm = Norm.load(source, f"{prefix}after_norm", self.size, at)
        self._inputs = ChunkInputs(self.size, input_size, at.device)
        self._keys = RowPool(len(names), 2 * self.size, at)

    def __call__(self, features: Tensor, turns: Sequence[Turn]) -> tuple[Tensor, Rows, list[EncoderCache]]:
        """Encode the new ``features`` of all turns, fp32 ``(rows, features)``, one below the other.

        Returns what is encoded, fp32 ``(rows, size)``, where each turn's rows lie, and what the streams
        remember from now on.
        """
        x, rows, overlaps = self._inputs(features, turns)
        if not len(x):  # streams without context that end between two chunks
            return x.new_zeros(0, self.size), rows, [turn.state.encoder for turn in turns]
        stored = self._keys.lease([count for turn in turns for count in kept_and_not(turn)])
        kept, passing = stored[::2], stored[1::2]
        places = self._keys.index([lease.rows for lease in stored])
        keys = [
            np.concatenate([turn.state.encoder.key_rows, whole.rows, part.rows])
            for turn, whole, part in zip(turns, kept, passing, strict=True)
        ]
        attention = RaggedAttention(rows.lengths, keys, self._heads, 3, self._device)
        values = _Values(rows, places)
        for block, layer in zip(self._blocks, self._keys.layers, strict=True):
            attend = partial(self._attend, attention, places, layer)
            x = block(x, rows, attend, partial(values.remember, layer))
        caches = [
            EncoderCache(overlap, *looked_back_to(turn, lease))
            for turn, overlap, lease in zip(turns, overlaps, kept, strict=True)
        ]
        return self._norm(x), rows, caches

    def _attend(self, attention: RaggedAttention, places: Tensor, layer: Tensor, qkv: Tensor) -> Tensor:
        write_rows(layer, places, qkv[:, self.size :])
        return attention(qkv, layer)


class _Values:
    """Applies memory blocks to the values of each turn, read from where keys and values were stored."""

    def __init__(self, rows: Rows, places: Tensor) -> None:
        self._rows, self._places = rows, places
        self._windows: dict[int, tuple[Tensor, Tensor]] = {}

    def remember(self, layer: Tensor, memory: Memory, value: Tensor) -> Tensor:
        if memory.left not in self._windows:
            spread, total = self._rows.spread(memory.left, memory.taps - 1 - memory.left)
            # Values are the second half of a row; what lies around a turn is row 0, which is zero.
            value_rows = self._places * 2 + 1
            around = value_rows.new_ones(total).index_copy_(0, spread, value_rows)
            self._windows[memory.left] = around, spread - memory.left
        around, centers = self._windows[memory.left]
        spread = layer.view(2 * len(layer), -1).index_select(0, around)
        return memory.convolve(spread).index_select(0, centers).add_(value)


def _rows_of(lease: Lease | None, count: int) -> Indices:
    return np.zeros(count, np.int64) if lease is None else lease.rows


def kept_and_not(turn: Turn) -> tuple[int, int]:
    """How many rows' keys later chunks may look back to, and how many only this one uses."""
    options = turn.state.options
    passing = options.chunk_size[2] if options.encoder_chunk_look_back and not turn.final else turn.length
    return turn.length - passing, passing


def looked_back_to(turn: Turn, new: Lease) -> tuple[Indices, tuple[Lease, ...]]:
    """The key rows that the next chunk attends to, oldest first, and the leases that they are from."""
    cache, options = turn.state.encoder, turn.state.options
    if not len(new.rows):
        return new.rows, ()
    if not cache.leases:
        return new.rows, (new,)
    look_back = options.encoder_chunk_look_back
    limit = MAX_LOOK_BACK_FRAMES if look_back == -1 else look_back * options.chunk_size[1]
    rows = np.concatenate([cache.key_rows, new.rows])[-limit:]
    leases = [*cache.leases, new]
    total = sum(len(lease.rows) for lease in leases)
    while total - len(leases[0].rows) >= len(rows):
        total -= len(leases.pop(0).rows)
    return rows, tuple(leases)
