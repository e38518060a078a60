"""The starter Qwen3-ForcedAligner: made from the starter Qwen3-ASR, which must be trained first."""

from __future__ import annotations

from pathlib import Path

from starter.qwen3_aligner_training import train_aligner
from starter.qwen3_evaluation import measure_aligner
from starter.registry import Row, TrainOptions

DEFAULT_MINUTES = 30.0
ABOUT = """
A small forced aligner in the layout of
[Qwen/Qwen3-ForcedAligner-0.6B](https://huggingface.co/Qwen/Qwen3-ForcedAligner-0.6B): the `qwen-asr`
package and vLLM load this directory unchanged. Given speech and its text, it names the begin and the end of
every character as one of 5000 classes of 80 ms, all in one pass.

It was made from the starter `qwen3-asr`: the same encoder, the first three layers of the text model, and a
head whose rows began as smooth codes of time. It learned from the synthesizer's own character times, on the
same clips of up to 31 s, half of them as one audio item and half in windows of 8 s. Two helps are in
training alone: one attention head of the last layer was shown where each begin and each end is, and the
states at the audio positions were asked for their own time, since rotary positions are relative and the
classes are not.
"""


def train(options: TrainOptions) -> None:
    train_aligner(options)


def evaluate(model_dir: Path) -> list[Row]:
    return measure_aligner(model_dir)
