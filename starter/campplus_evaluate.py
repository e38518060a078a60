"""Measures a speaker model through funasr.AutoModel on speakers and sentences that it was not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from funasr import AutoModel
from numpy.typing import NDArray

from starter.augment import Samples
from starter.campplus_model import THRESHOLD
from starter.campplus_speakers import own_speakers, unseen_speakers
from starter.campplus_trials import Clip, Scores, score, spoken, voice_scores, with_noise
from starter.registry import Row, load_facts

_SEED = 30_001
_CLIPS, _CLIPS_OF_OWN = 8, 20
_TARGET = "<= 10"


class SpeakerModel:
    """A model directory as FunASR uses it."""

    def __init__(self, model_dir: Path, threads: int = 1) -> None:
        self._model: Any = AutoModel(
            model=str(model_dir.resolve()),
            device="cpu",
            ncpu=threads,
            disable_update=True,
            disable_pbar=True,
            disable_log=True,
        )

    def embed(self, samples: Samples) -> NDArray[np.float32]:
        """The embedding, float32 [192], of sound at 16 kHz."""
        answer = self._model.generate(input=samples)[0]["spk_embedding"]
        return np.asarray(answer[0].cpu().numpy(), np.float32)


def measure(model_dir: Path) -> list[Row]:
    """Equal error rates, cosines, and the errors at the threshold that training.json recommends."""
    model = SpeakerModel(model_dir)
    threshold = load_facts(model_dir).get(THRESHOLD)
    clean = spoken(unseen_speakers(), "test", _CLIPS, _SEED)
    rows: list[Row] = []
    for name, clips in (("clean", clean), ("noise 10-20 dB", with_noise(clean, _SEED))):
        rows += _rows(f"unseen speakers, {name}, 2-4 s", score(model.embed, clips, windows=False), threshold)
        rows += _rows(
            f"unseen speakers, {name}, mean of windows", voice_scores(model.embed, clips), threshold
        )
        rows += _rows(f"unseen speakers, {name}, 1.5 s", score(model.embed, clips, windows=True), threshold)
    own: list[Clip] = spoken(own_speakers(), "test", _CLIPS_OF_OWN, _SEED + 1)
    found = score(model.embed, with_noise(own, _SEED), windows=True)
    return rows + _rows("unseen variants as espeak-ng ships them, noise, 1.5 s", found, threshold)


def _rows(test_set: str, pairs: Scores, threshold: str | float | None) -> list[Row]:
    rows = [
        Row(test_set, "EER", 100 * pairs.equal_error_rate(), "%", _TARGET),
        Row(test_set, "cosine of one speaker, median", float(np.median(pairs.same)), ""),
        Row(test_set, "cosine of one speaker, lowest 5 %", float(np.quantile(pairs.same, 0.05)), ""),
        Row(test_set, "cosine of two speakers, median", float(np.median(pairs.different)), ""),
        Row(test_set, "cosine of two speakers, highest 5 %", float(np.quantile(pairs.different, 0.95)), ""),
    ]
    if threshold is not None:
        missed, taken = pairs.errors_at(float(threshold))
        rows += [
            Row(test_set, "one speaker told apart at the threshold", 100 * missed, "%"),
            Row(test_set, "two speakers taken for one at the threshold", 100 * taken, "%"),
        ]
    return rows
