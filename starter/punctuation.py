"""The `ct-punc` starter model: FunASR's CT-Transformer punctuation model, trained from scratch."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from funasr.models.ct_transformer.model import CTTransformer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from starter.punctuation_data import MARK_NAMES, PADDING, TOKENS, training_batch
from starter.punctuation_evaluate import measure
from starter.registry import Row, TrainOptions, save_facts

DEFAULT_MINUTES = 8.0

ABOUT = """
FunASR's `CTTransformer` (three self-attention blocks of width 128 with memory, one token a character), which
puts ，。？、 into unpunctuated Chinese text, a single sentence or a stream of any length. It was trained from
scratch on generated sentences and talks of the starter grammar, where commas follow a rule; characters that the
grammar does not have count as unknown.

How it was measured. Text goes through `funasr.AutoModel.generate` without its marks. A mark counts as right if
the same mark stands behind the same character. "sentence" is one held-out sentence, "paragraph" three to eight
of them, "stream" at least 400 characters. FunASR itself closes every text with 。 where the model put nothing.
"""

_ENCODER: dict[str, Any] = {
    "input_size": 128,
    "output_size": 128,
    "attention_heads": 4,
    "linear_units": 512,
    "num_blocks": 3,
    "dropout_rate": 0.1,
    "positional_dropout_rate": 0.1,
    "attention_dropout_rate": 0.0,
    "input_layer": "pe",
    "pos_enc_class": "SinusoidalPositionEncoder",
    "normalize_before": True,
    "kernel_size": 11,
    "sanm_shfit": 0,
    "selfattention_layer_type": "sanm",
    "padding_idx": PADDING,
}
_MODEL: dict[str, Any] = {
    "ignore_id": PADDING,
    "embed_unit": 128,
    "att_unit": 128,
    "dropout_rate": 0.1,
    "punc_list": list(MARK_NAMES),
    "punc_weight": [1.0] * len(MARK_NAMES),
    "sentence_end_id": MARK_NAMES.index("。"),
}
_PEAK_RATE = 1.5e-3
_WARMUP = 100
_SMOOTHING = 0.02
# Optimization steps that one core of the machine this was written on does in a minute. Turning minutes into
# steps keeps a training repeatable, which stopping by the clock would not be.
_STEPS_PER_MINUTE = 150


def train(options: TrainOptions) -> None:
    """Train on one thread, on text made as it goes, and write the model directory."""
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    model = CTTransformer(encoder="SANMEncoder", encoder_conf=_ENCODER, vocab_size=len(TOKENS), **_MODEL)
    steps = max(2 * _WARMUP, round(options.minutes * _STEPS_PER_MINUTE))
    minutes = _optimize(model, steps, options)
    export(model, options.output)
    save_facts(
        options.output,
        {
            "data": f"{steps} batches of about 2000 characters, generated as the training goes",
            "characters known": len(TOKENS) - 4,
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "optimization steps": steps,
            "training time on one core": f"{minutes:.1f} min",
            "seed": options.seed,
        },
    )


def evaluate(model_dir: Path) -> list[Row]:
    """Precision, recall and F1 of each mark through funasr.AutoModel; takes about a minute."""
    return measure(model_dir)


def export(model: CTTransformer, model_dir: Path) -> None:
    """Write the model as a ModelScope directory, weights in float16."""
    model_dir.mkdir(parents=True, exist_ok=True)
    torch.save({name: weight.half() for name, weight in model.state_dict().items()}, model_dir / "model.pt")
    config = {
        "model": "CTTransformer",
        "model_conf": _MODEL,
        "encoder": "SANMEncoder",
        "encoder_conf": _ENCODER,
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": {"unk_symbol": "<unk>"},
    }
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    (model_dir / "config.yaml").write_text(text, "utf-8")
    tokens = json.dumps(TOKENS, ensure_ascii=False, indent=0)
    (model_dir / "tokens.json").write_text(tokens + "\n", "utf-8")
    layout = {
        "framework": "pytorch",
        "task": "punctuation",
        "model": {"type": "pytorch"},
        "file_path_metas": {
            "init_param": "model.pt",
            "config": "config.yaml",
            "tokenizer_conf": {"token_list": "tokens.json"},
        },
    }
    (model_dir / "configuration.json").write_text(json.dumps(layout, indent=2) + "\n", "utf-8")


def _optimize(model: CTTransformer, steps: int, options: TrainOptions) -> float:
    """Train in place, from the last checkpoint if there is one; the minutes it took in all."""
    checkpoint = options.work / f"checkpoint-{options.seed}-{steps}.pt"
    optimizer = torch.optim.AdamW(model.parameters(), lr=_PEAK_RATE, betas=(0.9, 0.98), weight_decay=1e-2)
    step, spent = _resume(checkpoint, model, optimizer)
    model.train()
    begun = time.monotonic()
    with _progress() as progress:
        task = progress.add_task("ct-punc", total=steps, completed=step)
        while step < steps:
            # Dropout must not depend on where an interrupted training was taken up again.
            torch.manual_seed(options.seed * 1_000_003 + step)
            loss = _loss(model, training_batch(options.seed * 1_000_003 + step))
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(step, steps)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            step += 1
            progress.update(task, completed=step, description=f"ct-punc loss {loss.item():.3f}")
            if step % 100 == 0 or step == steps:
                _save(checkpoint, model, optimizer, step, spent + (time.monotonic() - begun) / 60)
    model.eval()
    return spent + (time.monotonic() - begun) / 60


def _loss(model: CTTransformer, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy over the marks. CTTransformer.forward would need `punc_weight` as a tensor, which a
    configuration file cannot give it."""
    ids, lengths, marks = batch
    scores, _ = model.punc_forward(ids, lengths)
    return torch.nn.functional.cross_entropy(
        scores.flatten(0, 1), marks.flatten(), ignore_index=PADDING, label_smoothing=_SMOOTHING
    )


def _learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to nothing."""
    if step < _WARMUP:
        return _PEAK_RATE * (step + 1) / _WARMUP
    return _PEAK_RATE * 0.5 * (1 + math.cos(math.pi * (step - _WARMUP) / (steps - _WARMUP)))


def _save(
    path: Path, model: CTTransformer, optimizer: torch.optim.Optimizer, step: int, minutes: float
) -> None:
    partial = path.with_suffix(".partial")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    torch.save({**state, "minutes": minutes}, partial)
    partial.replace(path)


def _resume(path: Path, model: CTTransformer, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["minutes"])


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )
