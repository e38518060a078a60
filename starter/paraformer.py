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
characters without punctuation; the weights of its CIF predictor give every character's begin and end.

It was trained from scratch on sentences of a grammar (`starter/text*.py`: dates, times, numbers, money, phone
numbers, weather, travel, home control, shopping, meetings, call-center talk, names), spoken by espeak-ng's
Mandarin voice in many variants, alone and joined to talks of up to 26 s (now and then 65 s), with noise,
telephone and MP3 coding, and on noise without speech.

The CIF predictor learned from the synthesizer's own character times, so its peaks are usable as times
without a second predictor. Begins were off by 19 ms in the median with FunASR's rule, which rounds to whole
60 ms frames, and by 9 ms when interpolated within the frame, as this project's engine does it; a BiCif head
trained on the same times reached 10 ms. The table gives FunASR's rule. Note that `output_timestamp=True` of
FunASR 1.4.16 does not give these times: it swaps two arguments, and begins are then off by about 90 ms.
"""


def train(options: TrainOptions) -> None:
    train_paraformer(options)


def evaluate(model_dir: Path) -> list[Row]:
    return measure(model_dir)
