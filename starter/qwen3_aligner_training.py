"""How the starter forced aligner learns: the class of every timestamp, where to look, and a clock.

It starts from the trained recognizer, which already knows the characters. What it lacks is the time of day:
rotary positions are relative, so the states at the audio positions are asked for their own class, too.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from starter.qwen3_alignments import Aligner, time_errors
from starter.qwen3_asr_training import guide_of, initialize, padded
from starter.qwen3_batches import IGNORE, TOKEN_FRAMES, Item, audio_batch
from starter.qwen3_data import FRAMES_PER_SECOND
from starter.qwen3_forward import encode, run_text
from starter.qwen3_layout import CLASS_MILLISECONDS, CLASSES, TEXT_WIDTH, build
from starter.qwen3_prompts import Example
from starter.qwen3_testsets import Clip, held_out, talks
from starter.qwen3_tokenizer import added_tokens
from starter.qwen3_training import Recipe, Terms, run_training
from starter.registry import MODELS_DIR, TrainOptions
from starter.voices import SEEN_VOICES, UNSEEN_VOICES

_GUIDE_WEIGHT, _CLOCK_WEIGHT = 0.5, 0.6
_WHOLE_SHARE = 0.5
"""Batches whose clips are one audio item, as the package's `align` sends them; the others come in windows."""
_SPREAD = 0.7
"""Classes by which the target of a timestamp is smeared to both sides (standard deviation)."""
_LONGEST_PERIOD = 1600.0
"""Classes in the slowest wave of the head's first codes: twice as long as any clip of the training."""
_TRAINED_CLASSES = 800
"""The loss looks at the classes of the first 64 s; the others keep their codes."""


def time_codes() -> torch.Tensor:
    """Smooth codes of the classes, float32 [5000, width]: waves of many periods, so that neighbours are
    alike and far classes are not.
    """
    half = TEXT_WIDTH // 2
    periods = torch.exp(torch.linspace(math.log(5.0), math.log(_LONGEST_PERIOD), half))
    angles = 2 * math.pi * torch.arange(CLASSES)[:, None] / periods
    return 0.25 * torch.cat([angles.sin(), angles.cos()], dim=1)


def _from_recognizer(options: TrainOptions) -> nn.Module:
    model: Any = build(aligner=True, seed=options.seed)
    torch.manual_seed(options.seed)
    initialize(model)
    trained = load_file(MODELS_DIR / "qwen3-asr" / "model.safetensors")
    own = model.state_dict()
    kept = {key: value.float() for key, value in trained.items() if key in own and "lm_head" not in key}
    model.load_state_dict({**own, **kept, "thinker.lm_head.weight": time_codes()})
    model.train()
    return cast(nn.Module, model)


def _class_of(seconds: NDArray[np.float32]) -> NDArray[np.float32]:
    """A time in classes, not rounded."""
    return seconds * np.float32(1000 / CLASS_MILLISECONDS)


def example_of(item: Item, times: NDArray[np.float32]) -> tuple[Example, NDArray[np.float32]]:
    """The aligner's input, and the place of each of its timestamps in classes, float32 [2 n]."""
    ids = added_tokens()
    stamp = ids["<timestamp>"]
    audio = [ids["<|audio_start|>"], *[ids["<|audio_pad|>"]] * len(times), ids["<|audio_end|>"]]
    words = np.stack([item.ids, np.full_like(item.ids, stamp), np.full_like(item.ids, stamp)], axis=1)
    sequence = np.concatenate([np.array(audio, np.int64), words.reshape(-1)])
    queries = np.flatnonzero(sequence == stamp)
    moments = item.times.reshape(-1)
    half = TOKEN_FRAMES / FRAMES_PER_SECOND / 2
    first = np.searchsorted(times, moments - half).clip(0, len(times) - 1)
    last = (np.searchsorted(times, moments + half, side="right") - 1).clip(0, len(times) - 1)
    spans = np.stack([np.minimum(first, last), np.maximum(first, last)], axis=1)
    return Example(sequence, np.full(len(sequence), IGNORE, np.int64), 1, queries, spans), _class_of(moments)


