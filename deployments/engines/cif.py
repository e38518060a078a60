"""Continuous integrate-and-fire: how many tokens, their acoustic embeddings, and when each was spoken.

After Dong and Xu, "CIF: Continuous Integrate-and-Fire for End-to-End Speech Recognition"
(arXiv:1905.11235). Every encoder frame has a weight; a token is complete ("fires") wherever the running sum
of the weights passes a whole number, and its embedding is the weighted sum of the frames in between.

FunASR walks through the frames one by one. Here the running sum is cut at the whole numbers at once: the
share of frame ``t`` in token ``k`` is the overlap of ``[S(t-1), S(t)]`` with ``[k, k+1]``.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deployments.engines.model_files import SAME_MODEL, ModelFilesError, Parameters
from deployments.engines.sanm import Linear, Placement, Rows

_FIRE = 1 - 1e-4
"""A token's share of a scaled sum; a little below one, so that rounding never costs the last token."""


@dataclass(frozen=True, slots=True)
class Fired:
    """The tokens of all segments. ``embeddings``: fp32 ``(tokens, size)``, segments one below the other.

    ``weights`` holds, for each segment, the weight of every step of ``step_ms`` milliseconds, float64: what
    times are read from.
    """

    embeddings: Tensor
    counts: list[int]
    weights: list[npt.NDArray[np.float64]]
    step_ms: float


class CifPredictor:
    """FunASR's ``CifPredictorV2`` and ``CifPredictorV3``; the latter has a second, finer head for times."""

    def __init__(
        self, source: Parameters, prefix: str, kind: str, conf: dict[str, Any], at: Placement
    ) -> None:
        """``conf`` is the ``predictor_conf`` of the FunASR class named ``kind``; computes in fp32.

        Raises:
            ModelFilesError: parameters are missing or mis-shaped, or the variant is not implemented here.
        """
        at = Placement(torch.float32, at.device)
        size = int(conf["idim"])
        if kind not in ("CifPredictorV2", "CifPredictorV3") or conf.get("threshold", 1.0) != 1.0:
            problem = f"predictor {kind} with threshold {conf.get('threshold')} is not supported"
            raise ModelFilesError(source.path.parent, problem, SAME_MODEL)
        self.size = size
        self._orders = int(conf["l_order"]), int(conf["r_order"])
        self._smooth, self._noise = float(conf.get("smooth_factor", 1)), float(conf.get("noise_threshold", 0))
        self._tail = float(conf.get("tail_threshold", 0))
        self._conv = _convolution(source, f"{prefix}cif_conv1d", size, 1 + sum(self._orders), at)
        self._output = Linear.load(source, f"{prefix}cif_output", (1, size), at)
        self._fine = FineWeights(source, prefix, conf, at) if kind == "CifPredictorV3" else None

    def __call__(self, encoded: Tensor, rows: Rows, frame_ms: float) -> Fired:
        """``encoded``: fp32 ``(rows, size)``, one row every ``frame_ms`` milliseconds."""
        left, right = self._orders
        places, total = rows.spread(left, right)
        spread = encoded.new_zeros(total, encoded.shape[1]).index_copy_(0, places, encoded)
        window = torch.cat([spread[places + offset] for offset in range(-left, right + 1)], dim=1)
        alphas, convolved = self._weigh(window)
        embeddings, counts, weights = [], [], []
        for alpha, hidden in zip(alphas.split(rows.lengths), encoded.split(rows.lengths), strict=True):
            complete = torch.cat([alpha.double(), alpha.new_full((1,), self._tail, dtype=torch.float64)])
            embedding = integrate(complete, hidden, whole=self._tail > 0)
            embeddings.append(embedding)
            counts.append(len(embedding))
            weights.append(complete.cpu().numpy())
        if self._fine is None:
            return Fired(torch.cat(embeddings), counts, weights, frame_ms)
        fine = self._fine(encoded, convolved, rows)
        return Fired(torch.cat(embeddings), counts, fine, frame_ms / self._fine.times)

    def _weigh(self, window: Tensor) -> tuple[Tensor, Tensor]:
        """Each frame's weight, ``(rows,)``, from it and its neighbors side by side; and the hidden layer."""
        convolved = torch.relu(self._conv(window))
        return torch.relu(torch.sigmoid(self._output(convolved)) * self._smooth - self._noise)[
            :, 0
        ], convolved


def integrate(weights: Tensor, hidden: Tensor, *, whole: bool = True) -> Tensor:
    """The embeddings of one segment's tokens: fp32 ``(tokens, size)``.

    ``weights``: float64 ``(frames + 1,)``, the last one being the tail's, whose frame is zero; ``hidden``:
    fp32 ``(frames, size)``. What remains after the last whole number is dropped if ``whole``, else rounded.
    """
    sums = torch.cumsum(weights, 0).float()  # rounded as FunASR rounds it, so that counts agree
    count = int(sums[-1].floor() if whole else sums[-1].round())
    begins = torch.cat([sums.new_zeros(1), sums[:-1]])
    token = torch.arange(count, device=sums.device)[:, None]
    shares = (torch.minimum(sums, token + 1) - torch.maximum(begins, token)).clamp_(min=0)
    return shares[:, : len(hidden)] @ hidden


