"""Turns of speech by voices that the starter models never heard."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.conversations.recording import Span
from starter.augment import SAMPLE_RATE, Samples
from starter.campplus_speakers import DRAWN_VARIANT, Speaker
from starter.espeak_variants import VariantDirectory
from starter.synth import Synthesizer
from starter.text import Split, TextGenerator, split_of, to_pinyin_input
from starter.text_words import SHORT_COMMANDS
from starter.vad_data import speech_spans
from starter.voices import Voice

_LEAD, _TAIL = 0.02, 0.06
_PAUSES = (0.1, 0.7)


@dataclass(frozen=True, slots=True)
class SpokenTurn:
    """``samples``: dry, of peak 0.7. ``spans``: where it sounds, in seconds of them."""

    samples: Samples
    text: str
    spans: tuple[Span, ...]

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Person:
    """A speaker on the occasion of one recording."""

    speaker: Speaker
    voice: Voice

    @property
    def name(self) -> str:
        return self.speaker.voice.name


def people(speakers: Sequence[Speaker], count: int, rng: np.random.Generator) -> list[Person]:
    """People whose voices are clearly different: no two of one variant, no two at one pitch if that goes."""
    chosen: list[Speaker] = []
    shuffled = [speakers[index] for index in rng.permutation(len(speakers))]
    for strict in (True, False):
        for speaker in shuffled:
            if len(chosen) < count and all(_apart(speaker, other, strict) for other in chosen):
                chosen.append(speaker)
    return [Person(speaker, speaker.utterance_voice(rng)) for speaker in chosen]


def _apart(one: Speaker, other: Speaker, strict: bool) -> bool:
    if (one.voice.variant, one.variant_file) == (other.voice.variant, other.variant_file):
        return False
    settings = [(speaker.voice.pitch, speaker.voice.formant_shift) for speaker in (one, other)]
    return not strict or bool(one.variant_file) or settings[0] != settings[1]


class Mouth:
    """Says sentences of a split for any person. Use one per process; ``root``: an empty directory."""

    def __init__(self, seed: int, split: Split, root: Path) -> None:
        self._variants = VariantDirectory(root, DRAWN_VARIANT)
        self._synthesizer = Synthesizer(self._variants.path)
        self._texts = TextGenerator(seed)
        self._split = split

    def turn(self, person: Person, sentences: int, rng: np.random.Generator) -> SpokenTurn:
        """Sentences with pauses of 0.1 to 0.7 s between; rate and pitch are a little different each time."""
        return self._say([self._sentence() for _ in range(sentences)], person, rng)

    def word(self, person: Person, rng: np.random.Generator) -> SpokenTurn:
        """A word or two."""
        return self._say([str(rng.choice(SHORT_COMMANDS)) + "。"], person, rng)

    def _sentence(self) -> str:
        while split_of(sentence := self._texts.sentence()) != self._split:
            pass
        return sentence

    def _say(self, sentences: Sequence[str], person: Person, rng: np.random.Generator) -> SpokenTurn:
        if person.speaker.variant_file:
            self._variants.rewrite(person.speaker.variant_file)
        voice = _of_the_moment(person.voice, rng)
        parts: list[Samples] = []
        spans: list[Span] = []
        for sentence in sentences:
            utterance = self._synthesizer.speak(to_pinyin_input(sentence), voice)
            sounding = speech_spans(utterance)
            if parts:
                parts.append(np.zeros(round(rng.uniform(*_PAUSES) * SAMPLE_RATE), np.float32))
            first = max(0, round((sounding[0][0] - _LEAD) * SAMPLE_RATE))
            offset = (sum(map(len, parts)) - first) / SAMPLE_RATE
            parts.append(utterance.samples[first : round((sounding[-1][1] + _TAIL) * SAMPLE_RATE)])
            spans += [(begin + offset, end + offset) for begin, end in sounding]
        return SpokenTurn(np.concatenate(parts), "".join(sentences), tuple(spans))


def _of_the_moment(voice: Voice, rng: np.random.Generator) -> Voice:
    return replace(
        voice,
        rate_wpm=round(voice.rate_wpm * rng.uniform(0.88, 1.12)),
        pitch=int(np.clip(voice.pitch + rng.integers(-3, 4), 0, 99)),
        pitch_range=int(np.clip(voice.pitch_range + rng.integers(-10, 11), 10, 99)),
    )
