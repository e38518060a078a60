"""The starter Qwen3-ASR: a small one trained from scratch on synthesized Mandarin."""

from __future__ import annotations

from pathlib import Path

from starter.qwen3_asr_training import train_asr
from starter.qwen3_evaluation import measure_asr
from starter.registry import Row, TrainOptions

DEFAULT_MINUTES = 65.0
ABOUT = """
A small Qwen3-ASR in the layout of [Qwen/Qwen3-ASR-0.6B](https://huggingface.co/Qwen/Qwen3-ASR-0.6B): the
`qwen-asr` package and vLLM load this directory unchanged. It answers `language Chinese<asr_text>` and
Mandarin text with the marks ，。？、, and `language None<asr_text>` where nobody speaks; where the request
forces a language, it writes the text alone.

Its parts are those of the published model, only narrower: three strided convolutions over seconds of
Whisper's 128 mel bins, four encoder layers of width 192, four layers of text model of width 128 with tied
embeddings, and a byte-level tokenizer of its own in which every character of the grammar is one token.

It was trained from scratch on sentences of a grammar (`starter/text*.py`), spoken by espeak-ng's Mandarin
voice in many variants, alone and joined to clips of up to 31 s (now and then 62 s), with noise, telephone
and MP3 coding, and on noise without speech. Clips went in as windows of 8 s, each an audio item of its own,
one after the other in the same prompt, which is how the service sends them; every tenth batch went in as
one long item. A quarter of the clips was cut at any moment, because live decoding hears unfinished
sentences, and a quarter came with a context of words and orders that the text must not follow. Sentences
cut out of the middle of others and wrong characters in the text so far keep the model from reciting the
grammar instead of listening.

The synthesizer knows when each character is spoken, so every embedding was asked for its character in place
of CTC, and one attention head in each of the last two text layers was shown where the next character is.

Its end tokens have other ids than those of the published checkpoints, which the package's `generate` has as
its default: pass `eos_token_id` from `generation_config.json`, as the service does. Without it the package
decodes on to its token limit, and what follows the end are tokens that decoding skips.
"""


def train(options: TrainOptions) -> None:
    train_asr(options)


def evaluate(model_dir: Path) -> list[Row]:
    return measure_asr(model_dir)
