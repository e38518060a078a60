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

import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.conversations.recording import Truth

OUTPUT = Path(__file__).parents[2] / "build" / "conversations"

CONVERSATIONS = 40
_VOICES_ARE_MADE_BY = ("augment", "campplus_speakers", "espeak_variants", "synth", "vad_data", "voices")


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
        return f"{self.kind}-{self.hours:g}h" if self.kind is Kind.LONG else f"{self.kind}-{self.index:02d}"

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
    """Write what is not there yet, or would come out otherwise now, and return what is true of each.

    Raises:
        SynthesisError: espeak-ng is not installed.
        BrokenProcessPool: a worker died.
    """
    directory.mkdir(parents=True, exist_ok=True)
    made_by = fingerprint()
    missing = [
        recording for recording in recordings if not _is_there(directory / f"{recording.name}.json", made_by)
    ]
    workers = processes or len(os.sched_getaffinity(0))
    # espeak-ng carries its oscillators over from one sentence to the next: only in a process of its own does
    # a recording come out the same again.
    context = get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.conversations.making"])
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        for done in as_completed(
            [pool.submit(_make, recording, directory, made_by) for recording in missing]
        ):
            done.result()
    return [Truth.read(directory / f"{recording.name}.json") for recording in recordings]


def fingerprint() -> str:
    """Another one whenever the code that makes recordings is another."""
    starter = Path(__file__).parents[2] / "starter"
    sources = [*Path(__file__).parent.glob("*.py"), *starter.glob("text*.py")]
    sources += [starter / f"{name}.py" for name in _VOICES_ARE_MADE_BY]
    return sha256(b"".join(source.read_bytes() for source in sorted(sources))).hexdigest()[:16]


def _is_there(truth: Path, made_by: str) -> bool:
    return truth.exists() and json.loads(truth.read_text("utf-8")).get("made_by") == made_by


def _make(recording: Recording, directory: Path, made_by: str) -> None:
    # Not for those who only read: it brings in what the voices are made with, and FunASR's logging.
    from benchmarks.conversations.making import write

    write(recording, directory, made_by)


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
