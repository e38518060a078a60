"""What speakers cost: files per second with and without them, ``python -m benchmarks.speaker_cost``.

One server, one set of recordings, ``--concurrency`` of them at once; rounds with and without
``enable_speaker_diarization`` take turns, so that drift of the machine hits both alike. What share is lost is
told of the medians of all rounds, and of each pair of rounds that followed each other.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import httpx
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import full_size
from benchmarks.engines import duration
from benchmarks.live_server import LiveServer, live_server
from benchmarks.make_speech import make_recording

STARTER = Path("models/starter")
FULL_SIZE = Path("build/full-size")

_STEADY_SECONDS = 12

console = Console()


@dataclass
class Rounds:
    """RTFx (seconds of audio per second) of rounds that took turns."""

    without: list[float] = field(default_factory=list)
    with_speakers: list[float] = field(default_factory=list)

    @property
    def lost(self) -> float:
        """Share of the throughput that speakers take, of the medians."""
        return 1 - statistics.median(self.with_speakers) / statistics.median(self.without)

    @property
    def lost_in_pairs(self) -> list[float]:
        """The same for each two rounds that followed each other."""
        return [1 - one / other for one, other in zip(self.with_speakers, self.without, strict=True)]


def send_all(server: LiveServer, files: Sequence[Path], concurrency: int, *, speakers: bool) -> float:
    """Send all files, so many at a time, and return the RTFx.

    Raises:
        httpx.HTTPStatusError: an answer was not 200.
        RuntimeError: an answer has speakers, and should not, or the other way round.
    """

    def send(file: Path) -> None:
        with file.open("rb") as audio:
            response = httpx.post(
                server.url + "/v1/audio/transcriptions",
                files={"file": audio},
                data={
                    "response_format": "verbose_json",
                    "enable_speaker_diarization": str(speakers).lower(),
                    "itn": "false",
                },
                timeout=None,
                trust_env=False,
            )
        response.raise_for_status()
        if any(bool(segment.get("speaker")) != speakers for segment in response.json()["segments"]):
            raise RuntimeError(f"speakers were to be {'there' if speakers else 'absent'}, and are not")

    seconds = sum(duration(file) for file in files)
    with ThreadPoolExecutor(concurrency) as clients:
        began = time.perf_counter()
        list(clients.map(send, files))
        return seconds / (time.perf_counter() - began)


def warm_up(server: LiveServer, files: Sequence[Path], concurrency: int) -> None:
    """Load the server until it has as many replicas as this load brings forth."""
    steady_since, replicas = time.monotonic(), (0, 0)
    while time.monotonic() - steady_since < _STEADY_SECONDS:
        for speakers in (False, True):
            send_all(server, files[: 2 * concurrency], concurrency, speakers=speakers)
        now = len(server.replicas("Paraformer")), len(server.replicas("SpeakerEmbedding"))
        if now != replicas:
            steady_since, replicas = time.monotonic(), now


def measure(server: LiveServer, files: Sequence[Path], concurrency: int, rounds: int) -> Rounds:
    """Rounds without and with speakers; which of the two comes first changes, too."""
    found = Rounds()
    warm_up(server, files, concurrency)
    for number in range(rounds):
        for speakers in (False, True) if number % 2 == 0 else (True, False):
            rtfx = send_all(server, files, concurrency, speakers=speakers)
            (found.with_speakers if speakers else found.without).append(rtfx)
            console.print(f"round {number + 1}, speakers {'on' if speakers else 'off'}: {rtfx:.1f}x")
    return found


def main(
    models: Annotated[Literal["starter", "full-size"], typer.Option(help="Which weights.")] = "starter",
    concurrency: Annotated[int, typer.Option(help="Files at once.", min=1)] = 8,
    files: Annotated[int, typer.Option(help="Recordings.", min=1)] = 16,
    seconds: Annotated[int, typer.Option(help="Length of each, in seconds.", min=1)] = 60,
    rounds: Annotated[int, typer.Option(help="Rounds with and without.", min=1)] = 5,
) -> None:
    """Compare throughput with and without speakers."""
    directory = STARTER if models == "starter" else FULL_SIZE
    if models == "full-size" and not all(
        (directory / name / "model.pt").exists() for name in full_size.NAMES
    ):
        full_size.write_all(directory)
    recordings = [make_recording(seconds, seed=seed) for seed in range(files)]
    env = {
        "VAD_MODEL": str(directory / "fsmn-vad"),
        "PARAFORMER_MODEL": str(directory / "paraformer"),
        "PUNCTUATION_MODEL": str(directory / "ct-punc"),
        "SPEAKER_MODEL": str(directory / "campplus"),
    }
    with tempfile.TemporaryDirectory() as folder, live_server(Path(folder) / "log", env=env) as server:
        found = measure(server, recordings, concurrency, rounds)
    table = Table(
        "models", "files at once", "RTFx without", "RTFx with speakers", "lost", "lost in pairs of rounds"
    )
    pairs = ", ".join(f"{lost:.0%}" for lost in found.lost_in_pairs)
    table.add_row(
        models,
        str(concurrency),
        f"{statistics.median(found.without):.1f}",
        f"{statistics.median(found.with_speakers):.1f}",
        f"{found.lost:.0%}",
        pairs,
    )
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
