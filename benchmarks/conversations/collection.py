"""The collection of recordings that speakers are measured on.

Forty conversations of two to five people, one to three minutes each, and recordings of other kinds: one
speaker only, one word only, nobody, a telephone call with a channel for each side, two hours of five people.
Turns of one to four sentences, pauses, quick replies, interruptions, words of agreement while another one
speaks. Every speaker has a level, half of the rooms have echoes, and every recording has its noise.

espeak-ng speaks, in voices that no starter model was trained on (``starter.campplus_speakers``). With
``--voices development`` they are other voices, which the speaker model was not trained on either: those are
for choosing thresholds, so that the first stay for measuring. A seed gives the same recordings again.

For each there is ``NAME.wav``, ``NAME.rttm`` (who speaks when, by the synthesizer's own character times) and
``NAME.json`` (the turns with their text).
"""

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.conversations.course import Host, apart, mixed
from benchmarks.conversations.recording import SAMPLE_RATE, Truth, Turn, write_wav
from benchmarks.conversations.speech import Mouth, Person, people
from starter.augment import Samples, add_noise
from starter.campplus_speakers import Speaker, development_speakers, unseen_speakers
from starter.text import Split

OUTPUT = Path(__file__).parents[2] / "build" / "conversations"

CONVERSATIONS = 40
_SECONDS = (60, 180)
_SECONDS_FOR_ONE = 16
"""No conversation has less for each of its speakers."""

_LONG_PART = 300
_SNR = (18, 40)


class Voices(StrEnum):
    """Who speaks."""

    TEST = "test"
    DEVELOPMENT = "development"


class Kind(StrEnum):
    """What a recording holds; the values begin its name."""

    CONVERSATION = "conversation"
    ALONE = "alone"
    WORD = "word"
    SILENCE = "silence"
    CALL = "call"
    LONG = "long"


@dataclass(frozen=True, slots=True)
class Recording:
    """One to make. ``hours``: of the long one."""

    kind: Kind
    index: int
    voices: Voices
    seed: int
    hours: float = 2.0

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.index:02d}"

    @property
    def speakers(self) -> int:
        match self.kind:
            case Kind.CONVERSATION:
                return 2 + self.index % 4
            case Kind.CALL:
                return 2
            case Kind.LONG:
                return 5
        return 1


def collection(
    voices: Voices = Voices.TEST, *, conversations: int = CONVERSATIONS, hours: float = 2.0, seed: int = 0
) -> list[Recording]:
    """All recordings, longest first; without ``hours`` none that is long."""
    others = (Kind.ALONE, Kind.WORD, Kind.SILENCE, Kind.CALL)
    found = [Recording(Kind.LONG, 0, voices, seed, hours)] if hours else []
    found += [Recording(Kind.CONVERSATION, index, voices, seed) for index in range(conversations)]
    return found + [Recording(kind, 0, voices, seed) for kind in others]


def make(recordings: list[Recording], directory: Path = OUTPUT, processes: int = 0) -> list[Truth]:
    """Write what is not there yet, and return what is true of each, in the order of ``recordings``.

    Raises:
        SynthesisError: espeak-ng is not installed.
        BrokenProcessPool: a worker died.
    """
    directory.mkdir(parents=True, exist_ok=True)
    missing = [recording for recording in recordings if not (directory / f"{recording.name}.json").exists()]
    workers = processes or len(os.sched_getaffinity(0))
    # espeak-ng carries its oscillators over from one sentence to the next: only in a process of its own does
    # a recording come out the same again.
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        for done in as_completed([pool.submit(_make, recording, directory) for recording in missing]):
            done.result()
    return [Truth.read(directory / f"{recording.name}.json") for recording in recordings]


def _make(recording: Recording, directory: Path) -> None:
    kinds = list(Kind)
    rng = np.random.default_rng((recording.seed, 11, kinds.index(recording.kind), recording.index))
    turns: list[Turn] = []
    with tempfile.TemporaryDirectory() as root:
        parts = _parts(recording, rng, Path(root), turns)
        seconds = write_wav(directory / f"{recording.name}.wav", parts)
    Truth(recording.name, seconds, tuple(turns)).write(directory)


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


def main(
    output: Annotated[
        Path, typer.Argument(help="Directory; what is there already is not made again.")
    ] = OUTPUT,
    voices: Annotated[Voices, typer.Option(help="Who speaks.")] = Voices.TEST,
    conversations: Annotated[int, typer.Option(help="How many.", min=0)] = CONVERSATIONS,
    hours: Annotated[float, typer.Option(help="Length of the long recording; 0 for none.", min=0)] = 2.0,
    seed: Annotated[int, typer.Option(help="Another seed gives other recordings.")] = 0,
    processes: Annotated[int, typer.Option(help="Processes; 0: one for each core.", min=0)] = 0,
) -> None:
    """Write recordings with several speakers, and who speaks when in each."""
    recordings = collection(voices, conversations=conversations, hours=hours, seed=seed)
    for truth in make(recordings, output, processes):
        share = 100 * truth.overlap / max(truth.speech, 1e-9)
        typer.echo(
            f"{output / truth.name}.wav: {truth.seconds:.0f} s, {len(truth.speakers)} speakers, "
            f"{len(truth.turns)} turns, {share:.1f} % of the speech overlaps"
        )


if __name__ == "__main__":
    typer.run(main)
