"""The conversation in samples/: three seen voices in turn, each sentence held out and recognized exactly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from funasr import AutoModel

from starter.augment import degrade
from starter.paraformer_data import join
from starter.paraformer_evaluation import Recognizer
from starter.synth import SAMPLE_RATE, Synthesizer
from starter.text import TextGenerator, split_of, strip_punctuation
from starter.voices import SEEN_VOICES, Voice

NAME = "conversation"

_SEED = 23
_TOPIC = "meeting"
_VOICES = ("linda", "m3", "grandpa")
_TURNS = (0, 1, 0, 2, 1, 0, 2, 1)
"""Who speaks, by index of `_VOICES`; the first two turns of each are in the order of their numbers."""
_MANY = 2000


def make_conversation(output: Path, recognizer_dir: Path, punctuation_dir: Path) -> None:
    """Write the recording, and who says what in it, into `output`."""
    recognizer = Recognizer(recognizer_dir)
    punctuation: Any = AutoModel(
        model=str(punctuation_dir.resolve()), device="cpu", ncpu=1, disable_update=True, disable_pbar=True
    )
    rng, synthesizer = np.random.default_rng(_SEED), Synthesizer()
    sentences = _sentences()

    def is_exact(sentence: str, voice: Voice) -> bool:
        clip = join([(sentence, voice)], [0.3, 0.3], synthesizer)
        heard = recognizer.text(degrade(clip.samples, "light", rng).clip(-1, 1).astype(np.float32))
        return heard == strip_punctuation(sentence) and punctuation.generate(heard)[0]["text"] == sentence

    turns: list[tuple[str, Voice]] = []
    for number in _TURNS:
        voice = next(voice for voice in SEEN_VOICES if voice.variant == _VOICES[number])
        turns.append((next(sentence for sentence in sentences if is_exact(sentence, voice)), voice))
    pauses = [0.4, *rng.uniform(0.4, 0.8, len(turns) - 1), 0.5]
    clip = join(turns, [float(pause) for pause in pauses], synthesizer)
    noisy = degrade(clip.samples, "light", rng).clip(-1, 1)
    samples = np.round(noisy * 32767).astype(np.int16)
    soundfile.write(output / f"{NAME}.wav", samples, SAMPLE_RATE, subtype="PCM_16")
    said = [
        {"speaker": f"说话人{number + 1}", "text": text}
        for number, (text, _) in zip(_TURNS, turns, strict=True)
    ]
    (output / f"{NAME}.json").write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _sentences() -> Iterator[str]:
    """Different held-out sentences about one topic."""
    seen: set[str] = set()
    for sentence in TextGenerator(_SEED).talk(_MANY, _TOPIC):
        if split_of(sentence) == "test" and sentence not in seen:
            seen.add(sentence)
            yield sentence
