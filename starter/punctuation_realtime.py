"""The `ct-punc-realtime` starter model: FunASR's CT-Transformer for live text, trained from scratch."""

from __future__ import annotations

from pathlib import Path

import torch
from funasr.models.ct_transformer_streaming.model import CTTransformerStreaming

from starter.punctuation import mark_loss, train_on_text
from starter.punctuation_realtime_data import realtime_batch
from starter.punctuation_realtime_evaluate import measure
from starter.registry import Row, TrainOptions

DEFAULT_MINUTES = 8.0

ABOUT = """
FunASR's `CTTransformerStreaming` (three self-attention blocks of width 128 with memory, one token a
character), which puts ，。？、 into Chinese text that arrives in blocks. It sees the words since the last
certain end of a sentence again with each block, may put a mark behind the last of them, and attends to later
words in its last layer only. It was trained from scratch on generated sentences and talks of the starter
grammar, cut where speakers pause and anywhere else; characters that the grammar does not have count as
unknown.

How it was measured. Talks of at least 200 characters go through `funasr.AutoModel.generate(cache=...)`
without their marks, in blocks. A mark counts as right if the same mark stands behind the same character.
"cut anywhere": blocks of 1 to 15 characters. "cut at pauses": each block ends where the text has a mark.
"growing sentence": a block that holds one to all characters of a sentence, after three whole sentences,
measured without its last character. "end of a block": the mark behind the last character of a block that
ends at a pause, which the model gives before it has seen the next block. "all": the first three together.
"""


def train(options: TrainOptions) -> None:
    """Train on one thread, on text made as it goes, and write the model directory.

    One process is enough: `options.processes` is not used.
    """
    train_on_text("ct-punc-realtime", CTTransformerStreaming, "SANMVadEncoder", _loss, options)


def evaluate(model_dir: Path) -> list[Row]:
    """Precision, recall and F1 of each mark through funasr.AutoModel, block by block; takes a minute."""
    return measure(model_dir)


def _loss(model: CTTransformerStreaming, seed: int) -> torch.Tensor:
    """The loss on the batch with that seed."""
    # Dropout must not depend on where an interrupted training was taken up again.
    torch.manual_seed(seed)
    batch = realtime_batch(seed)
    scores, _ = model.punc_forward(batch.ids, batch.lengths, batch.blocks)
    return mark_loss(scores, batch.marks)
