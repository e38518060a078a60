"""The recognizer's training loss: FunASR's own terms, and a CIF predictor that is told when characters
begin.

The synthesizer knows the time of every character, so the predictor's weights (the alphas, whose running sum
fires a token at each whole number) are trained on them directly instead of on the number of tokens alone.
Counting then works after a few hundred steps and at any length, and the firing times are usable as
character times. For the same reason the CTC head, which is there for training only, learns the character of
every frame: the sum over all alignments that CTC takes is not needed where the alignment is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from funasr.models.paraformer.cif_predictor import cif_v1
from funasr.models.paraformer.model import Paraformer
from funasr.models.transformer.utils.add_sos_eos import add_sos_eos
from funasr.models.transformer.utils.nets_utils import make_pad_mask
from torch.nn import functional

from starter.paraformer_batches import IGNORE, Batch

_FIRING_DELAY = 2.0
"""Encoder frames from a character's begin to its firing. FunASR's `ts_prediction_lfr6_standard` takes 1.5
frames off the index of the firing frame, and the firing instant lies half a frame into it on average."""
_WINDOW = 4.0
"""A character's weight is spread over at most so many frames before it fires."""
_HEAD_START = 0.15
"""Share of the next weight that comes right after a firing. Without it the running sum would rest at a
whole number during a pause, and the smallest error would delay the firing to the end of the pause."""
_LEAST_GAP = 0.8
_FRAME_CENTER = 0.2
"""A stacked frame spans 35 ms to either side of its middle filter-bank window, whose center is at 12.5 ms."""

_FRAME_WEIGHT = 1.0
_FRAME_ALPHA_WEIGHT, _SPAN_WEIGHT, _RUNNING_WEIGHT, _COUNT_WEIGHT = 2.0, 2.0, 0.6, 1.0
_EMPTY_FACTOR = 3.0


@dataclass(frozen=True, slots=True)
class Losses:
    total: torch.Tensor
    attention: float
    frame: float
    timing: float


def total_of(attention: torch.Tensor, frame: torch.Tensor, timing: torch.Tensor) -> Losses:
    total = attention + _FRAME_WEIGHT * frame + timing
    return Losses(total, float(attention.detach()), float(frame.detach()), float(timing.detach()))


