"""Makes the recordings that benchmarks transcribe, of any length.

``python -m benchmarks.make_speech --seconds 600 --seed 1`` writes one and prints its path. A recording is a
seeded sequence of the utterances in ``samples/``, at varying speed and level and with pauses of varying
length between them: about three quarters of it are speech. It is the same wherever ``samples/`` is the same
and needs no synthesizer; only while ``samples/`` holds no WAV, espeak-ng speaks some sentences instead.
"""

import hashlib
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import soxr
import typer

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "samples"
OUTPUT = ROOT / "build" / "speech"

_RATE = 16_000
_SYNTHESIZED_SENTENCES = 40
# Shortest and longest pause in seconds, and how often: between sentences, between thoughts, a long silence.
_PAUSES = ((0.3, 1.0, 0.75), (1.0, 2.5, 0.22), (3.5, 8.0, 0.03))

Floats = npt.NDArray[np.float32]


def make_recording(seconds: float, *, seed: int, samples: Path = SAMPLES, output: Path = OUTPUT) -> Path:
    """A mono 16-bit WAV at 16 kHz of that length, below ``output``; one that is there already is reused.

    Memory does not grow with the length.

    Raises:
        SynthesisError: there is no WAV in ``samples``, and espeak-ng is not installed either.
    """
    sources = sorted(samples.glob("*.wav"))
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for source in sources:
        digest.update(source.read_bytes())
    path = output / f"speech-{seconds:g}s-{seed}-{digest.hexdigest()[:8]}.wav"
    if path.exists():
        return path
    output.mkdir(parents=True, exist_ok=True)
    utterances = [_read(source) for source in sources] or _synthesize(seed)
    partial = path.with_suffix(".partial")
    with wave.open(str(partial), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_RATE)
        left = round(seconds * _RATE)
        for piece in _talk(utterances, np.random.default_rng(seed)):
            file.writeframes((piece[:left] * 32767).astype("<i2").tobytes())
            left -= len(piece[:left])
            if not left:
                break
    partial.replace(path)
    return path


def _talk(utterances: Sequence[Floats], rng: np.random.Generator) -> Iterator[Floats]:
    """Utterances and pauses without end; every utterance once before any comes again."""
    shortest, longest, share = zip(*_PAUSES, strict=True)
    while True:
        for index in rng.permutation(len(utterances)):
            # Played a little faster or slower, an utterance is another input to every model.
            played = soxr.resample(utterances[index], _RATE, round(_RATE * rng.uniform(0.95, 1.05)))
            yield np.clip(played * rng.uniform(0.5, 1.2), -1, 1)
            kind = rng.choice(len(_PAUSES), p=share)
            pause = rng.uniform(shortest[kind], longest[kind])
            # Not digital silence: a room is never quite still.
            yield rng.normal(0, 3e-4, round(pause * _RATE)).astype(np.float32)


def _read(path: Path) -> Floats:
    """16-bit PCM of any rate, mixed down to mono at 16 kHz."""
    with wave.open(str(path), "rb") as file:
        frames = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        mono = frames.reshape(-1, file.getnchannels()).mean(axis=1, dtype=np.float32) / 32768
        resampled: Floats = soxr.resample(mono, file.getframerate(), _RATE)
    return resampled


def _synthesize(seed: int) -> list[Floats]:
    # The synthesizer belongs to the extra `train`, which benchmarks do without where there are samples.
    from starter.synth import Synthesizer
    from starter.text import TextGenerator, to_pinyin_input
    from starter.voices import UNSEEN_VOICES

    synthesizer, text = Synthesizer(), TextGenerator(seed)
    return [
        synthesizer.speak(to_pinyin_input(text.sentence()), UNSEEN_VOICES[index % len(UNSEEN_VOICES)]).samples
        for index in range(_SYNTHESIZED_SENTENCES)
    ]


def main(
    seconds: Annotated[float, typer.Option(help="Length of the recording.", min=0.1)] = 60.0,
    seed: Annotated[int, typer.Option(help="Another seed gives another recording.")] = 0,
) -> None:
    """Write one recording and print its path."""
    typer.echo(make_recording(seconds, seed=seed))


if __name__ == "__main__":
    typer.run(main)
