"""Speakers of very long recordings: ``python -m benchmarks.speaker_scale --hours 3``.

Telling speakers apart ends with one step that sees the whole recording. How long does it take, beside the
recognition, and how much memory? A conversation of five people (``benchmarks.conversations``) is sent to a
server, without speakers and with them; and the last step is done by itself, with the voices that the same
model finds in the same recording.
"""

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import httpx
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
from deployments.engines.base import SAMPLE_RATE, Stretch
from deployments.messages import Embeddings, SpeechSpan
from serve_app.pipeline.speakers.diarizer import Diarizer
from serve_app.pipeline.speakers.types import SpeakerOptions, SpeakerTuning
from serve_app.pipeline.speakers.windows import windows_of
from serve_app.pipeline.types import Sentence, TimedWord
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
    import numpy as np

    from deployments.engines.speaker_torch import SpeakerTorchEngine

    engine = SpeakerTorchEngine(SPEAKER_MODEL, threads=psutil.cpu_count(logical=False) or 1)
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
    """What is said, each character as long as the others of its turn, in the order of time."""
    said: list[Sentence] = []
    for turn in truth.turns:
        spoken = [char for char in turn.text if char not in _MARKS]
        length = (turn.end - turn.begin) / len(spoken)
        words: list[TimedWord] = []
        for mark in turn.text:
            if mark not in _MARKS:
                begin = turn.begin + length * sum(len(sentence.words) for sentence in [])
                begin = turn.begin + length * len(words)
                words.append(TimedWord(mark, begin, begin + length))
        said.append(Sentence(tuple(words)))
    return sorted(said, key=lambda sentence: sentence.begin)


def main() -> None: ...
