"""Speakers of a live session: each sentence is given to one as it ends, and keeps its number for good."""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from deployments.messages import Embeddings
from serve_app.pipeline.live.events import SpeakersMerged
from serve_app.pipeline.speakers.types import (
    MOST_SPEAKERS,
    SpeakerOptions,
    SpeakerTuning,
    Voiceprint,
    mean_voice,
)
from serve_app.pipeline.types import Speaker

SHORT_SECONDS = 0.8
"""A sentence with less speech tells too little of a voice to be a new speaker's, or to be learned from."""

_STRAY = 0.15
"""A window may be this much below the similarity to the middle of its sentence and still belong to it."""

_ONE_VOICE = 0.6
"""Share of the windows of a sentence that have to be one voice's for it to be learned from."""

_CLEAR = 0.1
"""How much nearer than the next one the nearest speaker has to be where little was heard."""

_MERGE = 0.05
"""How much above the similarity two speakers have to be, to be one, if both were heard for a while."""

_A_WHILE_SECONDS = 6.0

_REMEMBERED_SECONDS = 180.0
"""Speech that a speaker's voice is known from; what is older fades."""

_SOFTNESS = 0.06
"""Change of cosine that takes an even chance to 73 %."""

_GUESS = 0.3
"""How certain it is, at most, who said what could be anybody's."""


@dataclass(slots=True)
class _Voice:
    """A speaker: the sum of its sentences' voices, each as heavy as it is long, and how long they are."""

    total: Embeddings
    seconds: float
    middle: Embeddings
    name: str | None = None

    def learn(self, total: Embeddings, seconds: float) -> None:
        kept = min(1.0, _REMEMBERED_SECONDS / (self.seconds + seconds))
        self.seconds = kept * (self.seconds + seconds)
        self.total = kept * (self.total + total)
        self.middle = mean_voice(self.total[None])


@dataclass(frozen=True, slots=True)
class _Heard:
    """A sentence: the voice of most of its windows, their share, and how much speech it holds."""

    voice: Embeddings
    share: float
    seconds: float

    @property
    def is_short(self) -> bool:
        return self.seconds < SHORT_SECONDS

    @property
    def weight(self) -> float:
        return self.share * max(self.seconds, SHORT_SECONDS)

    @property
    def is_one_voice(self) -> bool:
        return self.share >= _ONE_VOICE


