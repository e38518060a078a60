"""FunASR's own pipeline with speakers: ``AutoModel`` with VAD, recognition, punctuation, CAM++."""

import contextlib
import io
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.diarization_score import Spoken
from benchmarks.engines import ModelDirectories, duration

Mode = Literal["punc_segment", "vad_segment"]
"""What FunASR gives a speaker to: sentences, which it does by default, or what voice detection found."""


@dataclass(frozen=True, slots=True)
class SpeakerRun:
    """``spoken``: by file, in the order of the files. ``wall_seconds`` of all."""

    audio_seconds: float
    wall_seconds: float
    spoken: tuple[tuple[Spoken, ...], ...]

    @property
    def rtfx(self) -> float:
        """Seconds of audio per second of time."""
        return self.audio_seconds / self.wall_seconds


def run_funasr_speakers(
    files: Sequence[Path], models: ModelDirectories, speaker: Path, *, threads: int, mode: Mode
) -> SpeakerRun:
    """Transcribe ``files`` as FunASR's documentation shows, one after the other.

    Loading the models is not part of the time. Runs in a process of its own, because ``AutoModel`` sets
    PyTorch's threads, the log level and the random seed of the process that it is in.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        wall, spoken = pool.submit(_run, tuple(files), models, speaker, threads, mode).result()
    return SpeakerRun(sum(duration(file) for file in files), wall, spoken)


def _run(
    files: tuple[Path, ...], models: ModelDirectories, speaker: Path, threads: int, mode: Mode
) -> tuple[float, tuple[tuple[Spoken, ...], ...]]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        from funasr import AutoModel

        # Absolute paths: FunASR looks relative ones up among the names of published models first.
        model = AutoModel(
            model=str(models.paraformer.resolve()),
            vad_model=str(models.vad.resolve()),
            punc_model=str(models.punctuation.resolve()),
            spk_model=str(speaker.resolve()),
            spk_mode=mode,
            device="cpu",
            ncpu=threads,
            disable_update=True,
            disable_pbar=True,
            log_level="ERROR",
        )
        model.generate(input=str(files[0]))
        began = time.perf_counter()
        spoken = tuple(_spoken(model.generate(input=str(file))) for file in files)
        return time.perf_counter() - began, spoken


def _spoken(results: Sequence[dict[str, Any]]) -> tuple[Spoken, ...]:
    """Sentences with ``spk``; FunASR's times are milliseconds."""
    sentences = [sentence for result in results for sentence in result.get("sentence_info", ())]
    return tuple(
        Spoken(sentence["start"] / 1000, sentence["end"] / 1000, str(sentence["spk"]))
        for sentence in sentences
    )
