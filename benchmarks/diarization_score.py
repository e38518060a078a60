"""How well speakers were told apart: error rates as pyannote.metrics defines them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate

from benchmarks.conversations.recording import Truth

COLLAR = 0.25
"""Seconds on either side of each boundary of the truth that do not count, where a collar is used."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """Somebody speaks, from ``begin`` to ``end`` in seconds."""

    begin: float
    end: float
    speaker: str


@dataclass(frozen=True, slots=True)
class Errors:
    """Seconds of speech, and of each kind of error in it."""

    total: float
    missed: float
    false_alarm: float
    confusion: float

    def __add__(self, other: "Errors") -> "Errors":
        return Errors(
            self.total + other.total,
            self.missed + other.missed,
            self.false_alarm + other.false_alarm,
            self.confusion + other.confusion,
        )

    @property
    def rate(self) -> float:
        """Diarization error rate, 1 for as many seconds of errors as of speech."""
        return (self.missed + self.false_alarm + self.confusion) / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Score:
    """One recording's. ``strict`` counts all of it; ``lenient`` leaves a collar of 0.25 s around boundaries.

    In both, speech of two at a time counts for both.
    """

    name: str
    lenient: Errors
    strict: Errors
    speakers: int
    found: int

    @property
    def right_count(self) -> bool:
        return self.speakers == self.found


def score(truth: Truth, spoken: Iterable[Spoken]) -> Score:
    """Compare what was found with what is true; speakers are matched so that the error is least."""
    reference, hypothesis = Annotation(uri=truth.name), Annotation(uri=truth.name)
    for speaker in truth.speakers:
        for track, (begin, end) in enumerate(truth.spans(speaker)):
            reference[Segment(begin, end), f"{speaker}-{track}"] = speaker
    for track, part in enumerate(spoken):
        if part.end > part.begin:
            hypothesis[Segment(part.begin, part.end), track] = part.speaker
    # A speaker who says two things at once, by times that overlap, is one speaker.
    hypothesis = hypothesis.support()
    whole = Timeline([Segment(0, truth.seconds)])
    # pyannote's collar is the length of what is left out, half of it before and half after the boundary.
    lenient, strict = (
        _errors(DiarizationErrorRate(collar=2 * collar, skip_overlap=False), reference, hypothesis, whole)
        for collar in (COLLAR, 0.0)
    )
    return Score(truth.name, lenient, strict, len(truth.speakers), len(hypothesis.labels()))


def _errors(
    metric: DiarizationErrorRate, reference: Annotation, hypothesis: Annotation, whole: Timeline
) -> Errors:
    parts = metric(reference, hypothesis, uem=whole, detailed=True)
    return Errors(parts["total"], parts["missed detection"], parts["false alarm"], parts["confusion"])


def together(errors: Iterable[Errors]) -> Errors:
    """Of several recordings, each with the weight of its speech."""
    return sum(errors, Errors(0, 0, 0, 0))


def right_counts(scores: Sequence[Score]) -> float:
    """Share of recordings with as many speakers as there are."""
    return sum(one.right_count for one in scores) / len(scores)
