"""Live sessions per core: the server over its real WebSocket, and FunASR's own server beside it.

``python -m benchmarks.streaming --models full-size --mode 2pass --sessions 1,4,8,16 --peer funasr
--funasr-server PATH`` lets that many paced clients talk at once, first to this server, then to FunASR's
``funasr_wss_server.py`` with the same weights, recordings and cores, and prints for each step what
:mod:`benchmarks.live_metrics` defines, and for each server how many sessions it carries: the greatest step
up to which results came at most ``--lag-bound`` seconds late and the last one at most ``--final-bound``
seconds after the end (95th percentiles), with no error and no text lost. A server that has failed a step
gets no greater one.

The recordings are talks of held-out sentences with pauses of up to 1.2 s, spoken by espeak-ng, so the
starter models have a character error rate to show: speed that is bought by dropping audio would be seen.
The clients run on the same cores; ``late`` says by how much a packet of theirs was delayed at worst.
"""

import multiprocessing
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

import numpy as np
import psutil
import typer
from rich.console import Console

from benchmarks import full_size
from benchmarks.funasr_wss import PeerModels, funasr_server
from benchmarks.live_clients import Clip, Load, Mode, SessionRun, run_load
from benchmarks.live_metrics import Bounds, Step, summarize
from benchmarks.live_report import results_table, step_line, verdict, write_json
from benchmarks.live_server import live_server

STARTER = Path("models/starter")
FULL_SIZE = Path("build/full-size")

_SEED = 2_026

console = Console(width=118)


class Contender(Protocol):
    """A running server."""

    @property
    def url(self) -> str: ...

    @property
    def processes(self) -> Callable[[], list[psutil.Process]]: ...


@dataclass(frozen=True, slots=True)
class Ladder:
    """What is asked of every contender."""

    mode: Mode
    steps: tuple[int, ...]
    rounds: int
    clips: tuple[Clip, ...]
    bounds: Bounds
    random_weights: bool
    chunk_size: tuple[int, int, int] = (0, 10, 5)


def make_clips(count: int, seconds: float) -> tuple[Clip, ...]:
    """Talks of different held-out sentences, each at least that long; the same ones every time.

    Raises:
        SynthesisError: espeak-ng is not installed.
    """
    # The synthesizer gives the same samples again only to a fresh process.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_make_clips, count, seconds).result()


def _make_clips(count: int, seconds: float) -> tuple[Clip, ...]:
    # It belongs to the extra `train`.
    from starter.paraformer_testsets import TestSets
    from starter.voices import SEEN_VOICES

    talks = TestSets("test", _SEED).talks(count, seconds, SEEN_VOICES)
    return tuple(
        Clip(
            (np.clip(talk.samples, -1, 1) * 32767).astype("<i2").tobytes(),
            talk.text,
            tuple(float(end) for end in talk.times[:, 1]),
        )
        for talk in talks
    )


def climb(contender: Contender, ladder: Ladder, report: Callable[[Step], None]) -> list[Step]:
    """Measure each step until one is not carried.

    The first step is always one session at a time, each clip once: it shows when results come from the idle
    server, which is what greater steps are compared with.
    """
    run_load(contender.url, ladder.clips[:1], Load(ladder.mode, 1, chunk_size=ladder.chunk_size))
    alone: dict[int, SessionRun] = {}
    steps: list[Step] = []
    for sessions in (1, *(step for step in ladder.steps if step > 1)):
        runs, cores = _run_step(contender, ladder, sessions)
        if sessions == 1:
            alone = {run.clip: run for run in runs}
        step = summarize(
            sessions, runs, alone, ladder.clips, cores=cores, random_weights=ladder.random_weights
        )
        steps.append(step)
        report(step)
        if not step.carried(ladder.bounds):
            break
    return steps


def _run_step(contender: Contender, ladder: Ladder, sessions: int) -> tuple[list[SessionRun], float]:
    """The measured sessions of a step, and how many cores the server kept busy."""
    seconds = max(clip.seconds for clip in ladder.clips)
    if sessions == 1:
        load = Load(ladder.mode, 1, len(ladder.clips), chunk_size=ladder.chunk_size)
    else:
        # One clip before and one after those that count, so that they meet the full load at any time.
        load = Load(ladder.mode, sessions, ladder.rounds + 2, seconds, chunk_size=ladder.chunk_size)
    began, busy = time.monotonic(), _cpu_seconds(contender)
    runs = run_load(contender.url, ladder.clips, load)
    cores = (_cpu_seconds(contender) - busy) / (time.monotonic() - began)
    counted = range(len(ladder.clips)) if sessions == 1 else range(1, ladder.rounds + 1)
    return [run for run in runs if run.turn in counted or run.error], cores


