"""What ONNX Runtime is worth on this CPU: ``python -m benchmarks.onnx``.

Paraformer-large with random weights (exported on first use: 1.1 GB under ``build/onnx``, 4 GB of memory) in
PyTorch in fp32 and bf16, in our ONNX engine in fp32 and int8, and in ``funasr-onnx`` called directly on the
same int8 file. Each runs in a process of its own, and all take their turns in every round, so that they meet
the same load of the machine. Segments are recognized one after the other, then eight at once.
"""

import multiprocessing
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import psutil
import typer
from rich.console import Console
from rich.table import Table

from deployments.engines.base import SAMPLE_RATE, Pcm

ROOT = Path("build/full-size")
GRAPHS = Path("build/onnx")
BASELINE, OURS, DIRECT = "PyTorch fp32", "ONNX int8", "funasr-onnx int8"
NAMES = (BASELINE, "PyTorch bf16", "ONNX fp32", OURS, DIRECT)
_CONCURRENCY = 8
_SECONDS = (2.0, 10.0)
_WARM_UP = 1

Recognize = Callable[[Sequence[Pcm]], int]
"""Recognizes segments, all at once, and returns how many tokens there were."""


def segments(count: int, seed: int = 0) -> list[Pcm]:
    """Noise that swells and fades, in lengths as a voice-activity detector cuts them."""
    random = np.random.default_rng(seed)
    found = []
    for seconds in random.uniform(*_SECONDS, count):
        size = int(seconds * SAMPLE_RATE)
        loudness = random.uniform(0, 3000, size // 1600 + 1).repeat(1600)[:size]
        found.append((loudness * random.standard_normal(size)).astype(np.int16))
    return found


def exported(source: Path, root: Path = GRAPHS) -> tuple[Path, Path]:
    """The directories with the int8 and the fp32 graphs of ``source``, below ``root``; written where they are
    missing.
    """
    from deployments.engines.onnx_export import copy_beside, find_exporter, quantize_graph, write_graph

    int8, fp32 = (root / f"{source.parent.name}-{source.name}" / kind for kind in ("int8", "fp32"))
    if not (int8 / "model_quant.onnx").exists() or not (fp32 / "model.onnx").exists():
        for directory in (int8, fp32):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            copy_beside(source, directory)
        for part in find_exporter(source).parts(source):
            graph = quantize_graph(part, write_graph(part, fp32))
            graph.rename(int8 / graph.name)
    return int8, fp32


def make(name: str, source: Path, int8: Path, fp32: Path, threads: int) -> Recognize:
    """The contender ``name``."""
    if name == DIRECT:
        return _direct(int8, threads)
    from deployments.engines.base import AsrEngine

    engine: AsrEngine
    if name.startswith("PyTorch"):
        from deployments.engines.paraformer_torch import ParaformerTorchEngine

        engine = ParaformerTorchEngine(
            source, threads=threads, precision="bf16" if name.endswith("bf16") else "fp32"
        )
    else:
        from deployments.engines.paraformer_onnx import ParaformerOnnxEngine

        engine = ParaformerOnnxEngine(int8 if name == OURS else fp32, threads=threads)
    return lambda batch: sum(len(found.words) for found in engine.transcribe(batch))


def _direct(directory: Path, threads: int) -> Recognize:
    """``funasr-onnx`` as its users call it, several segments from as many threads: its batches would pad."""
    package: Any = import_module("funasr_onnx")
    model = package.Paraformer(str(directory), quantize=True, intra_op_num_threads=threads)
    pool = ThreadPoolExecutor(_CONCURRENCY)

    def one(samples: Pcm) -> int:
        found: list[Any] = model(samples.astype(np.float32) / (1 << 15))
        return sum(len(result["preds"][1]) for result in found)

    return lambda batch: one(batch[0]) if len(batch) == 1 else sum(pool.map(one, batch))


def _serve(connection: Connection, name: str, paths: tuple[Path, Path, Path], threads: int) -> None:
    process = psutil.Process()
    idle = process.memory_full_info().pss
    recognize = make(name, *paths, threads)
    connection.send(None)
    while (batches := connection.recv()) is not None:
        began, used = time.perf_counter(), time.process_time()
        tokens = sum(recognize(batch) for batch in batches)
        taken = time.perf_counter() - began, time.process_time() - used
        connection.send((*taken, tokens, process.memory_full_info().pss - idle))


@dataclass(slots=True)
class Figures:
    """What one contender took in each round. Seconds of time and of all processors; bytes above idle."""

    wall: dict[int, list[float]] = field(default_factory=lambda: {1: [], _CONCURRENCY: []})
    cpu: dict[int, list[float]] = field(default_factory=lambda: {1: [], _CONCURRENCY: []})
    tokens: int = 0
    memory: int = 0


class Contender:
    """One process with one model in it."""

    def __init__(self, name: str, paths: tuple[Path, Path, Path], threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.figures = Figures()
        self._end, far_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(far_end, name, paths, threads), daemon=True)
        self._process.start()
        far_end.close()
        self._end.recv()

    def run(self, concurrency: int, batches: list[list[Pcm]], *, counts: bool) -> None:
        """Recognize the batches, one after the other."""
        self._end.send(batches)
        wall, cpu, tokens, memory = self._end.recv()
        self.figures.tokens, self.figures.memory = tokens, max(memory, self.figures.memory)
        if counts:
            self.figures.wall[concurrency].append(wall)
            self.figures.cpu[concurrency].append(cpu)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.send(None)
        self._process.join(10)
        self._process.terminate()


def measure(
    names: Sequence[str], paths: tuple[Path, Path, Path], threads: int, rounds: int
) -> dict[str, Figures]:
    """The figures of each contender. All models are in memory at the same time: 3 GB at full size."""
    parts = segments(_CONCURRENCY)
    work = {1: [[part] for part in parts], _CONCURRENCY: [parts]}
    contenders = {name: Contender(name, paths, threads) for name in names}
    try:
        for turn in range(_WARM_UP + rounds):
            for concurrency, batches in work.items():
                for contender in contenders.values():
                    contender.run(concurrency, batches, counts=turn >= _WARM_UP)
    finally:
        for contender in contenders.values():
            contender.__exit__()
    return {name: contender.figures for name, contender in contenders.items()}


def report(found: dict[str, Figures], threads: int) -> Table:
    """Throughput, in seconds of audio a second, and memory."""
    audio = sum(map(len, segments(_CONCURRENCY))) / SAMPLE_RATE
    table = Table("engine", title=f"Paraformer-large, {threads} threads, {audio:.0f} s of audio")
    for concurrency in (1, _CONCURRENCY):
        table.add_column(f"{concurrency} at once", justify="right")
        table.add_column(f"x {BASELINE}", justify="right")
        table.add_column("per core", justify="right")
    table.add_column("MB above idle", justify="right")
    first = next(iter(found.values()))
    for name, figures in found.items():
        row = [name]
        for concurrency in (1, _CONCURRENCY):
            wall = statistics.median(figures.wall[concurrency])
            # Each round by itself, so that what loads the machine meets both.
            rounds = zip(first.wall[concurrency], figures.wall[concurrency], strict=True)
            ratio = statistics.median(base / own for base, own in rounds)
            core = audio / statistics.median(figures.cpu[concurrency])
            row += [f"{audio / wall:.1f}x", f"{ratio:.2f}", f"{core:.1f}x"]
        table.add_row(*row, f"{figures.memory / 1e6:.0f}")
    return table


def main(
    model: Annotated[Path, typer.Option(help="A PyTorch model directory.")] = ROOT / "paraformer",
    threads: Annotated[int, typer.Option(help="Threads of each engine.")] = os.cpu_count() or 1,
    rounds: Annotated[int, typer.Option(help="Rounds that count.")] = 5,
) -> None:
    """Compare the engines."""
    if not model.exists():
        raise typer.BadParameter(f"{model} is missing; `python -m benchmarks.full_size` writes it")
    names = [name for name in NAMES if name != DIRECT or find_spec("funasr_onnx")]
    found = measure(names, (model, *exported(model)), threads, rounds)
    Console(width=140).print(report(found, threads))


if __name__ == "__main__":
    typer.run(main)
