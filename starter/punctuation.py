"""The `ct-punc` starter model: FunASR's CT-Transformer punctuation model, trained from scratch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from funasr.models.ct_transformer.model import CTTransformer

from starter.punctuation_data import MARK_NAMES, PADDING, TOKENS, UNKNOWN, training_batch
from starter.punctuation_evaluate import measure
from starter.registry import Row, TrainOptions, save_facts
from starter.training import Schedule, optimize, write_model

DEFAULT_MINUTES = 8.0

ABOUT = """
FunASR's `CTTransformer` (three self-attention blocks of width 128 with memory, one token a character), which
puts ，。？、 into unpunctuated Chinese text, a single sentence or a stream of any length. It was trained
from scratch on generated sentences and talks of the starter grammar, where commas follow a rule; characters
that the grammar does not have count as unknown.

How it was measured. Text goes through `funasr.AutoModel.generate` without its marks. A mark counts as right
if the same mark stands behind the same character. "sentence" is one held-out sentence, "paragraph" three to
eight of them, "stream" at least 400 characters; "all" is these three together. FunASR itself ends every text
with 。 where the model put nothing.
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
    """Train on one thread, on text made as it goes, and write the model directory.

    One process is enough: `options.processes` is not used.
    """
    train_on_text("ct-punc", CTTransformer, "SANMEncoder", _loss, options)


def train_on_text(
    name: str,
    architecture: type[CTTransformer],
    encoder: str,
    loss: Callable[[CTTransformer, int], torch.Tensor],
    options: TrainOptions,
) -> None:
    """Train a model from scratch on one thread and write its directory.

    encoder: what FunASR knows its encoder as. loss: that of the model on the batch with a given seed.
    """
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    model = architecture(encoder=encoder, encoder_conf=_ENCODER, vocab_size=len(TOKENS), **_MODEL)
    steps = max(2 * _WARMUP, round(options.minutes * _STEPS_PER_MINUTE))
    minutes = optimize(
        model,
        lambda step: loss(model, options.seed * 1_000_003 + step),
        Schedule(steps, _PEAK_RATE, _WARMUP),
        options.work / f"checkpoint-{options.seed}-{steps}.pt",
        name,
    )
    export(model, options.output, encoder)
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


def export(model: CTTransformer, model_dir: Path, encoder: str) -> None:
    """Write the model, whose encoder FunASR knows as `encoder`, as a ModelScope directory."""
    config = {
        "model": type(model).__name__,
        "model_conf": _MODEL,
        "encoder": encoder,
        "encoder_conf": _ENCODER,
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": {"unk_symbol": UNKNOWN},
    }
    files = {"tokenizer_conf": {"token_list": "tokens.json"}}
    write_model(model_dir, dict(model.state_dict()), config, "punctuation", files)
    tokens = json.dumps(TOKENS, ensure_ascii=False, indent=0)
    (model_dir / "tokens.json").write_text(tokens + "\n", "utf-8")


def mark_loss(scores: torch.Tensor, marks: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the scores before the softmax, (rows, columns, marks), over padded mark ids."""
    return torch.nn.functional.cross_entropy(
        scores.flatten(0, 1), marks.flatten(), ignore_index=PADDING, label_smoothing=_SMOOTHING
    )


def _loss(model: CTTransformer, seed: int) -> torch.Tensor:
    """The loss on the batch with that seed.

    CTTransformer.forward would need `punc_weight` as a tensor, which a configuration file cannot give it.
    """
    # Dropout must not depend on where an interrupted training was taken up again.
    torch.manual_seed(seed)
    ids, lengths, marks = training_batch(seed)
    scores, _ = model.punc_forward(ids, lengths)
    return mark_loss(scores, marks)
