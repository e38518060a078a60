"""Files per second: the server over HTTP, its engines called directly, and FunASR's own pipeline.

``python -m benchmarks.files --models starter --concurrency 1,8`` runs all three in turn, some rounds, with
the same weights, recordings and cores, and prints the median realtime factor (RTFx: seconds of audio per
second) of each and the ratios. RTFx depends on the machine and on what else runs there; the ratios of one
run are what to compare.

* **server**: ``asr-serve serve`` with ``serve_config.yaml``, files sent by as many clients as
  ``--concurrency`` says; the time is from the first byte sent to the last answer.
* **engines**: one single-threaded process per core that holds the same engines, fed straight from disk.
* **FunASR**: ``AutoModel`` with VAD and punctuation, one file after another, with all cores as threads:
  it takes one file at a time, so concurrency makes no difference to it. **FunASR x cores** is one such
  process per core, each with its share of the files, which FunASR itself does not offer.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import httpx
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import full_size
from benchmarks.engines import ModelDirectories, Run, duration, run_engines
from benchmarks.funasr_pipeline import run_funasr
from benchmarks.live_server import LiveServer, live_server
from benchmarks.make_speech import make_recording

STARTER = Path("models/starter")
FULL_SIZE = Path("build/full-size")

console = Console()


@dataclass(frozen=True, slots=True)
class Workload:
    """What is transcribed, by what, and how often."""

    models: ModelDirectories
    files: tuple[Path, ...]
    cores: int
    rounds: int

    @property
    def audio_seconds(self) -> float:
        return sum(duration(file) for file in self.files)


def run_server(server: LiveServer, files: Sequence[Path], concurrency: int) -> Run:
    """Send all files, ``concurrency`` at a time, each over a connection of its own.

    Raises:
        httpx.HTTPStatusError: an answer was not 200.
    """

    def send(file: Path) -> str:
        with file.open("rb") as audio:
            # Numbers as they were spoken: so are the texts that these are compared with.
            response = httpx.post(
                server.url + "/v1/audio/transcriptions",
                files={"file": audio},
                data={"itn": "false"},
                timeout=None,
                trust_env=False,
            )
        response.raise_for_status()
        return str(response.json()["text"])

    with ThreadPoolExecutor(concurrency) as clients:
        began = time.perf_counter()
        texts = tuple(clients.map(send, files))
        wall = time.perf_counter() - began
    return Run(sum(duration(file) for file in files), wall, texts)


def warm_up(server: LiveServer, files: Sequence[Path], concurrency: int) -> None:
    """Load the server until it has as many Paraformer replicas as this load brings forth."""
    steady_since, replicas = time.monotonic(), 0
    while time.monotonic() - steady_since < 12:
        run_server(server, files[: 2 * concurrency], concurrency)
        if len(server.replicas("Paraformer")) != replicas:
            steady_since, replicas = time.monotonic(), len(server.replicas("Paraformer"))


def measure(workload: Workload, concurrency: int, server: LiveServer) -> dict[str, float]:
    """Median RTFx of each contender at one concurrency; they take turns, so that drift hits all alike."""
    models, files, cores = workload.models, workload.files, workload.cores
    contenders: dict[str, Callable[[], Run]] = {
        "server": lambda: run_server(server, files, concurrency),
        "engines": lambda: run_engines(files, models, cores=cores, concurrency=concurrency),
        "FunASR": lambda: run_funasr(files, models, cores=cores),
        "FunASR x cores": lambda: run_funasr(files, models, cores=cores, processes=cores),
    }
    warm_up(server, files, concurrency)
    rtfx: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(workload.rounds):
        for name, contender in contenders.items():
            run = contender()
            rtfx[name].append(run.rtfx)
            console.print(
                f"concurrency {concurrency}, round {round_ + 1}: {name} {run.rtfx:.1f}x "
                f"({run.audio_seconds:.0f} s of audio in {run.wall_seconds:.2f} s)"
            )
    return {name: statistics.median(values) for name, values in rtfx.items()}


def results_table(title: str, results: dict[int, dict[str, float]]) -> Table:
    """RTFx and ratios, a row for each concurrency."""
    names = list(next(iter(results.values())))
    table = Table(
        "concurrency", *names, "server / engines", "server / FunASR", "server / FunASR x cores", title=title
    )
    for concurrency, rtfx in results.items():
        ratios = [f"{rtfx['server'] / rtfx[name]:.2f}" for name in names if name != "server"]
        table.add_row(str(concurrency), *(f"{rtfx[name]:.0f}" for name in names), *ratios)
    return table


def main(
    models: Annotated[Literal["starter", "full-size"], typer.Option(help="Which weights.")] = "starter",
    concurrency: Annotated[str, typer.Option(help="Files at once, one run for each.")] = "1,8",
    files: Annotated[int, typer.Option(help="Recordings.")] = 16,
    seconds: Annotated[int, typer.Option(help="Length of each, in seconds.")] = 60,
    rounds: Annotated[int, typer.Option(help="Turns of each contender; the median counts.")] = 3,
) -> None:
    """Compare the server with its own engines and with FunASR's pipeline."""
    directory = STARTER
    if models == "full-size":
        directory = FULL_SIZE
        if not (directory / "paraformer" / "model.pt").exists():
            full_size.write_all(directory)
    recordings = tuple(make_recording(seconds, seed=seed) for seed in range(files))
    cores = len(os.sched_getaffinity(0))
    workload = Workload(ModelDirectories.under(directory), recordings, cores, rounds)
    env = {
        "VAD_MODEL": str(workload.models.vad),
        "PARAFORMER_MODEL": str(workload.models.paraformer),
        "PUNCTUATION_MODEL": str(workload.models.punctuation),
    }
    with tempfile.TemporaryDirectory() as folder, live_server(Path(folder) / "log", env=env) as server:
        results = {
            level: measure(workload, level, server)
            for level in (int(part) for part in concurrency.split(","))
        }
    console.print(
        results_table(f"RTFx, {models} models, {cores} cores, {files} files of {seconds} s", results)
    )


if __name__ == "__main__":
    typer.run(main)
