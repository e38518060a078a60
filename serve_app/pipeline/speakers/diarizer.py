"""Who said which sentence of a recording."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from deployments.messages import Embeddings, SpeechSpan
from serve_app.pipeline.speakers.clustering import Bounds, Floats, Labels, centers_of, cluster
from serve_app.pipeline.speakers.known import match
from serve_app.pipeline.speakers.types import SpeakerOptions, SpeakerTuning
from serve_app.pipeline.speakers.words import SwitchCosts, best_path, coverage, switch_costs
from serve_app.pipeline.types import Sentence, Speaker, TimedWord

_ROUNDS = 8
_EVIDENCE = 6.0


class Diarizer:
    """Collects the voices of one recording, then labels its sentences. Used once, from one thread."""

    def __init__(self, options: SpeakerOptions, tuning: SpeakerTuning) -> None:
        self._options = options
        self._tuning = tuning
        self._windows: list[SpeechSpan] = []
        self._voices: list[Embeddings] = []

    def add(self, windows: Sequence[SpeechSpan], embeddings: Embeddings) -> None:
        """Take windows, milliseconds of the recording, and their voices: one row each. In any order."""
        if len(windows) != len(embeddings):
            raise ValueError(f"There are {len(windows)} windows, but {len(embeddings)} embeddings.")
        if windows:
            self._windows += windows
            self._voices.append(embeddings)

    def label(self, sentences: Sequence[Sentence], language: str) -> tuple[Sentence, ...]:
        """The sentences, in their order, each with its speaker; split where the speaker changes inside."""
        words = [word for sentence in sentences for word in sentence.words]
        if not words:
            return tuple(sentences)
        path, confidence, names = self._speakers(words)
        return tuple(self._labeled(sentences, path, confidence, names, language))

    def _speakers(self, words: Sequence[TimedWord]) -> tuple[Labels, Floats, dict[int, str]]:
        order = sorted(
            range(len(self._windows)), key=lambda i: (self._windows[i].begin_ms, self._windows[i].end_ms)
        )
        windows = [self._windows[i] for i in order]
        silent = np.zeros(len(words), np.intp), np.zeros(len(words)), {}
        if not windows:
            return silent
        voices = np.concatenate(self._voices)[order]
        shares = coverage(windows, words)
        heard = shares.sum(axis=1) > 0
        if not heard.any():
            return silent
        voices, shares = voices[heard], shares[heard]
        options = self._options
        bounds = Bounds(options.count or options.least or 1, options.count or options.most)
        similarity = self._tuning.similarity
        labels = cluster(voices, similarity * 0.65, bounds)
        weights = np.ones(len(voices))
        costs = switch_costs(words, SwitchCosts())
        path = np.zeros(len(words), np.intp)
        for _ in range(_ROUNDS):
            _, labels = np.unique(labels, return_inverse=True)
            centers = centers_of(voices, labels, weights)
            count = len(centers)
            alike = centers @ centers.T
            np.fill_diagonal(alike, -1)
            if count > bounds.least and alike.max() > similarity:
                one, other = np.unravel_index(np.argmax(alike), alike.shape)
                labels = np.where(labels == other, one, labels)
                continue
            scores = voices @ centers.T
            margin = max(float(np.mean(1 - alike[alike > -1])) if count > 1 else 1.0, 0.1)
            evidence = _EVIDENCE * (scores - scores.max(axis=1, keepdims=True)) / margin
            path = best_path(shares.T @ evidence, costs)
            said = np.zeros((len(words), count))
            said[np.arange(len(words)), path] = 1
            share = shares @ said
            new, weights = share.argmax(axis=1), np.maximum(share.max(axis=1) - 0.5, 0.01)
            if (new == labels).all():
                break
            labels = new
        scores = voices @ centers.T
        confidence = np.ones(len(words))
        names = match(centers, self._options.known, similarity)
        return path, confidence, names

    def _labeled(self, sentences, path, confidence, names, language) -> Iterator[Sentence]:
        numbers: dict[int, int] = {}
        position = 0
        for sentence in sentences:
            indexed = range(position, position + len(sentence.words))
            position += len(sentence.words)
            for label, run in groupby(indexed, key=lambda index: int(path[index])):
                run = list(run)
                number = numbers.setdefault(label, len(numbers) + 1)
                name = names.get(label)
                speaker = Speaker(
                    number,
                    name or self._tuning.label(number, language),
                    name,
                    float(np.mean(confidence[run])),
                )
                first = indexed[0]
                yield replace(
                    sentence, words=sentence.words[run[0] - first : run[-1] + 1 - first], speaker=speaker
                )