class FineWeights:
    """The head of ``CifPredictorV3`` that was trained for times: several weights for each encoder frame."""

    def __init__(self, source: Parameters, prefix: str, conf: dict[str, Any], at: Placement) -> None:
        size, self.times = int(conf["idim"]), int(conf.get("upsample_times", 5))
        kind = conf.get("upsample_type", "cnn")
        if kind not in ("cnn", "cnn_blstm"):
            problem = f"upsample_type {kind} is not supported, only cnn and cnn_blstm"
            raise ModelFilesError(source.path.parent, problem, SAME_MODEL)
        self._from_convolution = bool(conf.get("use_cif1_cnn", True))
        self._smooth = float(conf.get("smooth_factor2", 1))
        self._noise = float(conf.get("noise_threshold2", 0))
        weight = source.take(f"{prefix}upsample_cnn.weight", size, size, self.times)
        bias = source.take(f"{prefix}upsample_cnn.bias", size).repeat(self.times)
        self._up = Linear(weight.permute(2, 1, 0).flatten(0, 1).to(at.device), bias.to(at.device))
        self._lstm: torch.nn.LSTM | None = None
        if kind == "cnn_blstm":
            self._lstm = torch.nn.LSTM(size, size, batch_first=True, bidirectional=True)
            state = {
                name: source.take(f"{prefix}blstm.{name}", *value.shape)
                for name, value in self._lstm.state_dict().items()
            }
            self._lstm.load_state_dict(state)
            self._lstm.eval().requires_grad_(False).to(at.device)
        width = 2 * size if self._lstm else size
        self._output = Linear.load(source, f"{prefix}cif_output2", (1, width), at)

    def __call__(self, encoded: Tensor, convolved: Tensor, rows: Rows) -> list[npt.NDArray[np.float64]]:
        source = convolved if self._from_convolution else encoded
        lengths = [length * self.times for length in rows.lengths]
        x = self._up(source).reshape(-1, source.shape[1])
        if self._lstm is not None:
            packed = torch.nn.utils.rnn.pack_sequence(x.split(lengths), enforce_sorted=False)
            out, _ = torch.nn.utils.rnn.pad_packed_sequence(self._lstm(packed)[0], batch_first=True)
            x = torch.cat([row[:length] for row, length in zip(out, lengths, strict=True)])
        alphas = torch.relu(torch.sigmoid(self._output(x)) * self._smooth - self._noise)[:, 0]
        return [alpha.double().cpu().numpy() for alpha in alphas.split(lengths)]


def _convolution(source: Parameters, name: str, size: int, taps: int, at: Placement) -> Linear:
    """A convolution over time as a map of ``taps`` neighboring rows side by side."""
    weight = source.take(f"{name}.weight", size, size, taps).transpose(1, 2).flatten(1)
    return Linear(weight.contiguous().to(at.device), source.take(f"{name}.bias", size).to(at.device))


@dataclass(frozen=True, slots=True)
class PeakTimes:
    """How the instants at which tokens fire become times.

    A token is taken to begin ``shift`` steps after its own fire and to last until the next one does, at
    most ``longest_ms`` milliseconds. That is the rule of FunASR (``ts_prediction_lfr6_standard`` in its
    ``timestamp_tools``, which subtracts 1.5 from the index of the step that fires), without its rounding to
    whole steps: an instant lies half a step into its step on average. (FunASR's limit is 12 steps, which are
    240 ms or, with a plain ``Paraformer``, 720 ms.)
    """

    shift: float = -2.0
    longest_ms: float = 300.0

    def spans(
        self, weights: npt.NDArray[np.float64], tokens: int, step_ms: float, total_ms: float
    ) -> list[tuple[int, int]]:
        """Begin and end of each of ``tokens`` tokens, in milliseconds, increasing, from 0 to ``total_ms``.

        ``weights``: what each step of ``step_ms`` adds to the running sum.
        """
        if tokens == 0:
            return []
        fires = (fire_instants(weights, tokens + 1) + self.shift) * step_ms
        begins = fires[:-1]
        ends = np.minimum(fires[1:], begins + self.longest_ms)
        limits = np.clip(np.stack([begins, ends], axis=1), 0, total_ms).round()
        return [(int(begin), int(end)) for begin, end in limits]

    def live_spans(
        self, instants: npt.NDArray[np.float64], steps: float, begin: float, step_ms: float
    ) -> npt.NDArray[np.float64]:
        """Begin and end of tokens of which the next one is not known yet, ms, shape ``(tokens, 2)``.

        ``instants``: when they fired, in steps within the ``steps`` that began ``begin`` steps after the
        first sample. Of the last token is known that the next one fires after these steps, if at all
        (infinitely many if nothing follows).
        """
        begins = (instants + begin + self.shift) * step_ms
        following = np.append(begins[1:], (steps + begin + self.shift) * step_ms)[: len(begins)]
        return np.stack([begins, np.minimum(following, begins + self.longest_ms)], axis=1)


def fire_instants(weights: npt.NDArray[np.float64], fires: int) -> npt.NDArray[np.float64]:
    """When each of ``fires`` tokens is complete, in steps from the begin, shape ``(fires,)``, increasing.

    Within a step the running sum grows evenly. If it passes another number of whole numbers, it is scaled
    to pass that many.
    """
    sums = np.cumsum(weights)
    if int(sums[-1]) != fires:
        sums *= fires / max(sums[-1], np.finfo(np.float64).tiny)
    targets = np.arange(1, fires + 1) * _FIRE
    steps = np.minimum(np.searchsorted(sums, targets), len(sums) - 1)
    before = np.where(steps > 0, sums[steps - 1], 0.0)
    grown = np.maximum(sums[steps] - before, np.finfo(np.float64).tiny)
    return steps + np.clip((targets - before) / grown, 0, 1)
