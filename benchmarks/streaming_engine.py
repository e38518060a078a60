"""What batching live streams is worth: ``python -m benchmarks.streaming_engine``.

Steps of the streaming engine alone, without Ray and sockets: chunks of 600 ms of many streams in one call,
against one call for each stream, side by side in one run, in fp32 and in bf16, and with ``--onnx`` as int8
graphs. The streams are in the middle of their audio, so that all they look back to is there.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, cast

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from deployments.engines.base import SAMPLE_RATE, Pcm, StreamChunk, StreamingAsrEngine, StreamState
from deployments.engines.kernel_caches import bound_kernel_caches

CHUNK_SAMPLES = SAMPLE_RATE * 600 // 1000
ROOTS = {"starter": Path("models/starter"), "full-size": Path("build/full-size")}
_MODEL = "paraformer-streaming"
_WARM_UP = 6
_SINGLES = 4

Form = Literal["fp32", "bf16", "int8"]
"""The precision of PyTorch, or an int8 graph."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Median milliseconds per chunk: ``together`` in one step, ``apart`` in one step each."""

    together: float
    apart: float


class Streams:
    """Live streams of different noise, all of them in full swing."""

    def __init__(self, model_dir: Path, threads: int, form: Form, count: int) -> None:
        self._engine = _load(model_dir, threads, form)
        self._random = np.random.default_rng(0)
        self._states: list[StreamState | None] = [None] * count
        for _ in range(_WARM_UP):
            self.step(range(count))

    def step(self, streams: Sequence[int]) -> float:
        """Go on with these streams by a chunk each, in one step; seconds that it took."""
        chunks = [StreamChunk(self._noise(), self._states[stream], final=False) for stream in streams]
        began = time.perf_counter()
        results = self._engine.step(chunks)
        seconds = time.perf_counter() - began
        for stream, result in zip(streams, results, strict=True):
            self._states[stream] = result.state
        return seconds

    def _noise(self) -> Pcm:
        loudness = self._random.uniform(0, 3000, 6).repeat(CHUNK_SAMPLES // 6)
        return cast(Pcm, (loudness * self._random.standard_normal(CHUNK_SAMPLES)).astype(np.int16))


def _load(model_dir: Path, threads: int, form: Form) -> StreamingAsrEngine:
    if form == "int8":
        from benchmarks.onnx import exported
        from deployments.engines.paraformer_streaming_onnx import ParaformerStreamingOnnxEngine

        return ParaformerStreamingOnnxEngine(exported(model_dir)[0], threads=threads)
    from deployments.engines.paraformer_streaming import ParaformerStreamingEngine

    return ParaformerStreamingEngine(model_dir, threads=threads, precision=form)


def measure(model_dir: Path, threads: int, form: Form, counts: Sequence[int], rounds: int) -> list[Cost]:
    """The cost of a chunk for each number of streams."""
    streams = Streams(model_dir, threads, form, max(counts))
    costs = []
    for count in counts:
        together, apart = [], []
        streams.step(range(count))
        for turn in range(rounds):
            together.append(streams.step(range(count)) / count)
            # In turn with the others, so that both meet the same load of the machine.
            apart += [streams.step([(turn * _SINGLES + single) % count]) for single in range(_SINGLES)]
        costs.append(Cost(1000 * statistics.median(together), 1000 * statistics.median(apart)))
    return costs


def main(
    models: Annotated[str, typer.Option(help="Comma-separated: starter, full-size.")] = "starter,full-size",
    sessions: Annotated[str, typer.Option(help="Comma-separated numbers of streams.")] = "1,4,16,64",
    threads: Annotated[int, typer.Option(help="Threads of PyTorch.")] = 4,
    rounds: Annotated[int, typer.Option(help="Steps of each kind.")] = 10,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Also in ONNX Runtime; exports what is missing.")
    ] = False,
) -> None:
    """Print what a chunk costs in batches and one by one."""
    bound_kernel_caches()
    counts = [int(count) for count in sessions.split(",")]
    for name in models.split(","):
        model_dir = ROOTS[name] / _MODEL
        if not model_dir.exists():
            raise typer.BadParameter(f"{model_dir} is missing; `python -m benchmarks.full_size` writes it")
        forms: tuple[Form, ...] = ("fp32", "bf16", "int8") if onnx else ("fp32", "bf16")
        measured = {form: measure(model_dir, threads, form, counts, rounds) for form in forms}
        alone = statistics.median(cost.apart for cost in measured["fp32"])
        columns = ("sessions", "precision", "one by one, ms a chunk", "batched, ms a chunk")
        table = Table(
            *columns, "batched is faster by", "than one by one in fp32", title=f"{name}, {threads} threads"
        )
        for form, costs in measured.items():
            for count, cost in zip(counts, costs, strict=True):
                table.add_row(
                    str(count),
                    form,
                    f"{cost.apart:.2f}",
                    f"{cost.together:.2f}",
                    f"{cost.apart / cost.together:.1f}x",
                    f"{alone / cost.together:.1f}x",
                )
        Console().print(table)


if __name__ == "__main__":
    typer.run(main)
