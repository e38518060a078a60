"""FunASR's own pipeline (``AutoModel`` with VAD, recognition, punctuation): same weights, same cores."""

import contextlib
import io
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.engines import ModelDirectories, Run, duration


def run_funasr(files: Sequence[Path], models: ModelDirectories, *, cores: int, processes: int = 1) -> Run:
    """Transcribe ``files`` as FunASR's documentation shows, one after the other, with ``cores`` threads.

    With more than one of ``processes``, each has its share of the threads and of the files, which FunASR
    itself does not offer. Loading the models is not part of the time. Runs in processes of its own, because
    ``AutoModel`` sets PyTorch's threads, the log level and the random seed of the process that it is in.
    """
    context = multiprocessing.get_context("spawn")
    shares = [list(files[index::processes]) for index in range(processes)]
    with (
        context.Manager() as manager,
        ProcessPoolExecutor(processes, mp_context=context) as pool,
    ):
        barrier = manager.Barrier(processes)
        jobs = [pool.submit(_run, share, models, max(1, cores // processes), barrier) for share in shares]
        results = [job.result() for job in jobs]
    texts = {file: text for texts, _, _ in results for file, text in texts.items()}
    wall = max(end for _, _, end in results) - min(begin for _, begin, _ in results)
    return Run(sum(duration(file) for file in files), wall, tuple(texts[file] for file in files))


def _run(
    files: Sequence[Path], models: ModelDirectories, threads: int, barrier: Any
) -> tuple[dict[Path, str], float, float]:
    """Each file's text, and when its process began and ended, on the clock that all processes share."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        from funasr import AutoModel

        # Absolute paths: FunASR looks relative ones up among the names of published models first.
        model = AutoModel(
            model=str(models.paraformer.resolve()),
            vad_model=str(models.vad.resolve()),
            punc_model=str(models.punctuation.resolve()),
            device="cpu",
            ncpu=threads,
            disable_update=True,
            disable_pbar=True,
            log_level="ERROR",
        )
        if files:
            model.generate(input=str(files[0]))
        barrier.wait()
        began = time.monotonic()
        texts = {file: _text(model.generate(input=str(file))) for file in files}
        return texts, began, time.monotonic()


def _text(results: Sequence[dict[str, Any]]) -> str:
    return "".join(str(result["text"]) for result in results)
