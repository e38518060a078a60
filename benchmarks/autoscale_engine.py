"""A recognizer whose work takes a known time: what replicas do is measured, not what models can.

It sleeps where a model would compute, so that a machine with few cores can hold many replicas. It is loaded
as every engine of one's own is (docs/add-a-model.md), by ``engine: benchmarks.autoscale_engine``.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from deployments.engines.base import EngineOptions, Hints, Pcm, Recognition, Word

SPEED = 15.0
"""Seconds of audio that it works off in a second."""

OVERHEAD_SECONDS = 0.02
"""What each batch takes besides."""

_RATE = 16_000


class TimedEngine:
    """Writes one character for each second of audio that has begun."""

    def transcribe(self, segments: Sequence[Pcm], hints: Sequence[Hints] | None = None) -> list[Recognition]:
        seconds = [len(segment) / _RATE for segment in segments]
        time.sleep(OVERHEAD_SECONDS + sum(seconds) / SPEED)
        return [Recognition(tuple(_words(each))) for each in seconds]


def _words(seconds: float) -> list[Word]:
    begins = range(0, max(1, int(seconds * 1000)), 1000)
    return [Word("好", begin, min(begin + 1000, round(seconds * 1000))) for begin in begins]


def load(directory: Path, options: EngineOptions) -> TimedEngine:
    """``directory`` may be that of any model; nothing of it is read."""
    return TimedEngine()
