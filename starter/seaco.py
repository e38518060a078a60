"""The starter hotword model: FunASR's SeacoParaformer around the starter recognizer."""

from __future__ import annotations

from pathlib import Path

from starter.registry import Row, TrainOptions
from starter.seaco_evaluation import measure
from starter.seaco_training import train_seaco

DEFAULT_MINUTES = 60.0
ABOUT = """
The starter recognizer with FunASR's [SeACo](https://arxiv.org/abs/2308.03266) parts around it
(`SeacoParaformer`, the class of
`iic/speech_seaco_paraformer_large_asr_nat-zh-cn-16k-common-vocab8404-pytorch`): an LSTM that reads each
hotword, and a decoder that looks for hotwords in what the recognizer heard and writes them in their spelling.
The recognizer's own weights are those of `paraformer`, unchanged, so without hotwords the text is the same.

It was trained on sentences with names of two to five characters put together at random, in which at least
two characters have others that sound the same. Half of the hotwords were respelled with such characters, and
the text to be written followed the spelling of the list. Lists held hotwords of other sentences, and hotwords
with a syllable changed, too: then nothing was to be changed.

This project's engine judges the tokens of a hotword together and writes it whole or not at all
(`whole_hotwords` in `config.yaml`). FunASR loads the directory as well (`seg_dict` tells it how to cut
hotwords), but decides token by token, which writes fewer names right and parts of others; and it takes lists
of up to 49 hotwords only, since it chooses among more by a sixth block of a decoder that has three here.

How it was measured: names whose syllables occur in no name of the training in any spelling, in sentences and
by voices that were never trained on. Recall: names that were written as in the list, the list being the
sentence's names and 20 others. False insertions: sentences without names, each with 100 names, none of which
is in it, that were written otherwise than without hotwords.
"""


def train(options: TrainOptions) -> None:
    train_seaco(options)


def evaluate(model_dir: Path) -> list[Row]:
    return measure(model_dir)