def raw_alphas(model: Paraformer, encoded: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """CifPredictorV2's weights before any scaling, [batch, frames]; mask: [batch, frames], 1 inside the
    clip.
    """
    predictor = model.predictor
    context = torch.relu(predictor.cif_conv1d(predictor.pad(encoded.transpose(1, 2)))).transpose(1, 2)
    return torch.sigmoid(predictor.cif_output(context)).squeeze(-1) * mask


def firing_times(begins: torch.Tensor, ends: torch.Tensor, frames: int) -> torch.Tensor:
    """When each of the n characters and the end token should fire, [n + 1] in encoder frames, increasing."""
    return in_time(torch.cat([begins, ends[-1:]]), frames)


def in_time(begins: torch.Tensor, frames: int) -> torch.Tensor:
    """When tokens that begin at `begins` should fire, [n] in encoder frames; all of them do in `frames`."""
    times = begins + _FIRING_DELAY
    count = len(times)
    latest = frames - _LEAST_GAP * torch.arange(count - 1, -1, -1, dtype=times.dtype)
    return torch.minimum(times, latest).clamp_min(0.5)


def alpha_targets(firing: torch.Tensor, frames: int, *, ended: bool = True) -> torch.Tensor:
    """The weight of every frame, [frames], whose running sum reaches i + 1 at `firing`[i].

    ended: nothing follows the last firing. Otherwise a head start follows it, as it follows the others.
    """
    knots, sums = [0.0], [0.0]
    for index, time in enumerate(firing.tolist()):
        begin = max(knots[-1], time - _WINDOW)
        if begin > knots[-1] + 1:
            if index > 0:
                knots.append(knots[-1] + 1)
                sums.append(index + _HEAD_START)
            if begin > knots[-1]:
                knots.append(begin)
                sums.append(sums[-1])
        knots.append(time)
        sums.append(index + 1.0)
    if not ended:
        knots.append(knots[-1] + 1)
        sums.append(sums[-1] + _HEAD_START)
    return _interpolate(torch.arange(frames + 1.0), torch.tensor(knots), torch.tensor(sums)).diff()


def _interpolate(points: torch.Tensor, knots: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Piecewise linear through (knots, values), constant outside; differentiable in `values`."""
    right = torch.searchsorted(knots, points).clamp(1, len(knots) - 1)
    left = right - 1
    share = ((points - knots[left]) / (knots[right] - knots[left]).clamp_min(1e-6)).clamp(0, 1)
    return values[left] + share * (values[right] - values[left])


def timing_loss(
    alphas: torch.Tensor, lengths: torch.Tensor, firings: list[torch.Tensor], *, ended: bool = True
) -> torch.Tensor:
    """Per token: how far the weights, their sums between firings, their running sum and their total are off.

    alphas: [batch, frames]. lengths: int64 [batch], frames of a clip. firings: per clip, when its tokens
    should fire, in frames; none for a clip without speech.

    Squares, because absolute errors are least at the median, which left the sums 4 % short on average: three
    tokens lost in a talk of eighty. The running sum keeps what is left from adding up.
    """
    off_frame = off_span = off_running = off_count = alphas.new_zeros(())
    for row, firing in enumerate(firings):
        frames = int(lengths[row])
        total = alphas[row].sum()
        # Clips without speech are few tokens, but text invented in them is the error that is noticed first.
        if len(firing) == 0:
            off_count = off_count + _EMPTY_FACTOR * (total - (1.0 if ended else 0.0)).abs()
            continue
        targets = alpha_targets(firing, frames, ended=ended)
        off_count = off_count + (total - targets.sum()).abs()
        off_frame = off_frame + (alphas[row, :frames] - targets).square().sum()
        running = torch.cat([alphas.new_zeros(1), alphas[row, :frames].cumsum(0)])
        reached = _interpolate(firing, torch.arange(frames + 1.0), running)
        off_span = off_span + (reached.diff(prepend=alphas.new_zeros(1)) - 1).square().sum()
        expected = torch.arange(1.0, len(reached) + 1)
        off_running = off_running + functional.smooth_l1_loss(reached, expected, reduction="sum", beta=0.5)
    weighted = (
        _FRAME_ALPHA_WEIGHT * off_frame
        + _SPAN_WEIGHT * off_span
        + _RUNNING_WEIGHT * off_running
        + _COUNT_WEIGHT * off_count
    )
    return weighted / sum(max(1, len(firing)) for firing in firings)


def frame_targets(batch: Batch, blank: int) -> torch.Tensor:
    """The token spoken in every frame, int64 [batch, frames]; `blank` in pauses, IGNORE in the padding."""
    count = batch.speech.shape[1]
    centers = torch.arange(count) + _FRAME_CENTER
    targets = torch.full((len(batch.ids), count), IGNORE)
    for row, (begins, ends) in enumerate(zip(batch.begins, batch.ends, strict=True)):
        frames = int(batch.speech_lengths[row])
        targets[row, :frames] = blank
        if len(begins) == 0:
            continue
        character = torch.searchsorted(begins.contiguous(), centers[:frames], right=True) - 1
        spoken = (character >= 0) & (centers[:frames] < ends[character.clamp_min(0)])
        targets[row, :frames][spoken] = batch.ids[row, character[spoken]]
    return targets


def frame_loss(model: Paraformer, encoded: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of the CTC head over the frames, with the alignment given instead of summed over."""
    scores = model.ctc.ctc_lo(encoded)
    return functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)


def losses(model: Paraformer, batch: Batch, low_precision: bool = False) -> Losses:
    """All terms per token. The decoder sees glancing-sampled true tokens as in `Paraformer.sampler`.

    low_precision: run encoder and decoder in bf16 (1.6 times as fast on a CPU with avx512_bf16); the losses
    and the predictor stay in fp32.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
        encoded, lengths = model.encode(batch.speech, batch.speech_lengths)
    encoded = encoded.float()
    mask = (~make_pad_mask(lengths, maxlen=encoded.shape[1])).float()
    alphas = raw_alphas(model, encoded, mask)
    targets = add_sos_eos(batch.ids, model.sos, model.eos, IGNORE)[1]
    target_lengths = batch.lengths + 1
    # A hair more than the whole number, so that rounding never swallows the last token.
    scale = target_lengths * (1 + 1e-4) / alphas.sum(1).clamp_min(1e-3)
    # The decoder's loss would pull the first and the last weight down by a quarter, which delays all firings.
    embeddings, _ = cif_v1(encoded, (alphas * scale[:, None]).detach(), 1.0)
    embeddings = embeddings[:, : targets.shape[1]]
    with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
        sampled, _ = model.sampler(encoded, lengths, targets, target_lengths, embeddings)
        decoded = model.decoder(encoded, lengths, sampled, target_lengths)[0]
    attention = model.criterion_att(decoded.float(), targets)
    frame = frame_loss(model, encoded, frame_targets(batch, model.blank_id))
    firings = [
        firing_times(begins, ends, frames) if len(begins) else begins
        for begins, ends, frames in zip(batch.begins, batch.ends, batch.speech_lengths.tolist(), strict=True)
    ]
    timing = timing_loss(alphas, batch.speech_lengths, firings)
    return total_of(attention, frame, timing)
