"""Who spoke: errors and speed of the server and of FunASR, ``python -m benchmarks.diarization``.

The server and FunASR get the same recordings (``benchmarks.conversations``: forty conversations of two to
five voices that nothing was trained on), the same weights and the same cores, one file at a time, and take
turns. What is compared with the truth are the sentences of their answers: ``verbose_json`` of the server,
``sentence_info`` of FunASR's ``AutoModel`` with a ``spk_model``. FunASR runs with one thread, too, because on
a busy machine it is often slower with more.

Errors are diarization error rates as pyannote.metrics defines them, over all recordings together, with a
collar of 0.25 s around the boundaries of the truth and without; speech of two at a time counts for both.
RTFx is seconds of audio per second. The server's further answers, to recordings of other kinds, follow in a
table of their own.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.conversations.collection import (
    CONVERSATIONS,
    OUTPUT,
    Kind,
    Recording,
    Voices,
    collection,
    make,
)
from benchmarks.conversations.recording import Truth
from benchmarks.diarization_score import Score, Spoken, right_counts, score, together
from benchmarks.engines import ModelDirectories
from benchmarks.funasr_speakers import Mode, SpeakerRun, run_funasr_speakers
from benchmarks.live_server import LiveServer, live_server

STARTER = Path("models/starter")
SPEAKER_MODEL = STARTER / "campplus"

console = Console()


@dataclass(frozen=True, slots=True)
class Result:
    """What one contender made of the conversations."""

    scores: tuple[Score, ...]
    rtfx: float


def run_server(server: LiveServer, recordings: Sequence[Path], truths: Sequence[Truth]) -> SpeakerRun:
    """Send the recordings one after the other, each over a connection of its own.

    Raises:
        httpx.HTTPStatusError: an answer was not 200.
    """
    began = time.perf_counter()
    spoken = tuple(spoken_by_server(server, recording) for recording in recordings)
    wall = time.perf_counter() - began
    return SpeakerRun(sum(truth.seconds for truth in truths), wall, spoken)


def spoken_by_server(server: LiveServer, recording: Path, **fields: str) -> tuple[Spoken, ...]:
    """The sentences of the server's answer, each with its speaker."""
    with recording.open("rb") as audio:
        response = httpx.post(
            server.url + "/v1/audio/transcriptions",
            files={"file": audio},
            data={"response_format": "verbose_json", "enable_speaker_diarization": "true", **fields},
            timeout=None,
            trust_env=False,
        )
    response.raise_for_status()
    segments = response.json()["segments"]
    return tuple(Spoken(segment["start"], segment["end"], segment["speaker"]) for segment in segments)


def run_with_funasr(recordings: Sequence[Path], threads: int, mode: Mode) -> SpeakerRun:
    """FunASR's own pipeline with the starter models."""
    models = ModelDirectories.under(STARTER)
    return run_funasr_speakers(recordings, models, SPEAKER_MODEL, threads=threads, mode=mode)


def compare(
    contenders: dict[str, Callable[[], SpeakerRun]], truths: Sequence[Truth], rounds: int
) -> dict[str, Result]:
    """Let the contenders take turns. Errors are those of the last round; RTFx is the median of all."""
    rtfx: dict[str, list[float]] = {name: [] for name in contenders}
    scores: dict[str, tuple[Score, ...]] = {}
    for round_ in range(rounds):
        for name, contender in contenders.items():
            run = contender()
            rtfx[name].append(run.rtfx)
            scores[name] = tuple(
                score(truth, spoken) for truth, spoken in zip(truths, run.spoken, strict=True)
            )
            console.print(
                f"round {round_ + 1}: {name} {run.rtfx:.1f}x "
                f"({run.audio_seconds:.0f} s of audio in {run.wall_seconds:.1f} s)"
            )
    return {name: Result(scores[name], statistics.median(rtfx[name])) for name in contenders}


def errors_table(results: dict[str, Result]) -> Table:
    """Errors, their kinds and speed, a row for each contender."""
    files = len(next(iter(results.values())).scores)
    table = Table(
        "",
        "with collar",
        "missed",
        "false alarm",
        "confused",
        "no collar",
        "right count",
        "RTFx",
        title=f"Errors in {files} conversations, as shares of the speech; collar 0.25 s",
    )
    for name, result in results.items():
        lenient = together(one.lenient for one in result.scores)
        kinds = (lenient.missed, lenient.false_alarm, lenient.confusion)
        table.add_row(
            name,
            f"{lenient.rate:.1%}",
            *(f"{kind / lenient.total:.1%}" for kind in kinds),
            f"{together(one.strict for one in result.scores).rate:.1%}",
            f"{right_counts(result.scores):.0%}",
            f"{result.rtfx:.1f}",
        )
    return table


