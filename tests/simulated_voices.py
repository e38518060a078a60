"""Conversations with voices drawn at random: words, windows and embeddings, and who really spoke."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from deployments.messages import Embeddings, SpeechSpan
from serve_app.pipeline.speakers.diarizer import Diarizer
from serve_app.pipeline.speakers.types import SpeakerOptions, SpeakerTuning
from serve_app.pipeline.speakers.windows import windows_of
from serve_app.pipeline.types import Sentence, TimedWord

DIMENSIONS = 192
WORD = 0.25
_OWN_LIKENESS = 0.65
_ALL_LIKENESS = 0.15


@dataclass(frozen=True)
class Turn:
    """Words of one voice, from ``begin`` (seconds) on, one each :data:`WORD`; a mark after each ten."""

    voice: int
    begin: float
    words: int
    closed: bool = True

    @property
    def end(self) -> float:
        return self.begin + self.words * WORD


@dataclass(frozen=True)
class Conversation:
    """What the pipeline knows of a recording; ``truth`` is the voice of each word."""

    sentences: tuple[Sentence, ...]
    truth: tuple[int, ...]
    windows: tuple[SpeechSpan, ...]
    embeddings: Embeddings

    @cached_property
    def words(self) -> tuple[TimedWord, ...]:
        return tuple(word for sentence in self.sentences for word in sentence.words)

    def later(self, seconds: float) -> "Conversation":
        """The same after some silence."""
        ms = round(seconds * 1000)
        windows = tuple(SpeechSpan(span.begin_ms + ms, span.end_ms + ms) for span in self.windows)
        sentences = tuple(
            Sentence(
                tuple(
                    replace(word, begin=word.begin + ms / 1000, end=word.end + ms / 1000)
                    for word in sentence.words
                )
            )
            for sentence in self.sentences
        )
        return Conversation(sentences, self.truth, windows, self.embeddings)

    def then(self, other: "Conversation") -> "Conversation":
        return Conversation(
            self.sentences + other.sentences,
            self.truth + other.truth,
            self.windows + other.windows,
            np.concatenate([self.embeddings, other.embeddings]),
        )

    def labeled(
        self, options: SpeakerOptions | None = None, tuning: SpeakerTuning | None = None, language: str = "zh"
    ) -> tuple[Sentence, ...]:
        diarizer = Diarizer(options or SpeakerOptions(), tuning or SpeakerTuning())
        diarizer.add(self.windows, self.embeddings)
        return diarizer.label(self.sentences, language)


def voices(count: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Voices of people, shape ``(count, DIMENSIONS)``: a little alike, as for real models."""
    drawn = np.random.default_rng((seed, 1)).normal(size=(count, DIMENSIONS))
    drawn[:, 0] = 0
    drawn *= np.sqrt(1 - _ALL_LIKENESS) / np.linalg.norm(drawn, axis=1, keepdims=True)
    drawn[:, 0] = np.sqrt(_ALL_LIKENESS)
    return drawn


def converse(turns: Sequence[Turn], people: npt.NDArray[np.float64], seed: int = 0) -> Conversation:
    """Speech of ``turns``, which are in order of time and may overlap, in the voices ``people``.

    A window with several voices sounds like their mixture, by how long each is heard in it.
    """
    spans: list[SpeechSpan] = []
    for turn in turns:
        begin, end = round(turn.begin * 1000), round(turn.end * 1000)
        if spans and begin - spans[-1].end_ms < 600:
            begin, end = spans[-1].begin_ms, max(spans.pop().end_ms, end)
        spans.append(SpeechSpan(begin, end))
    windows = tuple(window for span in spans for window in windows_of(span))
    begins = np.array([window.begin_ms for window in windows])[:, None] / 1000
    ends = np.array([window.end_ms for window in windows])[:, None] / 1000
    heard = np.minimum(ends, [turn.end for turn in turns]) - np.maximum(begins, [t.begin for t in turns])
    by_voice = np.zeros((len(turns), len(people)))
    by_voice[np.arange(len(turns)), [turn.voice for turn in turns]] = 1
    mixed = _unit(np.maximum(heard, 0) @ by_voice @ people)
    noise = _unit(np.random.default_rng((seed, 2)).normal(size=mixed.shape))
    embeddings = _unit(np.sqrt(_OWN_LIKENESS) * mixed + np.sqrt(1 - _OWN_LIKENESS) * noise)
    said = sorted((word.begin, turn.voice, word) for turn in turns for word in _words(turn))
    sentences: list[Sentence] = []
    waiting: list[TimedWord] = []
    for _, _, word in said:
        waiting.append(word)
        if word.mark:
            sentences.append(Sentence(tuple(waiting)))
            waiting = []
    if waiting:
        sentences.append(Sentence(tuple(waiting)))
    truth = tuple(voice for _, voice, _ in said)
    return Conversation(tuple(sentences), truth, windows, embeddings.astype(np.float32))


def talk(people: int, seconds: float, seed: int = 0, shares: Sequence[float] | None = None) -> Conversation:
    """Turns of 2 to 8 s with pauses of up to 1.2 s, all voices heard at least once."""
    rng = np.random.default_rng((seed, 3))
    chances = np.full(people, 1 / people) if shares is None else np.array(shares) / sum(shares)
    turns: list[Turn] = []
    first = list(range(people))
    begin = 0.5
    while begin < seconds or first:
        voice = first.pop(0) if first else int(rng.choice(people, p=chances))
        turns.append(Turn(voice, round(begin, 3), int(rng.integers(8, 33))))
        begin = turns[-1].end + rng.uniform(0.05, 1.2)
    return converse(turns, voices(people, seed), seed)


def numbers(labeled: Sequence[Sentence]) -> list[int]:
    """The speaker of each word."""
    return [sentence.speaker.number for sentence in labeled if sentence.speaker for _ in sentence.words]


def error(labeled: Sequence[Sentence], truth: Sequence[int]) -> float:
    """The share of words with the wrong speaker, when each speaker is the voice that he mostly is."""
    pairs = np.zeros((max(numbers(labeled)) + 1, max(truth) + 1))
    np.add.at(pairs, (numbers(labeled), list(truth)), 1)
    return 1 - float(pairs.max(axis=1).sum()) / len(truth)


def _words(turn: Turn) -> list[TimedWord]:
    words = []
    for index in range(turn.words):
        begin = turn.begin + index * WORD
        ends = (index + 1) % 10 == 0 or (index + 1 == turn.words and turn.closed)
        words.append(TimedWord("字", round(begin, 3), round(begin + WORD, 3), mark="。" if ends else ""))
    return words


def _unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float64)
