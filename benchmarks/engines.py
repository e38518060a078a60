"""The same engines without Ray and HTTP, driven as well as a direct caller could: the server's upper bound.

One process for each core, every one of them with a single thread and all three engines, because on a CPU
several small processes beat one wide one. A file is searched for speech by one of them; its segments are
cut as the server cuts them, and shared out among all.
"""

import multiprocessing
import time
import wave
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import numpy as np

from deployments.engines.base import SAMPLE_RATE, Pcm, Recognition, SpeechSpan, VadBlock
from deployments.engines.kernel_caches import bound_kernel_caches
from deployments.engines.precision import Precision
from serve_app.pipeline.segments import Loudness, SegmentLimits, SegmentPlanner
from serve_app.pipeline.text import join_words

_SHARE_SECONDS = 15.0

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class ModelDirectories:
    """Model directories in ModelScope's layout."""

    vad: Path
    paraformer: Path
    punctuation: Path

    @classmethod
    def under(cls, root: Path) -> "ModelDirectories":
        """The three directories as they are named below ``models/starter`` and ``build/full-size``."""
        return cls(root / "fsmn-vad", root / "paraformer", root / "ct-punc")


@dataclass(frozen=True, slots=True)
class Run:
    """What one run over some files took. Seconds; ``texts`` are in the order of the files."""

    audio_seconds: float
    wall_seconds: float
    texts: tuple[str, ...]

    @property
    def rtfx(self) -> float:
        """Seconds of audio per second of time."""
        return self.audio_seconds / self.wall_seconds


def run_engines(
    files: Sequence[Path],
    models: ModelDirectories,
    *,
    cores: int,
    concurrency: int,
    precision: Precision = "auto",
    limits: SegmentLimits | None = None,
) -> Run:
    """Transcribe ``files``, ``concurrency`` of them at once, on ``cores`` single-threaded processes.

    Loading the models is not part of the time. Files are mono 16-bit WAV at 16 kHz.

    Raises:
        ValueError: a file is in another format.
        RuntimeError: a worker process failed; the message holds what it raised.
    """
    limits = limits or SegmentLimits()
    seconds = sum(duration(file) for file in files)
    with WorkerPool(models, cores, precision) as pool, ThreadPoolExecutor(cores * concurrency) as parts:

        def transcribe(file: Path) -> str:
            segments = pool.call(Worker.segment, file, limits)
            recognized = parts.map(lambda group: pool.call(Worker.recognize, file, group), _groups(segments))
            words = [word.text for group in recognized for result in group for word in result.words]
            marks = pool.call(Worker.punctuate, words)
            return join_words(zip(words, marks, strict=True))

        with ThreadPoolExecutor(concurrency) as clients:
            began = time.perf_counter()
            texts = tuple(clients.map(transcribe, files))
            wall = time.perf_counter() - began
    return Run(seconds, wall, texts)


def _groups(segments: Sequence[SpeechSpan]) -> Iterator[list[SpeechSpan]]:
    """Neighbors together, up to ``_SHARE_SECONDS``: enough for a full batch, little enough to share out."""
    group: list[SpeechSpan] = []
    seconds = 0.0
    for segment in segments:
        length = (segment.end_ms - segment.begin_ms) / 1000
        if group and seconds + length > _SHARE_SECONDS:
            yield group
            group, seconds = [], 0.0
        group.append(segment)
        seconds += length
    if group:
        yield group


