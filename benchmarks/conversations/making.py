"""Makes one recording of the collection."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.conversations.collection import Kind, Recording, Voices
from benchmarks.conversations.course import Host, apart, mixed
from benchmarks.conversations.recording import SAMPLE_RATE, Truth, Turn, write_wav
from benchmarks.conversations.speech import Mouth, Person, people
from starter.augment import Samples, add_noise
from starter.campplus_speakers import Speaker, development_speakers, unseen_speakers
from starter.text import Split

_SECONDS = (60, 180)
_SECONDS_FOR_ONE = 16
"""No conversation has less for each of its speakers."""

_LONG_PART = 300
_SNR = (18, 40)


def write(recording: Recording, directory: Path, made_by: str) -> None:
    """The recording and what is true of it. Use one process for each; see `Truth.write` for ``made_by``."""
    kinds = list(Kind)
    rng = np.random.default_rng((recording.seed, 11, kinds.index(recording.kind), recording.index))
    turns: list[Turn] = []
    with tempfile.TemporaryDirectory() as root:
        parts = _parts(recording, rng, Path(root), turns)
        seconds = write_wav(directory / f"{recording.name}.wav", parts)
    Truth(recording.name, seconds, tuple(turns)).write(directory, made_by)


def _parts(
    recording: Recording, rng: np.random.Generator, root: Path, turns: list[Turn]
) -> Iterator[Samples]:
    """The recording part by part, each of shape ``(samples, channels)``; its turns are added to ``turns``."""
    if recording.kind is Kind.SILENCE:
        yield _quiet_room(rng, 20.0)[:, None]
        return
    split: Split = "test" if recording.voices is Voices.TEST else "dev"
    mouth = Mouth(int(rng.integers(1 << 31)), split, root)
    persons = people(_speakers(recording), recording.speakers, rng)
    if recording.kind is Kind.WORD:
        yield _one_word(mouth, persons[0], rng, turns)[:, None]
        return
    host = Host(mouth, persons, rng, reverberant=recording.kind is not Kind.CALL and rng.random() < 0.5)
    snr, offset = rng.uniform(*_SNR), 0.0
    for seconds in _lengths(recording, rng):
        course = host.conversation(seconds)
        turns.extend(turn.later(offset) for turn in course.turns)
        part = apart(course, rng, snr) if recording.kind is Kind.CALL else mixed(course, rng, snr)[:, None]
        offset += len(part) / SAMPLE_RATE
        yield part


def _speakers(recording: Recording) -> list[Speaker]:
    return unseen_speakers() if recording.voices is Voices.TEST else development_speakers(recording.seed)


def _lengths(recording: Recording, rng: np.random.Generator) -> list[float]:
    if recording.kind is Kind.LONG:
        parts = max(1, round(recording.hours * 3600 / _LONG_PART))
        return [recording.hours * 3600 / parts] * parts
    shortest, longest = _SECONDS
    return [float(rng.uniform(max(shortest, _SECONDS_FOR_ONE * recording.speakers), longest))]


def _one_word(mouth: Mouth, person: Person, rng: np.random.Generator, turns: list[Turn]) -> Samples:
    spoken = mouth.word(person, rng)
    turns.append(Turn(person.name, spoken.text, spoken.spans).later(1.0))
    around = np.zeros(SAMPLE_RATE, np.float32)
    return add_noise(np.concatenate((around, spoken.samples * np.float32(0.4), around)), 30, rng)


def _quiet_room(rng: np.random.Generator, seconds: float) -> Samples:
    """A quiet room."""
    return rng.normal(0, 1e-3, round(seconds * SAMPLE_RATE)).astype(np.float32)
