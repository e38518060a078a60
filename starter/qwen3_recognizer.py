"""The Qwen3 models behind the package's own classes, asked as the service asks them: in windows of 8 s."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from qwen_asr import Qwen3ASRModel

from starter.qwen3_tokenizer import added_tokens
from starter.synth import SAMPLE_RATE

Samples = NDArray[np.float32]

WINDOW_SAMPLES, LEAST_SAMPLES = 8 * SAMPLE_RATE, SAMPLE_RATE // 2
_AUDIO = "<|audio_pad|>"
_BATCH = 16


def split_windows(samples: Samples) -> list[Samples]:
    """Windows of 8 s, the last one shorter and padded to half a second."""
    starts = range(0, max(1, len(samples)), WINDOW_SAMPLES)
    parts = [samples[start : start + WINDOW_SAMPLES] for start in starts]
    return [np.pad(part, (0, max(0, LEAST_SAMPLES - len(part)))) for part in parts]


class Recognizer:
    """A Qwen3-ASR directory in `qwen_asr.Qwen3ASRModel`, in float32 on the CPU."""

    def __init__(self, model_dir: Path) -> None:
        self._package: Any = Qwen3ASRModel.from_pretrained(str(model_dir), dtype=torch.float32)
        ids = added_tokens()
        self._ends = [ids["<|im_end|>"], ids["<|endoftext|>"]]

    def answers(
        self,
        clips: Sequence[Samples],
        context: str = "",
        language: str | None = None,
        *,
        whole: bool = False,
        limit: int = 400,
    ) -> list[str]:
        """Raw answers ("language Chinese<asr_text>..."), one for each clip of float32 samples at 16 kHz.

        whole: send a clip as one audio item, as the package itself does, instead of windows.
        """
        order = sorted(range(len(clips)), key=lambda index: len(clips[index]))
        found = [""] * len(clips)
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            batch = [[clips[index]] if whole else split_windows(clips[index]) for index in chosen]
            for index, answer in zip(chosen, self._decode(batch, context, language, limit), strict=True):
                found[index] = answer
        return found

    def _decode(
        self, clips: list[list[Samples]], context: str, language: str | None, limit: int
    ) -> list[str]:
        prompt = self._package._build_text_prompt(context=context, force_language=language)
        inputs = self._package.processor(
            text=[prompt.replace(_AUDIO, _AUDIO * len(windows)) for windows in clips],
            audio=[window for windows in clips for window in windows],
            return_tensors="pt",
            padding=True,
        )
        with torch.inference_mode():
            found = self._package.model.generate(
                **inputs, max_new_tokens=limit, eos_token_id=self._ends, pad_token_id=self._ends[1]
            )
        answers = found.sequences[:, inputs["input_ids"].shape[1] :]
        decoded: list[str] = self._package.processor.batch_decode(
            answers, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return decoded


def text_of(answer: str) -> str:
    """The text of a raw answer, with its marks."""
    return answer.split("<asr_text>", 1)[-1]
