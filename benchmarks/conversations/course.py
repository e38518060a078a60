"""How a conversation goes: who speaks next, after what pause, and who interrupts whom."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.conversations.recording import SAMPLE_RATE, Turn
from benchmarks.conversations.room import Place
from benchmarks.conversations.speech import Mouth, Person, SpokenTurn
from starter.augment import Samples, add_noise

_SENTENCES = (0.34, 0.32, 0.2, 0.14)
"""Shares of turns of one to four sentences."""

# Seconds between the end of a turn and the next, and how often: quick replies, usual ones, silences, and
# interruptions, which begin before the end.
_GAPS = ((0.05, 0.3, 0.32), (0.3, 1.2, 0.36), (1.2, 3.0, 0.10), (-1.5, -0.3, 0.22))
_AGREEMENT = 0.12
"""Share of the longer turns during which somebody else says a word."""

_ANSWERED = 0.55
"""How often the one who spoke before the last speaks again, where there are more than two."""


@dataclass
class Course:
    """A conversation under way, in seconds from its begin. ``heard``: what is said, as the room has it."""

    turns: list[Turn] = field(default_factory=list)
    heard: list[tuple[float, Samples]] = field(default_factory=list)
    end: float = 0.0

    def add(self, begin: float, person: Person, place: Place, spoken: SpokenTurn) -> None:
        """Somebody says something."""
        self.turns.append(Turn(person.name, spoken.text, spoken.spans).later(begin))
        self.heard.append((begin, place.heard(spoken.samples)))
        self.end = max(self.end, begin + spoken.seconds)


class Host:
    """Leads conversations of some people in one room."""

    def __init__(
        self, mouth: Mouth, persons: Sequence[Person], rng: np.random.Generator, reverberant: bool
    ) -> None:
        self._mouth, self._rng, self._persons = mouth, rng, list(persons)
        self._places = [Place.drawn(rng, reverberant) for _ in persons]
        self._talkative = rng.uniform(0.5, 1.5, len(persons))

    def conversation(self, seconds: float) -> Course:
        """About ``seconds`` in which everybody speaks at least twice."""
        course, order = Course(), [int(self._rng.integers(len(self._persons)))]
        course.add(self._rng.uniform(0.2, 1.5), *self._who(order[-1]), self._speech(order[-1]))
        while course.end < seconds or min(map(order.count, range(len(self._persons)))) < 2:
            self._next_turn(course, order, course.end / seconds)
        return course

    def _next_turn(self, course: Course, order: list[int], progress: float) -> None:
        last = course.turns[-1]
        speaker = self._next_speaker(order, progress)
        order.append(speaker)
        spoken = self._speech(speaker)
        gap = self._gap(spoken, last.end - last.begin)
        begin = course.end + gap
        if len(self._persons) > 1 and spoken.seconds > 3 and self._rng.random() < _AGREEMENT:
            other = self._other_than(speaker)
            at = begin + self._rng.uniform(0.8, spoken.seconds - 1.0)
            course.add(at, *self._who(other), self._mouth.word(self._persons[other], self._rng))
        course.add(begin, *self._who(speaker), spoken)

    def _gap(self, spoken: SpokenTurn, last_seconds: float) -> float:
        shortest, longest, share = zip(*_GAPS, strict=True)
        kind = int(self._rng.choice(len(_GAPS), p=share))
        gap = float(self._rng.uniform(shortest[kind], longest[kind]))
        if gap < 0:
            # Nobody is overrun from the first word on, and one alone does not interrupt.
            gap = max(gap, -0.4 * last_seconds, -0.4 * spoken.seconds) if len(self._persons) > 1 else 0.3
        return gap

    def _next_speaker(self, order: Sequence[int], progress: float) -> int:
        if len(self._persons) == 1:
            return 0
        silent = [one for one in range(len(self._persons)) if one not in order]
        if silent and (progress > 0.35 or self._rng.random() < 0.5):
            return int(self._rng.choice(silent))
        if progress >= 1:
            return min(range(len(self._persons)), key=order.count)
        if len(order) > 1 and self._rng.random() < _ANSWERED:
            return order[-2]
        return self._other_than(order[-1])

    def _other_than(self, speaker: int) -> int:
        weights = self._talkative.copy()
        weights[speaker] = 0
        return int(self._rng.choice(len(weights), p=weights / weights.sum()))

    def _speech(self, speaker: int) -> SpokenTurn:
        sentences = 1 + int(self._rng.choice(len(_SENTENCES), p=_SENTENCES))
        return self._mouth.turn(self._persons[speaker], sentences, self._rng)

    def _who(self, speaker: int) -> tuple[Person, Place]:
        return self._persons[speaker], self._places[speaker]


def mixed(course: Course, rng: np.random.Generator, snr: float) -> Samples:
    """One microphone's recording, with noise so many dB below the speech."""
    samples = np.zeros(round((course.end + 0.5) * SAMPLE_RATE), np.float32)
    for begin, part in course.heard:
        first = round(begin * SAMPLE_RATE)
        samples[first : first + len(part)] += part
    return add_noise(samples, snr, rng)


def apart(course: Course, rng: np.random.Generator, snr: float) -> Samples:
    """A call: a channel for each speaker, shape ``(samples, speakers)``."""
    names = list(dict.fromkeys(turn.speaker for turn in course.turns))
    channels = []
    for name in names:
        mine = [heard for heard, turn in zip(course.heard, course.turns, strict=True) if turn.speaker == name]
        channels.append(mixed(Course(heard=mine, end=course.end), rng, snr))
    return np.stack(channels, axis=1)