def counts_table(results: dict[str, Result]) -> Table:
    """Errors by the number of voices: with the collar, and how often the count was right."""
    table = Table("voices", *results, title="Errors with collar, and right counts")
    for voices in sorted({one.speakers for result in results.values() for one in result.scores}):
        cells = []
        for result in results.values():
            scores = [one for one in result.scores if one.speakers == voices]
            rate = together(one.lenient for one in scores).rate
            cells.append(f"{rate:.1%}, {sum(one.right_count for one in scores)} of {len(scores)}")
        table.add_row(str(voices), *cells)
    return table


def others_table(
    server: LiveServer, recordings: Sequence[Recording], truths: Sequence[Truth], folder: Path
) -> Table:
    """The server's answers to recordings of other kinds."""
    table = Table(
        "recording",
        "seconds",
        "speakers",
        "found",
        "with collar",
        "no collar",
        "RTFx",
        title="Errors in recordings of other kinds",
    )
    for recording, truth in zip(recordings, truths, strict=True):
        for channels in ("mix", "speakers") if recording.kind is Kind.CALL else ("mix",):
            began = time.perf_counter()
            spoken = spoken_by_server(server, folder / f"{recording.name}.wav", channels=channels)
            rtfx = truth.seconds / (time.perf_counter() - began)
            found = score(truth, spoken)
            table.add_row(
                recording.kind.value + (", by channel" if channels == "speakers" else ""),
                f"{truth.seconds:.0f}",
                str(found.speakers),
                str(found.found),
                f"{found.lenient.rate:.1%}",
                f"{found.strict.rate:.1%}",
                f"{rtfx:.1f}",
            )
    return table


def main(
    conversations: Annotated[int, typer.Option(help="How many, 40 at most.", min=1)] = CONVERSATIONS,
    voices: Annotated[
        Voices, typer.Option(help="Whose; thresholds are chosen on development's.")
    ] = Voices.TEST,
    rounds: Annotated[int, typer.Option(help="Turns of each contender.", min=1)] = 1,
    funasr: Annotated[
        str, typer.Option(help="Threads of FunASR's pipeline, a run for each; 0: all cores; empty: no run.")
    ] = "1,0",
    mode: Annotated[
        Mode, typer.Option(help="What FunASR gives speakers to; sentences by default.")
    ] = "punc_segment",
    hours: Annotated[float, typer.Option(help="Length of the long recording; 0 for none.")] = 2.0,
    details: Annotated[Path, typer.Option(help="Takes each recording's errors, as JSON.")] = Path(
        "build/diarization.json"
    ),
) -> None:
    """Compare the server's speakers with FunASR's, and both with the truth."""
    recordings = collection(voices, conversations=conversations, hours=hours)
    folder = OUTPUT if voices is Voices.TEST else OUTPUT.with_name(f"{OUTPUT.name}-{voices}")
    truths = make(recordings, folder)
    known = list(zip(recordings, truths, strict=True))
    talks = [truth for recording, truth in known if recording.kind is Kind.CONVERSATION]
    files = [folder / f"{truth.name}.wav" for truth in talks]
    with tempfile.TemporaryDirectory() as home:
        env = {"SPEAKER_MODEL": str(SPEAKER_MODEL)}
        with live_server(Path(home) / "log", env=env) as server:
            run_server(server, files[:4], talks[:4])
            contenders: dict[str, Callable[[], SpeakerRun]] = {
                "server": lambda: run_server(server, files, talks)
            }
            for threads in (int(part) for part in funasr.split(",") if part):
                contender = partial(run_with_funasr, files, threads or len(os.sched_getaffinity(0)), mode)
                contenders[f"FunASR, {threads or 'all'} threads" if threads != 1 else "FunASR, 1 thread"] = (
                    contender
                )
            results = compare(contenders, talks, rounds)
            details.parent.mkdir(parents=True, exist_ok=True)
            details.write_text(
                json.dumps({name: asdict(result) for name, result in results.items()}, indent=1), "utf-8"
            )
            console.print(errors_table(results), counts_table(results))
            for name, result in list(results.items())[1:]:
                console.print(f"server / {name}: {results['server'].rtfx / result.rtfx:.1f}x the speed")
            rest = [
                (recording, truth) for recording, truth in known if recording.kind is not Kind.CONVERSATION
            ]
            console.print(
                others_table(server, [one for one, _ in rest], [truth for _, truth in rest], folder)
            )


if __name__ == "__main__":
    typer.run(main)
