"""Continuous integrate-and-fire for live streams: the incomplete token is carried from chunk to chunk.

What FunASR's ``CifPredictorV2.forward_chunk`` computes. The running sum is followed frame by frame for all
streams at once, rounded as FunASR rounds it, because a token more or less is decided by its last bits; what
a frame is as wide as the network is then one product.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deployments.engines.cif import CifPredictor
from deployments.engines.model_files import Parameters
from deployments.engines.row_pool import RowPool, write_rows
from deployments.engines.sanm import Placement, Rows
from deployments.engines.stream_state import CifCarry, Turn

Floats = npt.NDArray[np.float32]
_ONE = np.float32(1)


@dataclass(frozen=True, slots=True)
class FiredTokens:
    """The tokens that a step completes. ``embeddings``: fp32 ``(tokens, size)``, turn by turn.

    ``instants``: when each token fired, in frames from the begin of its turn's counted rows, turn by turn.
    """

    embeddings: Tensor
    counts: list[int]
    instants: npt.NDArray[np.float64]
    carries: list[CifCarry]


class ChunkCif(CifPredictor):
    """FunASR's ``CifPredictorV2``, chunk by chunk."""

    def __init__(self, source: Parameters, prefix: str, conf: dict[str, float], at: Placement) -> None:
        """As :class:`CifPredictor`."""
        super().__init__(source, prefix, "CifPredictorV2", conf, at)
        self._device = at.device
        self._tokens = IncompleteTokens(self.size, self._tail, at.device)

    def step(self, encoded: Tensor, rows: Rows, turns: Sequence[Turn]) -> FiredTokens:
        """``encoded``: fp32 ``(rows, size)``, what :class:`ChunkEncoder` gave for ``turns``."""
        counted = counted_rows(rows, turns)
        window = self._windows(counted, rows, turns)
        rows_and_zero = torch.cat([encoded, encoded.new_zeros(1, self.size)])
        neighbors = rows_and_zero.index_select(0, torch.from_numpy(window.ravel()).to(self._device))
        alphas = self._weigh(neighbors.view(len(window), window.shape[1] * self.size))[0].cpu().numpy()
        return self._tokens.go_on(encoded, counted, alphas, turns)

    def _windows(
        self, counted: npt.NDArray[np.int64], rows: Rows, turns: Sequence[Turn]
    ) -> npt.NDArray[np.int64]:
        """Each row that counts with its neighbors in its chunk; one past the last row for none."""
        left, right = self._orders
        lengths = np.array(rows.lengths)
        ends = np.cumsum(lengths)
        counts = [len(turn.counted) for turn in turns]
        window = counted[:, None] + np.arange(-left, right + 1)
        first, past = np.repeat(ends - lengths, counts)[:, None], np.repeat(ends, counts)[:, None]
        return np.where((window >= first) & (window < past), window, ends[-1])


def counted_rows(rows: Rows, turns: Sequence[Turn]) -> npt.NDArray[np.int64]:
    """The rows whose weights count, of all turns."""
    lengths = np.array(rows.lengths)
    begins = np.cumsum(lengths) - lengths
    return np.concatenate(
        [
            np.arange(turn.counted.start, turn.counted.stop) + begin
            for turn, begin in zip(turns, begins, strict=True)
        ]
    )


class IncompleteTokens:
    """Completes the tokens that are carried from chunk to chunk."""

    def __init__(self, size: int, tail: float, device: torch.device) -> None:
        """``tail``: what the end of a stream weighs."""
        self._tail, self._device = tail, device
        self._frames = RowPool(1, size, Placement(torch.float32, device))

    def go_on(
        self, encoded: Tensor, counted: npt.NDArray[np.int64], alphas: Floats, turns: Sequence[Turn]
    ) -> FiredTokens:
        """``encoded``: fp32 ``(rows, size)``; ``alphas``: the weights of the ``counted`` ones."""
        lengths = np.array([len(turn.counted) for turn in turns])
        sums = _Integration(alphas, lengths, turns, self._tail)

        carried = [
            np.zeros(1, np.int64) if turn.state.cif.frames is None else turn.state.cif.frames.rows
            for turn in turns
        ]
        pool = self._frames.layers[0]
        frames = torch.cat(
            [
                encoded.index_select(0, torch.from_numpy(counted).to(self._device)),
                pool.index_select(0, self._frames.index(carried)),
            ]
        )
        summed = torch.from_numpy(sums.shares()).to(self._device) @ frames
        leases = self._frames.lease([1] * len(turns))
        incomplete = torch.from_numpy(sums.last_slots).to(self._device)
        pool = self._frames.layers[0]
        write_rows(pool, self._frames.index([lease.rows for lease in leases]), summed[incomplete])
        carries = [CifCarry(float(weight), lease) for weight, lease in zip(sums.rest, leases, strict=True)]
        complete = torch.from_numpy(np.delete(np.arange(len(summed)), sums.last_slots)).to(self._device)
        return FiredTokens(summed[complete], sums.counts.tolist(), sums.instants, carries)


class _Integration:
    """Running sums of all turns' weights, frame by frame.

    ``counts``: tokens of each turn; ``rest``: what its sum is after the last one. Every turn has one slot for
    each of its tokens and ``last_slots`` for what is not complete.
    """

    def __init__(
        self, alphas: Floats, lengths: npt.NDArray[np.int64], turns: Sequence[Turn], tail: float
    ) -> None:
        self._alphas, self._lengths = alphas, lengths
        width = int(lengths.max()) + 1
        self._real = np.arange(width - 1) < lengths[:, None]
        weights = np.zeros((len(turns), width), np.float32)
        weights[:, :-1][self._real] = alphas
        final = np.array([turn.final for turn in turns])
        weights[final, lengths[final]] = tail
        total = np.array([turn.state.cif.weight for turn in turns], np.float32)
        before, fired = np.empty_like(weights), np.empty(weights.shape, np.bool_)
        for at in range(width):
            before[:, at] = total
            total = total + weights[:, at]
            fired[:, at] = total >= _ONE
            total = np.where(fired[:, at], total - _ONE, total)
        self.rest = total
        self.counts = fired.sum(axis=1)
        self.last_slots = np.cumsum(self.counts + 1) - 1
        self._weights, self._before, self._fired = weights, before, fired
        grown = np.maximum(weights, np.finfo(np.float32).tiny)
        place = np.arange(width) + np.clip((_ONE - before) / grown, 0, 1)
        self.instants = place[fired].astype(np.float64)

    def shares(self) -> Floats:
        """Each slot's share of each counted frame and of what was carried, ``(slots, frames + turns)``."""
        turns, frames = len(self.counts), len(self._alphas)
        shares = np.zeros((self.last_slots[-1] + 1, frames + turns), np.float32)
        first = self.last_slots - self.counts
        shares[first, frames + np.arange(turns)] = 1
        slots = first[:, None] + np.cumsum(self._fired, axis=1) - self._fired
        real, fired = self._real, self._fired[:, :-1]
        weights, before = self._weights[:, :-1], self._before[:, :-1]
        column = np.arange(frames)
        into = np.where(fired, _ONE - before, weights)
        shares[slots[:, :-1][real], column] = into[real]
        over = (real & fired)[real]
        shares[slots[:, :-1][real][over] + 1, column[over]] = (weights - into)[real][over]
        return shares
