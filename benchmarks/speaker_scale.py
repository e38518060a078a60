"""Speakers of very long recordings: ``python -m benchmarks.speaker_scale --hours 3``.

Telling speakers apart ends with one step that sees the whole recording. How long does it take, beside the
recognition, and how much memory? A conversation of five people (``benchmarks.conversations``) is sent to a
server, without speakers and with them; and the last step is done by itself, with the voices that the same
model finds in the same recording.
"""

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import psutil
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.conversations.collection import OUTPUT, Kind, Recording, Voices, make
from benchmarks.conversations.recording import Truth, bridged
from benchmarks.diarization_score import Spoken, score
from benchmarks.engines import read_wav
from benchmarks.live_server import LiveServer, live_server
from benchmarks.long_file import Peak, watch
from benchmarks.make_speech import make_recording
from benchmarks.speaker_cost import warm_up
from deployments.engines.base import SAMPLE_RATE, Stretch
from deployments.messages import Embeddings, SpeechSpan
from serve_app.pipeline.speakers.diarizer import Diarizer
from serve_app.pipeline.speakers.types import SpeakerOptions
from serve_app.pipeline.speakers.windows import windows_of
from serve_app.pipeline.types import Sentence, TimedWord
from serve_app.settings import Settings
from serve_app.speaker_tuning import speaker_tuning

SPEAKER_MODEL = Path("models/starter/campplus")

_MIB = 2**20
_PER_MS = SAMPLE_RATE // 1000
_MARKS = "，。？、"

console = Console()


@contextmanager
def watch_process() -> Iterator[Peak]:
    """How far the memory of this process rises, looked at every few milliseconds."""
    process, peak, stop = psutil.Process(), Peak(), threading.Event()
    before = process.memory_info().rss

    def sample() -> None:
        while not stop.wait(0.003):
            peak.bytes = max(peak.bytes, process.memory_info().rss - before)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def voices_of(truth: Truth, recording: Path) -> tuple[list[SpeechSpan], Embeddings]:
    """Windows of all speech, and the voice in each."""
    from deployments.engines.speaker_torch import SpeakerTorchEngine

    engine = SpeakerTorchEngine(SPEAKER_MODEL, threads=1)
    samples = read_wav(recording)
    speech = bridged(span for turn in truth.turns for span in turn.spans)
    spans = [SpeechSpan(round(begin * 1000), round(end * 1000)) for begin, end in speech]
    windows: list[SpeechSpan] = []
    voices: list[Embeddings] = []
    for span in spans:
        inside = windows_of(span)
        places = tuple(
            ((window.begin_ms - span.begin_ms) * _PER_MS, (window.end_ms - span.begin_ms) * _PER_MS)
            for window in inside
        )
        part = samples[span.begin_ms * _PER_MS : span.end_ms * _PER_MS]
        voices += engine.embed_stretches([Stretch(part, places)])
        windows += inside
    return windows, np.concatenate(voices)


def sentences_of(truth: Truth) -> list[Sentence]:
    """What is said, a sentence for each turn, and each character as long as the others of its turn."""
    said: list[Sentence] = []
    for turn in truth.turns:
        characters = [character for character in turn.text if character not in _MARKS]
        edges = np.linspace(turn.begin, turn.end, len(characters) + 1).tolist()
        words = [
            TimedWord(character, begin, end)
            for character, (begin, end) in zip(characters, pairwise(edges), strict=True)
        ]
        said.append(Sentence((*words[:-1], replace(words[-1], mark="。"))))
    return sorted(said, key=lambda sentence: sentence.begin)


def last_step(truth: Truth, recording: Path) -> Table:
    """Tell the speakers of the whole recording apart, once."""
    windows, voices = voices_of(truth, recording)
    sentences = sentences_of(truth)
    diarizer = Diarizer(SpeakerOptions(), speaker_tuning(Settings(speaker_model=str(SPEAKER_MODEL))))
    diarizer.add(windows, voices)
    with watch_process() as peak:
        began = time.perf_counter()
        labeled = diarizer.label(sentences, "zh")
        seconds = time.perf_counter() - began
    spoken = [Spoken(one.begin, one.end, one.speaker.label) for one in labeled if one.speaker]
    found = score(truth, spoken)
    table = Table(
        "windows", "seconds", "MiB", "speakers", "found", "DER, 0.25 s collar", title="the last step"
    )
    table.add_row(
        str(len(windows)),
        f"{seconds:.2f}",
        f"{peak.bytes / _MIB:.0f}",
        str(found.speakers),
        str(found.found),
        f"{found.lenient.rate:.1%}",
    )
    return table


def through_server(server: LiveServer, recording: Path) -> Table:
    """The whole recording, with and without speakers."""
    table = Table("speakers", "seconds", "MiB above idle", title="through the server")
    # Ten minutes bring forth all the replicas that a longer one does; what those take is a matter of scaling.
    warm_up(server, [make_recording(600, seed=0)] * 2, 1)
    idle = server.memory()
    for speakers in ("false", "true"):
        with watch(server) as peak:
            began = time.perf_counter()
            with recording.open("rb") as audio:
                response = httpx.post(
                    server.url + "/v1/audio/transcriptions",
                    files={"file": audio},
                    data={"response_format": "verbose_json", "enable_speaker_diarization": speakers},
                    timeout=None,
                    trust_env=False,
                )
            response.raise_for_status()
            seconds = time.perf_counter() - began
        table.add_row(
            "on" if speakers == "true" else "off", f"{seconds:.1f}", f"{(peak.bytes - idle) / _MIB:.0f}"
        )
    return table


def main(hours: Annotated[float, typer.Option(help="Length of the recording.", min=0.02)] = 3.0) -> None:
    """Measure what the speakers of a very long recording take."""
    (truth,) = make([Recording(Kind.LONG, 0, Voices.TEST, 0, hours)])
    recording = OUTPUT / f"{truth.name}.wav"
    console.print(f"{truth.seconds / 3600:.2f} h, {len(truth.turns)} turns")
    console.print(last_step(truth, recording))
    with (
        tempfile.TemporaryDirectory() as home,
        live_server(Path(home) / "log", env={"SPEAKER_MODEL": str(SPEAKER_MODEL)}) as server,
    ):
        console.print(through_server(server, recording))


if __name__ == "__main__":
    typer.run(main)
