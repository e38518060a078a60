"""The `campplus` starter model: FunASR's CAM++ speaker embeddings, trained from scratch."""

from __future__ import annotations

from pathlib import Path

from starter.campplus_evaluate import measure
from starter.campplus_training import train_speakers
from starter.registry import Row, TrainOptions

DEFAULT_MINUTES = 40.0

ABOUT = """
FunASR's `CAMPPlus`, the class of `iic/speech_campplus_sv_zh-cn_16k-common`, with a growth rate of 12 (32)
and 48 first channels (128): 192 numbers for a stretch of speech, best 1.5 s or more, whose cosine says
whether two stretches are one speaker. It was trained from scratch (additive angular margin softmax on crops
of 0.8 to 1.8 s, clean or with noise at 5 to 40 dB, now and then through a telephone line or MP3) on speakers
of one synthesizer, espeak-ng: its own variants, each at four pitches and formant shifts, and variants drawn
at random (formants, pitch, breath, roughness, spectral tilt).

A speaker here is a variant at a pitch and a formant shift, in any sentence, at any rate, with the pitch a
few percent up or down. Speakers of the same variant differ by at least 18 % in pitch or 5 % in all formants;
closer ones are, to this model, one person in another mood.

`same_speaker_threshold` below is the cosine at which pairs of clips of 2 to 4 s, each as the mean of its
windows of 1.5 s, of development speakers, who are neither trained on nor tested on, were wrongly told apart
as often as wrongly taken for one. Cosines of single windows lie lower.

How it was measured. Ten espeak-ng variants that were never trained on, four speakers each, in sentences
never trained on; every pair of clips (2 to 4 s), whole or as the mean of their windows, and every pair of
windows of 1.5 s anywhere in them, is one trial. Features are those of FunASR's own inference: 80 log-mel
bands, their mean over the clip or window subtracted.
"""


def train(options: TrainOptions) -> None:
    """Make the clips (or read them from `options.work`), train, write the model directory."""
    train_speakers(options)


def evaluate(model_dir: Path) -> list[Row]:
    """Equal error rates and cosines through funasr.AutoModel; takes a minute or two."""
    return measure(model_dir)
