"""Trains the online recognizer: the offline one's weights, taught to hear in chunks.

It takes the clips of the offline recognizer, with longer pauses around some of them: a live session passes
on up to 0.4 s from before a sentence and about 0.8 s from after it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from funasr.models.paraformer_streaming.model import ParaformerStreaming
from numpy.typing import NDArray
from torch.nn import functional

from starter.paraformer_batches import IGNORE, Batch, Cache
from starter.paraformer_data import FIRST_CHARACTER_ID, TOKENS
from starter.paraformer_loss import Losses, frame_loss, frame_targets, in_time, timing_loss, total_of
from starter.paraformer_model import export
from starter.paraformer_streaming_model import (
    ARCHITECTURE,
    LIVE,
    build,
    read_statistics,
    start_from_offline,
)
from starter.paraformer_streaming_windows import (
    Chunking,
    decode,
    encode,
    integrate,
    predict,
    transcribe,
)
from starter.paraformer_training import Recipe, Statistics, run_training
from starter.registry import MODELS_DIR, TrainOptions

_PEAK_RATE = 8e-4
_OTHERS = (Chunking(5, 10, 5), Chunking(8, 8, 4))
"""Chunk sizes that clients of FunASR's runtime ask for."""
_OTHERS_SHARE = 0.12
_LABEL_SMOOTHING = 0.1
_REST = 0.15
"""What the weights of a clip sum up to beyond its tokens (the head start of a token that does not come)."""
_LONGEST_LEAD, _LONGEST_TAIL = 0.5, 1.0


def losses(model: ParaformerStreaming, batch: Batch, low_precision: bool = False) -> Losses:
    """The offline recognizer's terms over chunks, without an end token: no one knows when a sentence ends.

    low_precision: run encoder and decoder in bf16; the losses and the predictor stay in fp32.
    """
    chunking = LIVE
    if torch.rand(()) < _OTHERS_SHARE:
        chunking = _OTHERS[int(torch.randint(len(_OTHERS), ()))]
    with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
        windows = encode(model, batch.speech, batch.speech_lengths, chunking)
    stream = predict(model, windows)
    scale = (batch.lengths + _REST) / stream.alphas.sum(1).clamp_min(1e-3)
    embeddings, fired = integrate(stream, (stream.alphas * scale[:, None]).detach(), batch.ids.shape[1])
    with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
        scores = decode(model, windows, embeddings, fired, batch.lengths)
    attention = functional.cross_entropy(
        scores.float().flatten(0, 1),
        batch.ids.flatten(),
        ignore_index=IGNORE,
        label_smoothing=_LABEL_SMOOTHING,
        reduction="sum",
    ) / batch.lengths.sum().clamp_min(1)
    heard = functional.pad(frame_targets(batch, model.blank_id), (chunking.right, 0), value=model.blank_id)
    frame = frame_loss(model, stream.hidden, heard[:, : stream.hidden.shape[1]])
    firings = [
        in_time(begins + chunking.right, length)
        for begins, length in zip(batch.begins, stream.lengths.tolist(), strict=True)
    ]
    timing = timing_loss(stream.alphas, stream.lengths, firings, ended=False)
    return total_of(attention, frame, timing)


def longer_pauses(
    features: NDArray[np.float32], times: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """For half of the clips with speech, up to 0.5 s more before and up to 1 s more after it.

    What is added is drawn from the clip's own frames before and after the speech. Frames are of 10 ms.
    """
    if len(times) == 0 or rng.random() < 0.5:
        return features, times
    lead = features[: max(0, int(times[0, 0] * 100) - 3)]
    tail = features[int(times[-1, 1] * 100) + 10 :]
    more_before = int(rng.uniform(0, _LONGEST_LEAD) * 100) if len(lead) > 2 else 0
    more_after = int(rng.uniform(0, _LONGEST_TAIL) * 100) if len(tail) > 2 else 0
    before = lead[rng.integers(0, max(1, len(lead)), more_before)]
    after = tail[rng.integers(0, max(1, len(tail)), more_after)]
    return np.concatenate([before, features, after]), times + np.float32(more_before / 100)


def _start() -> ParaformerStreaming:
    model = build(ctc_weight=0.5)
    start_from_offline(model, MODELS_DIR / "paraformer")
    return model


def _statistics(cache: Cache) -> Statistics:
    return read_statistics(MODELS_DIR / "paraformer")


def _text(model: ParaformerStreaming, speech: torch.Tensor) -> str:
    ids = transcribe(model, speech, torch.tensor([speech.shape[1]]), LIVE)[0]
    return "".join(TOKENS[token] for token in ids if token >= FIRST_CHARACTER_ID)


def _export(
    directory: Path,
    weights: dict[str, torch.Tensor],
    mean: NDArray[np.float32],
    deviation: NDArray[np.float32],
) -> None:
    export(directory, weights, mean, deviation, ARCHITECTURE)


def train_streaming(options: TrainOptions) -> None:
    """Train on the clips in the work directory of the offline recognizer, next to our own."""
    recipe = Recipe(_start, _statistics, losses, _text, _export, _PEAK_RATE, longer_pauses)
    run_training(recipe, options, options.work.parent / "paraformer")
