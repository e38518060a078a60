"""The starter recognizer: a small Paraformer trained from scratch on synthesized Mandarin."""

from __future__ import annotations

from pathlib import Path

from starter.paraformer_evaluation import measure
from starter.paraformer_training import train_paraformer
from starter.registry import Row, TrainOptions

DEFAULT_MINUTES = 70.0
ABOUT = """
A small [Paraformer](https://arxiv.org/abs/2206.08317) made of FunASR's own classes (SANM encoder, CIF
predictor, SANM decoder), loaded by `funasr.AutoModel` from this directory without network. It writes Mandarin
characters without punctuation; with `output_timestamp=True` it gives every character's begin and end.

It was trained from scratch on sentences of a grammar (`starter/text*.py`: dates, times, numbers, money, phone
numbers, weather, travel, home control, shopping, meetings, call-center talk, names), spoken by espeak-ng's
Mandarin voice in many variants, alone and joined to talks of up to 26 s (now and then 60 s), with noise,
telephone and MP3 coding, and on noise without speech. The CIF predictor learned from the synthesizer's own
character times; the times that it gives are FunASR's CIF-peak times.
"""


def train(options: TrainOptions) -> None:
    train_paraformer(options)


def evaluate(model_dir: Path) -> list[Row]:
    return measure(model_dir)
