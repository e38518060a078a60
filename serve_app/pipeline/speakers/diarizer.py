"""Who said which sentence of a recording."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np

from deployments.messages import Embeddings, SpeechSpan
from serve_app.pipeline.speakers.certainty import certainty
from serve_app.pipeline.speakers.clustering import Floats, Labels
from serve_app.pipeline.speakers.known import names_of, voices_in_common
from serve_app.pipeline.speakers.resegmentation import HeardWindows, find_voices
from serve_app.pipeline.speakers.spread import Bounds
from serve_app.pipeline.speakers.types import SpeakerOptions, SpeakerTuning
from serve_app.pipeline.speakers.words import SwitchCosts, at_sentence_ends, coverage, switches
from serve_app.pipeline.types import Sentence, Speaker, TimedWord


@dataclass(frozen=True, slots=True)
class _Said:
    """The voice of each word, how certain that is (0 to 1), and the names of those voices that are known."""

    path: Labels
    certain: Floats
    names: dict[int, str] = field(default_factory=dict)


class Diarizer:
    """Collects the voices of one recording, then labels its sentences. For one thread at a time."""

    def __init__(self, options: SpeakerOptions, tuning: SpeakerTuning) -> None:
        """``options.by_channel`` is not looked at: here all is told from voices."""
        self._options = options
        self._tuning = tuning
        least = options.count or options.least or 1
        self._bounds = Bounds(least, options.count or options.most)
        self._windows: list[SpeechSpan] = []
        self._voices: list[Embeddings] = []

    def add(self, windows: Sequence[SpeechSpan], embeddings: Embeddings) -> None:
        """Take windows, in milliseconds of the recording, and their voices, one row each; in any order.

        Raises:
            ValueError: there are not as many rows as windows.
        """
        if len(windows) != len(embeddings):
            raise ValueError(f"There are {len(windows)} windows, but {len(embeddings)} embeddings.")
        if len(windows):
            self._windows += windows
            self._voices.append(embeddings)

    def label(self, sentences: Sequence[Sentence], language: str) -> tuple[Sentence, ...]:
        """The sentences with their speakers, cut where the speaker changes inside; words stay as they are.

        Takes up to some seconds of one core for hours of audio, so not for an event loop.

        Args:
            sentences: of the whole recording, in order.
            language: ISO 639-1, for what speakers are called.

        Returns:
            Speakers are numbered in the order of their first words. ``Speaker.confidence`` is 1 where the
            windows around a sentence sound like the middle of its speaker's voice, 0 where they are no
            nearer to it than to another speaker's, as they are where two speak at once, and 0 as well where
            no window heard anything, so that the neighbors' speaker was taken.
        """
        words = [word for sentence in sentences for word in sentence.words]
        if not words:
            return tuple(sentences)
        return tuple(self._labeled(sentences, self._listen(words), language))

    def _listen(self, words: Sequence[TimedWord]) -> _Said:
        windows = self._heard(words)
        if windows is None:
            return _Said(np.zeros(len(words), np.intp), np.zeros(len(words)))
        similarity = self._tuning.similarity
        costs = switches(words, SwitchCosts())
        found = find_voices(windows, costs, similarity, self._bounds)
        path, spread = at_sentence_ends(found.path, words), found.spread
        known = self._options.known
        for first, second in reversed(
            voices_in_common(spread.directions, known, similarity, self._bounds.least)
        ):
            spread = spread.joined(first, second)
            path = np.where(path == second, first, path)
            path -= path > second
        names = names_of(spread.directions, known, similarity)
        return _Said(path, certainty(windows, path, spread.means), names)

    def _heard(self, words: Sequence[TimedWord]) -> HeardWindows | None:
        """All windows with words in them, in order of time: noise is no speaker."""
        times = np.array([(window.begin_ms, window.end_ms) for window in self._windows], np.float64)
        if not len(times):
            return None
        order = np.lexsort((times[:, 1], times[:, 0]))
        shares = coverage([self._windows[index] for index in order], words)
        heard = np.diff(shares.indptr) > 0
        if not heard.any():
            return None
        order = order[heard]
        voices = np.concatenate(self._voices)[order]
        return HeardWindows(voices, times[order, 0], times[order, 1], shares[heard])

    def _labeled(self, sentences: Sequence[Sentence], said: _Said, language: str) -> Iterator[Sentence]:
        numbers: dict[int, int] = {}
        begin = 0
        for sentence in sentences:
            indexes = range(begin, begin + len(sentence.words))
            for voice, group in groupby(indexes, key=lambda index: int(said.path[index])):
                run = list(group)
                number = numbers.setdefault(voice, len(numbers) + 1)
                name = said.names.get(voice)
                label = name or self._tuning.label(number, language)
                certain = float(np.clip(np.mean(said.certain[run]), 0, 1))
                words = sentence.words[run[0] - begin : run[-1] + 1 - begin]
                yield replace(sentence, words=words, speaker=Speaker(number, label, name, certain))
            begin += len(sentence.words)
