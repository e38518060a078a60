"""The recordings in samples/: held-out sentences in seen voices that the shipped models get exactly right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from funasr import AutoModel
from numpy.typing import NDArray

from serve_app.pipeline.itn import Itn
from starter.augment import degrade
from starter.paraformer_data import join
from starter.paraformer_evaluation import Recognizer
from starter.synth import SAMPLE_RATE, Synthesizer
from starter.text import TextGenerator, split_of, strip_punctuation
from starter.voices import SEEN_VOICES

_SEED = 11
_RECORDINGS = {"home": 1, "travel": 2, "meeting": 4}
"""Topic, which is also the file's name, and the number of sentences."""
_SHORTEST, _LONGEST = 3.0, 12.0
_SAMPLES_README = """# Samples

Three recordings (16 kHz, mono, 16 bit) with their texts: as spoken in `transcripts.json`, and with numbers in
digits, as the service writes them by default, in `written.json`. A synthesizer speaks them, not a person:
espeak-ng's Mandarin voice with light noise, in voices that the starter models were trained on, saying
sentences that they were not trained on.

They were chosen to be transcribed exactly: `python -m starter samples` makes recordings of held-out sentences
one after the other and keeps the first ones whose characters and marks the shipped models get right ({tried}
were tried for these three). For how often they are right see the cards in `models/starter/`.

`conversation.wav` has three voices, and `conversation.json` says who says what.
"""


def make_samples(output: Path, recognizer_dir: Path, punctuation_dir: Path) -> None:
    """Write recordings, their texts as spoken and as written, and README.md into `output`."""
    recognizer = Recognizer(recognizer_dir)
    punctuation: Any = AutoModel(
        model=str(punctuation_dir.resolve()), device="cpu", ncpu=1, disable_update=True, disable_pbar=True
    )
    texts, rng = TextGenerator(_SEED), np.random.default_rng(_SEED)
    synthesizer = Synthesizer()
    output.mkdir(parents=True, exist_ok=True)
    transcripts: dict[str, str] = {}
    tried = 0
    for topic, count in _RECORDINGS.items():
        for text, pcm in _candidates(texts, topic, count, synthesizer, rng):
            tried += 1
            heard = recognizer.text(pcm.astype(np.float32) / np.float32(32768))
            if heard == strip_punctuation(text) and punctuation.generate(input=heard)[0]["text"] == text:
                soundfile.write(output / f"{topic}.wav", pcm, SAMPLE_RATE, subtype="PCM_16")
                transcripts[f"{topic}.wav"] = text
                break
    itn = Itn()
    _write(output / "transcripts.json", transcripts)
    _write(output / "written.json", {name: itn.written(text) for name, text in transcripts.items()})
    (output / "README.md").write_text(_SAMPLES_README.format(tried=tried), "utf-8")


def _write(path: Path, texts: dict[str, str]) -> None:
    path.write_text(json.dumps(texts, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _candidates(
    texts: TextGenerator, topic: str, count: int, synthesizer: Synthesizer, rng: np.random.Generator
) -> Iterator[tuple[str, NDArray[np.int16]]]:
    """Endless (text, 16-bit samples) of `count` held-out sentences about a topic, of a sample's length."""
    while True:
        sentences = [sentence for sentence in texts.talk(100, topic) if split_of(sentence) == "test"][:count]
        voice = SEEN_VOICES[int(rng.integers(len(SEEN_VOICES)))]
        pauses = [0.4, *rng.uniform(0.5, 0.9, count - 1), 0.5]
        if len(sentences) < count:
            continue
        clip = join([(sentence, voice) for sentence in sentences], [float(p) for p in pauses], synthesizer)
        noisy = degrade(clip.samples, "light", rng).clip(-1, 1)
        if _SHORTEST <= len(noisy) / SAMPLE_RATE <= _LONGEST:
            yield "".join(sentences), np.round(noisy * 32767).astype(np.int16)