def _cpu_seconds(contender: Contender) -> float:
    total = 0.0
    for process in contender.processes():
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def ensure_models(models: Literal["starter", "full-size"]) -> Path:
    """The directory with the models; writes the full-size ones if they are not there."""
    if models == "starter":
        return STARTER
    if not all((FULL_SIZE / name / "model.pt").exists() for name in full_size.NAMES):
        full_size.write_all(FULL_SIZE)
    return FULL_SIZE


@contextmanager
def own_server(models: PeerModels, config: Path, log: Path) -> Iterator[Contender]:
    """This project's server with those models."""
    env = {
        "VAD_MODEL": str(models.vad),
        "PARAFORMER_MODEL": str(models.offline),
        "PARAFORMER_STREAMING_MODEL": str(models.online),
        "PUNCTUATION_REALTIME_MODEL": str(models.punctuation),
    }
    with live_server(log, config=config, env=env) as server:
        yield _OwnServer(server.url.replace("http", "ws", 1) + "/", server.processes)


@dataclass(frozen=True, slots=True)
class _OwnServer:
    url: str
    processes: Callable[[], list[psutil.Process]]


def main(
    models: Annotated[Literal["starter", "full-size"], typer.Option(help="Which weights.")] = "starter",
    mode: Annotated[Mode, typer.Option(help="With the offline model's finals, or without.")] = "2pass",
    sessions: Annotated[str, typer.Option(help="Sessions at once, in rising order.")] = "1,4,8,16,32,64",
    clips: Annotated[int, typer.Option(help="Different recordings.", min=1)] = 8,
    seconds: Annotated[float, typer.Option(help="Length of each, at least, in seconds.")] = 15,
    rounds: Annotated[int, typer.Option(help="Recordings that count, for each session.", min=1)] = 2,
    lag_bound: Annotated[float, typer.Option(help="Greatest response lag p95, in seconds.")] = 0.6,
    final_bound: Annotated[float, typer.Option(help="Greatest final_after_stop p95, in seconds.")] = 2.0,
    config: Annotated[Path, typer.Option(help="Serve config of this server.")] = Path("serve_config.yaml"),
    own: Annotated[bool, typer.Option(help="Measure this server.")] = True,
    peer: Annotated[Literal["none", "funasr"], typer.Option(help="The other server.")] = "none",
    funasr_server_script: Annotated[
        Path | None, typer.Option("--funasr-server", help="funasr_wss_server.py of a FunASR checkout.")
    ] = None,
    funasr_options: Annotated[str, typer.Option(help="More options for it, such as '--ncpu 1'.")] = "",
    vad: Annotated[Path | None, typer.Option(help="Another FSMN-VAD for both servers.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write all figures as JSON.")] = None,
) -> None:
    """Find out how many live sessions a server carries."""
    if peer == "funasr" and funasr_server_script is None:
        raise typer.BadParameter("--peer funasr needs --funasr-server")
    root = ensure_models(models)
    directories = PeerModels(
        root / "paraformer",
        root / "paraformer-streaming",
        vad or root / "fsmn-vad",
        root / "ct-punc-realtime",
    )
    bounds = Bounds(lag_bound, final_bound)
    ladder = Ladder(
        mode=mode,
        steps=tuple(sorted(int(step) for step in sessions.split(","))),
        rounds=rounds,
        clips=make_clips(clips, seconds),
        bounds=bounds,
        random_weights=models == "full-size",
    )
    cores = len(os.sched_getaffinity(0))
    results: dict[str, list[Step]] = {}

    def measure(name: str, contender: Contender) -> None:
        results[name] = climb(
            contender, ladder, lambda step: console.print(step_line(name, step, bounds), soft_wrap=True)
        )

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        if own:
            with own_server(directories, config, log) as server:
                measure("asr-serve", server)
        if funasr_server_script is not None and peer == "funasr":
            options = shlex.split(funasr_options)
            with funasr_server(funasr_server_script, directories, log, options=options) as other:
                measure("FunASR", other)
    if not results:
        raise typer.BadParameter("--no-own without --peer leaves nothing to measure")
    console.print(results_table(f"{mode}, {models} models, {cores} cores", results, bounds))
    console.print(verdict(results, bounds, cores))
    if output is not None:
        write_json(output, results, bounds, cores)


if __name__ == "__main__":
    typer.run(main)
