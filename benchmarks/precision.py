"""What arithmetic costs in accuracy: character error rates of the engine in fp32 and in bf16.

``python -m benchmarks.precision`` recognizes held-out utterances of seen and of unseen voices, clean and
in 10 dB of noise, with the starter model and prints both error rates, how many texts differ, and the time
that each took. It needs espeak-ng's library, which speaks the utterances.
"""

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from deployments.engines.base import Pcm
from deployments.engines.paraformer_torch import ParaformerTorchEngine
from deployments.engines.precision import Precision
from starter.alignment import align
from starter.augment import Kind
from starter.paraformer_data import Clip
from starter.paraformer_testsets import TestSets, degraded
from starter.voices import SEEN_VOICES, UNSEEN_VOICES

_BATCH = 8
_SEED = 1234


def to_pcm(clip: Clip) -> Pcm:
    """A clip as the engines take it."""
    return (np.clip(clip.samples, -1, 1) * 32767).astype(np.int16)


def transcribe(model_dir: Path, precision: Precision, clips: list[Clip]) -> tuple[list[str], float]:
    """The texts of some clips, and the seconds that one thread took for them."""
    engine = ParaformerTorchEngine(model_dir, threads=1, precision=precision)
    segments = [to_pcm(clip) for clip in clips]
    engine.transcribe(segments[:_BATCH])
    began = time.perf_counter()
    results = [
        recognition
        for first in range(0, len(segments), _BATCH)
        for recognition in engine.transcribe(segments[first : first + _BATCH])
    ]
    seconds = time.perf_counter() - began
    return ["".join(word.text for word in result.words) for result in results], seconds


def error_rate(clips: list[Clip], texts: list[str]) -> float:
    """Character error rate in percent."""
    errors = sum(align(clip.text, text)[0] for clip, text in zip(clips, texts, strict=True))
    return 100 * errors / sum(len(clip.text) for clip in clips)


def main(
    model: Annotated[Path, typer.Option(help="Model directory.")] = Path("models/starter/paraformer"),
    utterances: Annotated[int, typer.Option(help="Utterances of each test set.")] = 200,
) -> None:
    """Compare fp32 and bf16."""
    torch.manual_seed(0)
    table = Table("test set", "CER fp32 %", "CER bf16 %", "texts that differ", "time bf16 / fp32")
    sets = TestSets("test", _SEED)
    for voices, name in ((SEEN_VOICES, "seen voices"), (UNSEEN_VOICES, "unseen voices")):
        clean = sets.sentences(utterances, voices)
        kinds: tuple[Kind, ...] = ("clean", "noise10")
        for kind in kinds:
            clips = degraded(clean, kind, _SEED)
            fp32, fp32_seconds = transcribe(model, "fp32", clips)
            bf16, bf16_seconds = transcribe(model, "bf16", clips)
            table.add_row(
                f"{name}, {kind}",
                f"{error_rate(clips, fp32):.2f}",
                f"{error_rate(clips, bf16):.2f}",
                f"{sum(a != b for a, b in zip(fp32, bf16, strict=True))} of {len(clips)}",
                f"{bf16_seconds / fp32_seconds:.2f}",
            )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
