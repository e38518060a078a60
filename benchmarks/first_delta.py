"""Streamed answers: how soon does the first text come, and what does streaming cost?

``python -m benchmarks.first_delta`` sends one recording by turns with and without ``stream=true`` to a server
of its own and prints the time to the first delta as a share of the time to the last, the longest pause
between two deltas, and the time of the whole against that of the plain answer.
"""

import itertools
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.live_server import LiveServer, live_server
from benchmarks.long_file import send, warm_up
from benchmarks.make_speech import make_recording


@dataclass(frozen=True, slots=True)
class Streamed:
    """Seconds from the request: when each delta came, and when the answer ended."""

    deltas: tuple[float, ...]
    end: float

    @property
    def longest_pause(self) -> float:
        times = (*self.deltas, self.end)
        return max(after - before for before, after in itertools.pairwise(times))


def stream(server: LiveServer, recording: Path) -> Streamed:
    """Transcribe a recording as server-sent events.

    Raises:
        RuntimeError: the stream held an error, or did not end with the whole text.
    """
    deltas: list[float] = []
    done = False
    begin = time.perf_counter()
    with (
        recording.open("rb") as file,
        httpx.stream(
            "POST",
            server.url + "/v1/audio/transcriptions",
            files={"file": file},
            data={"stream": "true"},
            timeout=None,
            trust_env=False,
        ) as response,
    ):
        for line in response.iter_lines():
            if '"transcript.text.delta"' in line:
                deltas.append(time.perf_counter() - begin)
            done = done or '"transcript.text.done"' in line
    if not done or not deltas:
        raise RuntimeError(f"the stream ended without its text (status {response.status_code})")
    return Streamed(tuple(deltas), time.perf_counter() - begin)


def main(
    minutes: Annotated[float, typer.Option(help="Length of the recording, in minutes.")] = 10,
    rounds: Annotated[int, typer.Option(help="How often each is sent.")] = 5,
) -> None:
    """Print medians over all rounds."""
    recording = make_recording(round(minutes * 60), seed=1)
    plain: list[float] = []
    streamed: list[Streamed] = []
    with tempfile.TemporaryDirectory() as folder, live_server(Path(folder) / "server.log") as server:
        warm_up(server)
        for _ in range(rounds):
            plain.append(send(server, recording)[0])
            streamed.append(stream(server, recording))
    table = Table("", "median of rounds")
    table.add_row("first delta / whole", f"{_median([s.deltas[0] / s.end for s in streamed]):.3f}")
    table.add_row("longest pause / whole", f"{_median([s.longest_pause / s.end for s in streamed]):.3f}")
    table.add_row("streamed / plain", f"{_median([s.end for s in streamed]) / _median(plain):.2f}")
    table.add_row("whole, seconds", f"{_median([s.end for s in streamed]):.2f}")
    table.add_row("deltas", f"{_median([len(s.deltas) for s in streamed]):.0f}")
    Console().print(table)


def _median(values: list[float] | list[int]) -> float:
    return float(statistics.median(values))


if __name__ == "__main__":
    typer.run(main)