class LiveSpeakers:
    """Tells the speakers of one session apart. What it holds does not grow with the session.

    Sentences are heard in their order. Each one is given to the speaker whose voice is the nearest, or to a
    new one. A number never changes its meaning and is not given twice; of two speakers that turn out to be
    one, the lower number stays. Labels are in the language of the first sentence.
    """

    def __init__(self, options: SpeakerOptions, tuning: SpeakerTuning) -> None:
        self._tuning = tuning
        self._similarity = tuning.similarity
        self._most = options.count or options.most or MOST_SPEAKERS
        self._least = options.count or options.least or 1
        self._known = np.array([voiceprint.embedding for voiceprint in options.known], np.float32)
        self._names = np.array(_spellings(options.known), np.str_)
        self._voices: dict[int, _Voice] = {}
        self._given = 0
        self._last: int | None = None
        self._language: str | None = None
        self._merged: list[SpeakersMerged] = []

    def hear(
        self, windows: Embeddings, seconds: float, language: str
    ) -> tuple[Speaker | None, tuple[SpeakersMerged, ...]]:
        """Who spoke a sentence, and who turned out to be one with it; ``None``: there was too little to hear.

        ``windows`` are the voices in it, one row at least, ``seconds`` is how much speech it holds and
        ``language`` (ISO 639-1) that of its text. Who spoke is told as they are after the merges.
        """
        self._language = self._language or language
        self._merged = []
        number, certainty = self._assign(self._sentence(windows, seconds))
        self._last = number
        if number is None:
            return None, ()
        self._give_names()
        while (other := self._same_as(number)) is not None:
            number = self._merge(number, other)
        return self._speaker(number, certainty), tuple(self._merged)

    def _sentence(self, windows: Embeddings, seconds: float) -> _Heard:
        """One window may have caught a noise, or somebody else's word: most of them make the voice."""
        likeness = windows @ windows.T
        middle = int(np.argmax(np.median(likeness, axis=1)))
        kept = likeness[middle] >= self._similarity - _STRAY
        kept[middle] = True
        return _Heard(mean_voice(windows[kept]), float(kept.mean()), seconds)

    def _assign(self, heard: _Heard) -> tuple[int | None, float]:
        """The number of who spoke, and how certain that is."""
        if self._most == 1:
            return self._only(heard), 1.0
        likeness = {number: self._likeness(voice, heard.voice) for number, voice in self._voices.items()}
        nearest = max(likeness, key=likeness.__getitem__, default=None)
        near = -1.0 if nearest is None else likeness[nearest]
        next_near = max((value for number, value in likeness.items() if number != nearest), default=-1.0)
        certainty = heard.share * _chance(min(near - self._similarity, near - next_near))
        if heard.is_short:
            if near >= self._similarity and near - next_near >= _CLEAR:
                return nearest, certainty
            return self._last, min(_GUESS, certainty)
        if nearest is None or (self._is_new(heard, near) and self._has_room(near)):
            return self._open(heard), heard.share * _chance(self._similarity - near)
        if heard.is_one_voice and near >= self._similarity and near - next_near >= _CLEAR / 2:
            self._voices[nearest].learn(heard.weight * heard.voice, heard.weight)
        return nearest, certainty

    def _only(self, heard: _Heard) -> int:
        """The one speaker that there may be."""
        if not self._voices:
            return self._open(heard)
        ((number, voice),) = self._voices.items()
        if heard.is_one_voice and not heard.is_short:
            voice.learn(heard.weight * heard.voice, heard.weight)
        return number

    def _is_new(self, heard: _Heard, near: float) -> bool:
        if not heard.is_one_voice:
            return False
        known = float(self._to_free_names(heard.voice).max()) if len(self._known) else -1.0
        return near < self._similarity or known >= near + _CLEAR / 2

    def _has_room(self, near: float) -> bool:
        """Whether there may be one more speaker; makes room if two are nearer to each other than ``near``."""
        if len(self._voices) < self._most:
            return True
        pairs = {pair: self._closeness(*pair) for pair in combinations(self._voices, 2)}
        pair = max(pairs, key=pairs.__getitem__)
        if pairs[pair] < max(near, self._similarity - _CLEAR) + _CLEAR / 2:
            return False
        self._merge(*pair)
        return True

    def _open(self, heard: _Heard) -> int:
        self._given += 1
        weight = heard.weight
        self._voices[self._given] = _Voice(weight * heard.voice, weight, heard.voice)
        return self._given

    def _likeness(self, voice: _Voice, other: Embeddings) -> float:
        """How near a voice is to a speaker: to what was heard, or to what is known under the name."""
        heard = float(voice.middle @ other)
        return heard if voice.name is None else max(heard, self._to_name(voice.name, other))

    def _to_name(self, name: str, voice: Embeddings) -> float:
        return float((self._known @ voice)[self._names == name].max())

    def _to_free_names(self, *voices: Embeddings) -> Embeddings:
        """How near each known voice, a row, is to each of ``voices``; -1 where its name was given."""
        taken = [voice.name for voice in self._voices.values() if voice.name is not None]
        near: Embeddings = self._known @ np.stack(voices, axis=1)
        return np.where(np.isin(self._names, taken)[:, None], np.float32(-1), near)

    def _give_names(self) -> None:
        """The nearest pairs of a name and a speaker without one come first. A name that was given stays."""
        while len(self._known):
            nameless = [voice for voice in self._voices.values() if voice.name is None]
            if not nameless:
                return
            near = self._to_free_names(*(voice.middle for voice in nameless))
            row, column = np.unravel_index(int(np.argmax(near)), near.shape)
            if near[row, column] < self._similarity:
                return
            nameless[column].name = str(self._names[row])

    def _same_as(self, number: int) -> int | None:
        """Another number of the same speaker: who was heard for a moment only has to be near enough to be
        taken for the other; two that were heard for a while have to be nearer."""
        if len(self._voices) <= self._least:
            return None
        for other in self._voices:
            heard = min(self._voices[number].seconds, self._voices[other].seconds)
            least = self._similarity + (0.0 if heard < _A_WHILE_SECONDS else _MERGE)
            if other != number and self._closeness(number, other) >= least:
                return other
        return None

    def _closeness(self, number: int, other: int) -> float:
        """Cosine of two speakers. Two known by name are not one, nor is one who is unlike a known voice."""
        first, second = self._voices[number], self._voices[other]
        if first.name is not None and second.name is not None:
            return -1.0
        near = max(self._likeness(first, second.middle), self._likeness(second, first.middle))
        for voice, unnamed in ((first, second), (second, first)):
            if voice.name is not None:
                near = min(near, self._to_name(voice.name, unnamed.middle) + _CLEAR)
        return near

    def _merge(self, number: int, other: int) -> int:
        """Make one of two; the number that stays."""
        kept, gone = min(number, other), max(number, other)
        before = self._speaker(gone)
        voice, taken = self._voices[kept], self._voices.pop(gone)
        voice.learn(taken.total, taken.seconds)
        voice.name = voice.name or taken.name
        self._last = kept if self._last == gone else self._last
        self._merged.append(SpeakersMerged(self._speaker(kept), before))
        return kept

    def _speaker(self, number: int, confidence: float = 1.0) -> Speaker:
        name = self._voices[number].name
        label = name or self._tuning.label(number, self._language or "")
        return Speaker(number, label, name, confidence)


def _spellings(known: tuple[Voiceprint, ...]) -> list[str]:
    """The name of each voice; names are the same whatever their case, and the first spelling counts."""
    spelled: dict[str, str] = {}
    return [spelled.setdefault(voiceprint.name.casefold(), voiceprint.name) for voiceprint in known]


def _chance(margin: float) -> float:
    """How certain something is of which this much of a cosine is left over."""
    return 1 / (1 + math.exp(-margin / _SOFTNESS))
