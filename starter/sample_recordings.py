"""The recordings in samples/: held-out sentences in seen voices that the shipped recognizer gets exactly
right.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from starter.augment import degrade
from starter.paraformer_data import join
from starter.paraformer_evaluation import Recognizer
from starter.synth import SAMPLE_RATE, Synthesizer
from starter.text import TextGenerator, split_of, strip_punctuation
from starter.voices import SEEN_VOICES

_SEED = 11
_SENTENCES = {"home.wav": 1, "travel.wav": 2, "meeting.wav": 4}
_SHORTEST, _LONGEST = 3.0, 12.0
_SAMPLES_README = """# Samples

Three recordings (16 kHz, mono, 16 bit) with their texts in `transcripts.json`. A synthesizer speaks them, not
a person: espeak-ng's Mandarin voice with light noise, in voices that the starter models were trained on,
saying sentences that they were not trained on.

They were chosen to be transcribed exactly: `python -m starter samples` makes recordings of held-out sentences
one after the other and keeps the first ones that the shipped recognizer gets right ({tried} were tried for
these three). For how often it is right see `models/starter/paraformer/README.md`.
"""


def _to_pcm(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.round(samples.clip(-1, 1) * 32767).astype(np.int16)


def make_samples(output: Path, model_dir: Path) -> None:
    """Write the recordings, transcripts.json (file name -> text with its marks) and README.md into
    `output`.
    """
    recognizer = Recognizer(model_dir)
    synthesizer = Synthesizer()
    texts, rng = TextGenerator(_SEED), np.random.default_rng(_SEED)
    output.mkdir(parents=True, exist_ok=True)
    transcripts: dict[str, str] = {}
    tried = 0
    for name, count in _SENTENCES.items():
        while name not in transcripts:
            sentences = [sentence for sentence in texts.talk(60) if split_of(sentence) == "test"][:count]
            if len(sentences) < count:
                continue
            voice = SEEN_VOICES[int(rng.integers(len(SEEN_VOICES)))]
            pauses = [0.4, *rng.uniform(0.5, 0.9, count - 1), 0.5]
            clip = join(
                [(sentence, voice) for sentence in sentences], [float(p) for p in pauses], synthesizer
            )
            pcm = _to_pcm(degrade(clip.samples, "light", rng))
            if not _SHORTEST <= len(pcm) / SAMPLE_RATE <= _LONGEST:
                continue
            tried += 1
            heard, _ = recognizer(pcm.astype(np.float32) / np.float32(32768))
            if heard == strip_punctuation("".join(sentences)):
                soundfile.write(output / name, pcm, SAMPLE_RATE, subtype="PCM_16")
                transcripts[name] = "".join(sentences)
    text = json.dumps(transcripts, indent=2, ensure_ascii=False) + "\n"
    (output / "transcripts.json").write_text(text, "utf-8")
    (output / "README.md").write_text(_SAMPLES_README.format(tried=tried), "utf-8")