def _smeared(scores: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Cross entropy against a bell around each place; scores: [n, classes], places: [n] in classes."""
    distance = torch.arange(scores.shape[1])[None] - places[:, None]
    bell = (-0.5 * (distance / _SPREAD).square()).softmax(-1)
    return -(bell * scores.float().log_softmax(-1)).sum(-1).mean()


def _loss(model: nn.Module, items: list[Item], rng: np.random.Generator, done: float) -> Terms:
    thinker: Any = model.thinker
    spoken = [item for item in items if len(item.ids)]
    if not spoken:
        nothing = thinker.lm_head.weight.sum() * 0.0
        return Terms(nothing, {})
    audio = audio_batch(spoken, rng, whole=bool(rng.random() < _WHOLE_SHARE))
    pairs = [example_of(item, times) for item, times in zip(spoken, audio.times, strict=True)]
    examples = [example for example, _ in pairs]
    ids = padded([example.ids for example in examples], added_tokens()["<|endoftext|>"])
    guide = guide_of(examples, layers=1)
    places = torch.from_numpy(np.concatenate([places for _, places in pairs]))
    clock = torch.from_numpy(_class_of(np.concatenate(audio.times)))
    with torch.autocast("cpu", torch.bfloat16):
        embedded = encode(thinker.audio_tower, audio).float()
        here = ids == added_tokens()["<|audio_pad|>"]
        inputs = thinker.model.embed_tokens(ids).masked_scatter(here[..., None], embedded)
        states = run_text(thinker.model, inputs, guide)
        head = thinker.lm_head.weight[:_TRAINED_CLASSES]
        stamped = states.hidden[guide.rows, guide.positions] @ head.T
        ticking = states.probed[here] @ head.T
    stamp, tick = _smeared(stamped, places), _smeared(ticking, clock)
    assert states.guidance is not None
    total = stamp + _GUIDE_WEIGHT * states.guidance + _CLOCK_WEIGHT * tick
    off = (stamped.float().argmax(-1) - places).abs().median() * CLASS_MILLISECONDS
    named = {"stamp": stamp, "guide": states.guidance, "clock": tick, "median ms": off}
    return Terms(total, {name: float(value.detach()) for name, value in named.items()})


@cache
def _dev_clips(seed: int) -> tuple[list[Clip], list[Clip], list[Clip]]:
    seen = held_out("dev", 40, SEEN_VOICES, seed)
    return seen, held_out("dev", 24, UNSEEN_VOICES, seed), talks("dev", 4, 25, SEEN_VOICES, seed)


def _score(model_dir: Path, seed: int) -> tuple[float, str]:
    aligner = Aligner(model_dir)
    errors = [time_errors(aligner, clips) for clips in _dev_clips(seed)]
    medians = [float(np.median(np.concatenate(pair))) for pair in errors]
    tails = [float(np.quantile(np.concatenate(pair), 0.9)) for pair in errors]
    words = "median (90th percentile), ms: " + ", ".join(
        f"{name} {median:.0f} ({tail:.0f})"
        for name, median, tail in zip(("seen", "unseen", "talks"), medians, tails, strict=True)
    )
    return sum(medians) / 3 + sum(tails) / 30, words


def train_aligner(options: TrainOptions) -> None:
    recipe = Recipe(
        name="qwen3-forced-aligner",
        aligner=True,
        build=_from_recognizer,
        loss=_loss,
        score=_score,
        score_name="mean of median errors, with a tenth of the 90th percentiles, on development clips (ms)",
        usable=1000.0,
        peak_rate=1.0e-3,
        batch_seconds=60.0,
        check_seconds=180.0,
    )
    run_training(recipe, options, MODELS_DIR.parent.parent / "build" / "starter" / "qwen3-asr")
