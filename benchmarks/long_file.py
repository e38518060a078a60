"""Long recordings: does the time grow with the length alone, and how much memory do they take?

``python -m benchmarks.long_file`` sends recordings of 10 minutes to 2 hours to a server of its own and
prints, for each, the wall time, the realtime factor, and how far the memory of all server processes
(proportional set size) rose above what they held before.
"""

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.live_server import LiveServer, live_server
from benchmarks.make_speech import make_recording

_MIB = 2**20
_SAMPLE_EVERY_SECONDS = 0.5
_REPLICA_START_SECONDS = 8


@dataclass(slots=True)
class Peak:
    """The largest memory seen while it was watched, in bytes."""

    bytes: int = 0


@contextmanager
def watch(server: LiveServer) -> Iterator[Peak]:
    """Sample the memory of a server's processes on a thread."""
    peak, stop = Peak(), threading.Event()

    def sample() -> None:
        while not stop.wait(_SAMPLE_EVERY_SECONDS):
            peak.bytes = max(peak.bytes, server.memory())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def send(server: LiveServer, recording: Path) -> tuple[float, int]:
    """Transcribe a recording; return the wall seconds and the number of characters that came back."""
    begin = time.perf_counter()
    with recording.open("rb") as file:
        response = httpx.post(
            server.url + "/v1/audio/transcriptions", files={"file": file}, timeout=None, trust_env=False
        )
    response.raise_for_status()
    return time.perf_counter() - begin, len(response.json()["text"])


def warm_up(server: LiveServer) -> None:
    """Load the server until it has all the replicas that one long file brings forth, then let it rest.

    What a further replica costs is a matter of autoscaling; here it is what a recording costs.
    """
    recording, replicas = make_recording(600, seed=0), -1
    while (now := len(server.replicas("Vad")) + len(server.replicas("Paraformer"))) != replicas:
        replicas = now
        for _ in range(3):
            send(server, recording)
        time.sleep(_REPLICA_START_SECONDS)


def main(
    minutes: Annotated[str, typer.Option(help="Lengths to send, in minutes.")] = "10,30,60,120",
) -> None:
    """Send long recordings and print time and memory for each."""
    table = Table("minutes", "seconds", "x realtime", "s per audio minute", "MiB above idle", "characters")
    with tempfile.TemporaryDirectory() as folder, live_server(Path(folder) / "server.log") as server:
        warm_up(server)
        idle = server.memory()
        for length in (int(part) for part in minutes.split(",")):
            recording = make_recording(length * 60, seed=1)
            with watch(server) as peak:
                seconds, characters = send(server, recording)
            table.add_row(
                str(length),
                f"{seconds:.1f}",
                f"{length * 60 / seconds:.0f}",
                f"{seconds / length:.3f}",
                f"{(peak.bytes - idle) / _MIB:.0f}",
                str(characters),
            )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
