"""The forced aligner behind the package's own class, and how far its times are off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from qwen_asr import Qwen3ForcedAligner

from starter.paraformer_data import Clip
from starter.synth import SAMPLE_RATE

Times = NDArray[np.float64]

_BATCH = 8


class Aligner:
    """A Qwen3-ForcedAligner directory in `qwen_asr.Qwen3ForcedAligner`, in float32 on the CPU."""

    def __init__(self, model_dir: Path) -> None:
        self._package: Any = Qwen3ForcedAligner.from_pretrained(str(model_dir), dtype=torch.float32)

    def times(self, clips: Sequence[Clip]) -> list[Times]:
        """(begin, end) in seconds of every character of the clips' true texts, float64 [n, 2] each."""
        found: list[Times] = []
        for start in range(0, len(clips), _BATCH):
            batch = clips[start : start + _BATCH]
            results = self._package.align(
                audio=[(clip.samples, SAMPLE_RATE) for clip in batch],
                text=[clip.text for clip in batch],
                language="Chinese",
            )
            found += [
                np.array([(item.start_time, item.end_time) for item in result], np.float64).reshape(-1, 2)
                for result in results
            ]
        return found


def time_errors(aligner: Aligner, clips: Sequence[Clip]) -> tuple[Times, Times]:
    """Absolute errors of the begins and of the ends of all characters, milliseconds."""
    found = aligner.times(clips)
    errors = [1000 * np.abs(times - clip.times) for times, clip in zip(found, clips, strict=True)]
    joined = np.concatenate(errors)
    return joined[:, 0], joined[:, 1]
