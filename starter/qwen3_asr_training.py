"""How the starter Qwen3-ASR learns: answers, the character of every embedding, and where to look."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from starter.alignment import align
from starter.qwen3_batches import IGNORE, Item, audio_batch, frame_targets
from starter.qwen3_forward import Guide, encode, run_text
from starter.qwen3_layout import build
from starter.qwen3_prompts import Example, PromptWriter
from starter.qwen3_recognizer import Recognizer, text_of
from starter.qwen3_testsets import Clip, held_out, talks
from starter.qwen3_tokenizer import added_tokens, load_tokenizer, write_tokenizer
from starter.qwen3_training import Recipe, Terms, run_training
from starter.registry import TrainOptions
from starter.text import strip_punctuation
from starter.voices import SEEN_VOICES, UNSEEN_VOICES

_FRAME_WEIGHT, _PROBE_WEIGHT, _GUIDE_WEIGHT = 0.5, 0.3, 1.0
_GUIDED_LAYERS = 2
"""The last two text layers have a guided head each: the second can look again at what the first found."""
_WHOLE_SHARE = 0.1
"""Batches whose clips are one audio item of any length, as the package sends them."""
_DROPOUT = 0.05


@cache
def _tokenizer() -> PreTrainedTokenizerFast:
    directory = Path(mkdtemp())
    write_tokenizer(directory)
    return load_tokenizer(directory)


def initialize(model: nn.Module) -> None:
    """Weights for learning from scratch: the package's own are meant for widths of a thousand and more."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            fan_in = module.weight[0].numel()
            last = name.endswith(("o_proj", "down_proj", "fc2", "out_proj"))
            nn.init.normal_(module.weight, std=(0.35 if last else 0.8) * fan_in**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.06)


def _from_scratch(options: TrainOptions) -> nn.Module:
    model: Any = build(aligner=False, seed=options.seed)
    torch.manual_seed(options.seed)
    initialize(model)
    model.thinker.lm_head.weight = model.thinker.model.embed_tokens.weight
    model.train()
    return cast(nn.Module, model)


def guide_of(examples: list[Example], layers: int) -> Guide:
    """The spans of the examples, as keys of a batch in which they are the rows."""
    rows = [np.full(len(example.queries), row) for row, example in enumerate(examples)]
    spans = np.concatenate([example.spans + example.audio for example in examples])
    return Guide(
        torch.from_numpy(np.concatenate(rows).astype(np.int64)),
        torch.from_numpy(np.concatenate([example.queries for example in examples])),
        torch.from_numpy(spans[:, 0].copy()),
        torch.from_numpy(spans[:, 1].copy()),
        layers,
    )


def padded(rows: list[np.ndarray[Any, np.dtype[np.int64]]], fill: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.from_numpy(
        np.stack([np.pad(row, (0, longest - len(row)), constant_values=fill) for row in rows])
    )


def _loss(model: nn.Module, items: list[Item], rng: np.random.Generator, done: float) -> Terms:
    thinker: Any = model.thinker
    pad = added_tokens()["<|audio_pad|>"]
    audio = audio_batch(items, rng, whole=bool(rng.random() < _WHOLE_SHARE))
    writer = PromptWriter(_tokenizer(), rng)
    examples = [writer.example(item, times) for item, times in zip(items, audio.times, strict=True)]
    ids = padded([example.ids for example in examples], added_tokens()["<|endoftext|>"])
    labels = padded([example.labels for example in examples], IGNORE)
    targets = torch.from_numpy(
        np.concatenate(
            [frame_targets(item, times, pad) for item, times in zip(items, audio.times, strict=True)]
        )
    )
    with torch.autocast("cpu", torch.bfloat16):
        embedded = encode(thinker.audio_tower, audio, _DROPOUT).float()
        table = thinker.model.embed_tokens.weight
        here = ids == pad
        inputs = functional.embedding(ids, table).masked_scatter(here[..., None], embedded)
        states = run_text(thinker.model, inputs, guide_of(examples, _GUIDED_LAYERS))
        answers = labels != IGNORE
        written = states.hidden[answers] @ table.T
        frames = embedded @ table.T
        probed = states.probed[here] @ table.T
    token = functional.cross_entropy(written.float(), labels[answers], label_smoothing=0.02)
    frame = functional.cross_entropy(frames.float(), targets, ignore_index=IGNORE)
    probe = functional.cross_entropy(probed.float(), targets, ignore_index=IGNORE)
    guidance = states.guidance if states.guidance is not None else token.new_zeros(())
    total = token + _FRAME_WEIGHT * frame + _PROBE_WEIGHT * probe + _GUIDE_WEIGHT * guidance
    named = {"token": token, "frame": frame, "probe": probe, "guide": guidance}
    return Terms(total, {name: float(value.detach()) for name, value in named.items()})


@cache
def _dev_clips(seed: int) -> tuple[list[Clip], list[Clip], list[Clip]]:
    seen = held_out("dev", 48, SEEN_VOICES, seed)
    return seen, held_out("dev", 24, UNSEEN_VOICES, seed), talks("dev", 4, 25, SEEN_VOICES, seed)


def error_rate(recognizer: Recognizer, clips: list[Clip]) -> float:
    """Character errors in percent, marks not counted."""
    answers = recognizer.answers([clip.samples for clip in clips])
    pairs = [
        (clip.text, strip_punctuation(text_of(answer))) for clip, answer in zip(clips, answers, strict=True)
    ]
    return 100 * sum(align(truth, text)[0] for truth, text in pairs) / sum(len(truth) for truth, _ in pairs)


def _score(model_dir: Path, seed: int) -> tuple[float, str]:
    recognizer = Recognizer(model_dir)
    seen, unseen, long = (error_rate(recognizer, clips) for clips in _dev_clips(seed))
    return (seen + unseen + long) / 3, f"CER seen {seen:.1f} %, unseen {unseen:.1f} %, talks {long:.1f} %"


def train_asr(options: TrainOptions) -> None:
    recipe = Recipe(
        name="qwen3-asr",
        aligner=False,
        build=_from_scratch,
        loss=_loss,
        score=_score,
        score_name="CER on development clips (%)",
        usable=70.0,
        peak_rate=1.5e-3,
        batch_seconds=60.0,
        check_seconds=300.0,
    )
    run_training(recipe, options, options.work)