class WorkerPool:
    """Processes that each hold a :class:`Worker`; used as a context, from as many threads as one likes."""

    def __init__(self, models: ModelDirectories, cores: int, precision: Precision) -> None:
        """Start the processes and wait until all engines are loaded and warm.

        Raises:
            RuntimeError: a process failed.
        """
        bound_kernel_caches()  # the processes inherit it, as the server's replicas have it
        context = multiprocessing.get_context("spawn")
        self._idle: SimpleQueue[Connection] = SimpleQueue()
        self._ends: list[Connection] = []
        self._processes: list[BaseProcess] = []
        for _ in range(cores):
            end, far_end = context.Pipe()
            process = context.Process(target=_serve, args=(far_end, models, precision), daemon=True)
            process.start()
            far_end.close()
            self._processes.append(process)
            self._ends.append(end)
        for end in self._ends:
            _receive(end)
            self._idle.put(end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.join(10)
            process.terminate()

    def call(self, method: Callable[Concatenate["Worker", P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a method of :class:`Worker` in the first process that is idle, and wait for its result.

        Raises:
            RuntimeError: it raised; the message holds what.
        """
        connection = self._idle.get()
        try:
            connection.send((method, args, kwargs))
            result: R = _receive(connection)
            return result
        finally:
            self._idle.put(connection)


def _receive(connection: Connection) -> Any:
    try:
        result, error = connection.recv()
    except EOFError:
        raise RuntimeError("a worker process ended unexpectedly") from None
    if error is not None:
        raise RuntimeError(f"a worker process failed: {error}")
    return result


def _serve(connection: Connection, models: ModelDirectories, precision: Precision) -> None:
    """Answer calls until the other end closes."""
    try:
        worker = Worker(models, precision)
        worker.warm_up()
        connection.send((None, None))
        while True:
            method, args, kwargs = connection.recv()
            connection.send((method(worker, *args, **kwargs), None))
    except EOFError:
        return
    except Exception as error:  # whatever it was, the caller is to raise it
        connection.send((None, repr(error)))
        raise


class Worker:
    """All engines in one process, on one thread."""

    def __init__(self, models: ModelDirectories, precision: Precision) -> None:
        from deployments.engines.paraformer_torch import ParaformerTorchEngine
        from deployments.engines.punctuation_ct import CtPunctuationEngine
        from deployments.engines.vad_fsmn import FsmnVadEngine

        self._vad = FsmnVadEngine(models.vad, threads=1)
        self._asr = ParaformerTorchEngine(models.paraformer, threads=1, precision=precision)
        self._punctuation = CtPunctuationEngine(models.punctuation, threads=1)

    def warm_up(self) -> None:
        """Run everything once, so that no measured call pays for a first time."""
        noise = np.random.default_rng(0).normal(0, 1000, 5 * SAMPLE_RATE).astype(np.int16)
        self._vad.detect([VadBlock(noise, None, final=True)])
        self._asr.transcribe([noise])
        self._punctuation.punctuate([["好"] * 20])

    def segment(self, file: Path, limits: SegmentLimits) -> list[SpeechSpan]:
        """The stretches of a file to recognize, as the server's pipeline would cut it."""
        samples = read_wav(file)
        loudness = Loudness()
        loudness.append(samples)
        planner = SegmentPlanner(limits, loudness)
        segments: list[SpeechSpan] = []
        for span in self._vad.detect([VadBlock(samples, None, final=True)])[0].spans:
            segments += planner.add(span)
        return [*segments, *planner.finish()]

    def recognize(self, file: Path, segments: Sequence[SpeechSpan]) -> list[Recognition]:
        """The words of some stretches of a file."""
        samples = read_wav(file)
        per_ms = SAMPLE_RATE // 1000
        return self._asr.transcribe(
            [samples[segment.begin_ms * per_ms : segment.end_ms * per_ms] for segment in segments]
        )

    def punctuate(self, words: Sequence[str]) -> list[str]:
        """The mark after each word."""
        return self._punctuation.punctuate([words])[0]


def read_wav(file: Path) -> Pcm:
    """The samples of a mono 16-bit WAV file at 16 kHz.

    Raises:
        ValueError: it is in another format.
    """
    with wave.open(str(file)) as audio:
        if (audio.getframerate(), audio.getnchannels(), audio.getsampwidth()) != (SAMPLE_RATE, 1, 2):
            raise ValueError(f"{file} is not mono 16-bit WAV at {SAMPLE_RATE} Hz")
        return np.frombuffer(audio.readframes(audio.getnframes()), dtype=np.int16)


def duration(file: Path) -> float:
    """Seconds of audio in a WAV file."""
    with wave.open(str(file)) as audio:
        return float(audio.getnframes() / audio.getframerate())
