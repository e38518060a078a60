"""A recording of which it is known who speaks when, and its files."""

import json
import wave
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000

Span = tuple[float, float]
"""Begin and end in seconds."""

_BRIDGED = 0.3
"""Seconds of silence that a stretch of speech may hold; NIST's evaluations of diarization bridge as much."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker says at a stretch. ``spans``: where it sounds, in seconds of the recording."""

    speaker: str
    text: str
    spans: tuple[Span, ...]

    @property
    def begin(self) -> float:
        return self.spans[0][0]

    @property
    def end(self) -> float:
        return self.spans[-1][1]

    def later(self, seconds: float) -> "Turn":
        """The same turn, so much later."""
        return Turn(
            self.speaker, self.text, tuple((begin + seconds, end + seconds) for begin, end in self.spans)
        )


def bridged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """In order of time, with pauses of up to 0.3 s filled."""
    joined: list[Span] = []
    for begin, end in sorted(spans):
        if joined and begin - joined[-1][1] <= _BRIDGED:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return tuple(joined)


@dataclass(frozen=True, slots=True)
class Truth:
    """Who speaks when in a recording of ``seconds``."""

    name: str
    seconds: float
    turns: tuple[Turn, ...]

    @property
    def speakers(self) -> tuple[str, ...]:
        """In the order in which they begin to speak."""
        return tuple(dict.fromkeys(turn.speaker for turn in sorted(self.turns, key=lambda turn: turn.begin)))

    def spans(self, speaker: str) -> tuple[Span, ...]:
        """Where one of them speaks."""
        return bridged(span for turn in self.turns if turn.speaker == speaker for span in turn.spans)

    @property
    def speech(self) -> float:
        """Seconds of speech; what two say at a time counts twice."""
        return sum(end - begin for speaker in self.speakers for begin, end in self.spans(speaker))

    @property
    def overlap(self) -> float:
        """Seconds in which two or more speak."""
        edges = [
            edge
            for speaker in self.speakers
            for begin, end in self.spans(speaker)
            for edge in ((begin, 1), (end, -1))
        ]
        total, speaking = 0.0, 0
        for (at, step), (following, _) in pairwise(sorted(edges)):
            speaking += step
            total += following - at if speaking > 1 else 0.0
        return total

    def rttm(self) -> str:
        """NIST's rich transcription time marks, a line for each stretch of speech."""
        lines = sorted(
            (begin, end - begin, speaker) for speaker in self.speakers for begin, end in self.spans(speaker)
        )
        return "".join(
            f"SPEAKER {self.name} 1 {begin:.3f} {length:.3f} <NA> <NA> {speaker} <NA> <NA>\n"
            for begin, length, speaker in lines
        )

    def write(self, directory: Path, made_by: str) -> None:
        """``NAME.rttm`` and ``NAME.json``; ``made_by``: what changes when the recording would."""
        (directory / f"{self.name}.rttm").write_text(self.rttm(), "utf-8")
        turns = [{"begin": turn.begin, "end": turn.end, **asdict(turn)} for turn in self.turns]
        body = {
            "name": self.name,
            "made_by": made_by,
            "seconds": self.seconds,
            "speakers": self.speakers,
            "turns": turns,
        }
        (directory / f"{self.name}.json").write_text(json.dumps(body, ensure_ascii=False, indent=1), "utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """From ``NAME.json``."""
        body = json.loads(path.read_text("utf-8"))
        turns = tuple(
            Turn(turn["speaker"], turn["text"], tuple((begin, end) for begin, end in turn["spans"]))
            for turn in body["turns"]
        )
        return cls(body["name"], body["seconds"], turns)


def write_wav(path: Path, parts: Iterator[npt.NDArray[np.float32]]) -> float:
    """Write parts of shape ``(samples, channels)``, one after the other; return the length in seconds."""
    first = next(parts)
    samples = 0
    with wave.open(str(path), "wb") as file:
        file.setnchannels(first.shape[1])
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        part: npt.NDArray[np.float32] | None = first
        while part is not None:
            file.writeframes((np.clip(part, -1, 1) * 32767).astype("<i2").tobytes())
            samples += len(part)
            part = next(parts, None)
    return samples / SAMPLE_RATE
