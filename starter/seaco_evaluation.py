"""How well hotwords bite: names written right with and without them, and text that they spoil."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from deployments.engines.base import AsrEngine, Hints, Hotword, Pcm
from deployments.engines.paraformer_torch import ParaformerTorchEngine
from starter.alignment import align
from starter.augment import Kind, degrade
from starter.registry import Row
from starter.seaco_data import speak
from starter.seaco_names import NameGenerator, Spoken
from starter.synth import Synthesizer
from starter.voices import SEEN_VOICES, UNSEEN_VOICES, Voice

_SEED = 4321
_CLIPS = 200
_MANY, _FEW = 100, 20
_BATCH = 16
_SOUND: Kind = "light"


@dataclass(frozen=True, slots=True)
class Clip:
    """samples: 16 kHz. text: its characters. names: those spoken in it, in their spelling."""

    samples: Pcm
    text: str
    spans: tuple[tuple[int, int], ...]

    @property
    def names(self) -> list[str]:
        return [self.text[begin:end] for begin, end in self.spans]


@dataclass(frozen=True, slots=True)
class Score:
    """names: how many were spoken. written: how many of them were written as they are spelled, in their
    places. errors, characters: edit distance outside of the names, and what it is a share of.
    """

    names: int
    written: int
    errors: int
    characters: int

    @property
    def recall(self) -> float:
        """Percent."""
        return 100 * self.written / self.names

    @property
    def error_rate(self) -> float:
        """Percent."""
        return 100 * self.errors / self.characters


class TestNames:
    """Clips of names and sentences of the test part; the same seed gives the same ones."""

    __test__ = False

    def __init__(self, seed: int = _SEED) -> None:
        self._rng = np.random.default_rng(seed)
        self._generator = NameGenerator(seed, "test")
        self._synthesizer = Synthesizer()

    def with_names(self, count: int, voices: Sequence[Voice], kind: Kind = _SOUND) -> list[Clip]:
        """Sentences with a name or more."""
        return [self._clip(self._generator.with_names(), voices, kind) for _ in range(count)]

    def plain(self, count: int, voices: Sequence[Voice], kind: Kind = _SOUND) -> list[Clip]:
        """Sentences of the recognizer's usual words, of three characters or more."""
        clips: list[Clip] = []
        while len(clips) < count:
            sentence = self._generator.plain()
            if len(sentence.text) >= 3:
                clips.append(self._clip(sentence, voices, kind))
        return clips

    def others(self, clip: Clip, count: int) -> list[str]:
        """Names, none of which is spoken in the clip."""
        names: dict[str, None] = {}
        while len(names) < count:
            name = self._generator.name()
            if name not in clip.text:
                names[name] = None
        return list(names)

    def _clip(self, sentence: Spoken, voices: Sequence[Voice], kind: Kind) -> Clip:
        voice = voices[int(self._rng.integers(len(voices)))]
        samples = speak([(sentence, voice)], self._rng, self._synthesizer)
        return Clip(to_pcm(degrade(samples, kind, self._rng)), sentence.text, sentence.names)


def to_pcm(samples: NDArray[np.float32]) -> Pcm:
    return np.clip(samples * 32768, -32768, 32767).astype(np.int16)


def transcribe(engine: AsrEngine, clips: Sequence[Clip], lists: Sequence[Sequence[str]]) -> list[str]:
    """The text of each clip, given its list of hotwords."""
    texts: list[str] = []
    for begin in range(0, len(clips), _BATCH):
        batch = slice(begin, begin + _BATCH)
        hints = [Hints(tuple(map(Hotword, names))) for names in lists[batch]]
        results = engine.transcribe([clip.samples for clip in clips[batch]], hints)
        texts += ["".join(word.text for word in result.words) for result in results]
    return texts


def score(clips: Sequence[Clip], texts: Sequence[str]) -> Score:
    """Compare what was written with what was said."""
    names = written = errors = characters = 0
    for clip, text in zip(clips, texts, strict=True):
        distance, kept = align(clip.text, text)
        places = dict(kept)
        in_names = {place for begin, end in clip.spans for place in range(begin, end)}
        missed_in_names = sum(place not in places for place in in_names)
        names += len(clip.spans)
        written += sum(_is_whole(places, begin, end) for begin, end in clip.spans)
        errors += max(0, distance - missed_in_names)
        characters += len(clip.text) - len(in_names)
    return Score(names, written, errors, characters)


def inserted(texts: Sequence[str], plain: Sequence[str], lists: Sequence[Sequence[str]]) -> tuple[int, int]:
    """Of texts written with hotwords that were not spoken: how many hold one, and how many differ from those
    written without hotwords.
    """
    hold = sum(
        any(name in text and name not in before for name in names)
        for text, before, names in zip(texts, plain, lists, strict=True)
    )
    return hold, sum(text != before for text, before in zip(texts, plain, strict=True))


def measure(model_dir: Path) -> list[Row]:
    """The figures of the model card; the engine is this project's, in fp32."""
    engine = ParaformerTorchEngine(model_dir, threads=2, precision="fp32")
    return list(track(_rows(engine, TestNames()), "hotwords", total=15))


def _rows(engine: AsrEngine, tests: TestNames) -> Iterator[Row]:
    for label, voices in (("seen voices", SEEN_VOICES), ("unseen voices", UNSEEN_VOICES)):
        clips = tests.with_names(_CLIPS, voices)
        without = score(clips, transcribe(engine, clips, [[]] * len(clips)))
        yield Row(f"{label}, rare names", "recall without hotwords", without.recall, "%", "<= 40")
        yield Row(f"{label}, rare names", "CER of the rest without hotwords", without.error_rate, "%")
        for count in (0, _FEW, _MANY - 1):
            lists = [clip.names + tests.others(clip, count) for clip in clips]
            found = score(clips, transcribe(engine, clips, lists))
            target = f">= {2 * max(without.recall, 25):.0f}"
            what = f"{label}, rare names, {count} other hotwords"
            yield Row(what, "recall", found.recall, "%", target)
            yield Row(what, "CER of the rest", found.error_rate, "%")
    clips = tests.plain(_CLIPS, UNSEEN_VOICES)
    lists = [tests.others(clip, _MANY) for clip in clips]
    before = transcribe(engine, clips, [[]] * len(clips))
    hold, differ = inserted(transcribe(engine, clips, lists), before, lists)
    what = f"unseen voices, no names, {_MANY} hotwords"
    yield Row(what, "sentences with a false insertion", 100 * hold / len(clips), "%", "<= 1")
    yield Row(what, "sentences written otherwise", 100 * differ / len(clips), "%", "<= 1")


def _is_whole(places: dict[int, int], begin: int, end: int) -> bool:
    """Whether all characters of a span were written, one after the other."""
    if any(place not in places for place in range(begin, end)):
        return False
    return all(places[place + 1] == places[place] + 1 for place in range(begin, end - 1))
