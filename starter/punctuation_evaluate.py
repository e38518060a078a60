"""Measures a punctuation model through funasr.AutoModel, mark by mark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

from funasr import AutoModel

from starter.punctuation_data import MARK_NAMES, label, sentences
from starter.registry import Row
from starter.text import CHARACTERS, MARKS, strip_punctuation

_SEED = 20_002
_TEXTS = {"sentence": 600, "paragraph": 150, "stream": 25}
_STREAM_CHARACTERS = 400
_TARGETS = {"，": ">= 90", "。": ">= 90", "？": ">= 90", "、": ""}

Counts = Counter[tuple[str, str]]
"""How often (mark, "right" | "found" | "true") was seen."""


class Punctuator:
    """A model directory as a service uses it."""

    def __init__(self, model_dir: Path) -> None:
        self._model = AutoModel(
            model=str(model_dir.resolve()), disable_update=True, disable_pbar=True, disable_log=True, ncpu=1
        )

    def __call__(self, text: str) -> str:
        """`text` (without marks) with marks."""
        return str(self._model.generate(input=text)[0]["text"])


def measure(model_dir: Path) -> list[Row]:
    """The whole table, on held-out sentences."""
    punctuate = Punctuator(model_dir)
    rows: list[Row] = []
    total: Counts = Counter()
    for test_set in _TEXTS:
        counts = _count(punctuate, _test_texts(test_set))
        total += counts
        rows += [Row(test_set, f"F1 of {mark}", f1(counts, mark), "%") for mark in MARKS]
    wrong = _count(punctuate, with_errors(_test_texts("stream")))
    rows += [Row("stream, 5 % wrong characters", f"F1 of {mark}", f1(wrong, mark), "%") for mark in MARKS]
    rows += [Row("all", f"precision of {mark}", ratio(total, mark, "found"), "%") for mark in MARKS]
    rows += [Row("all", f"recall of {mark}", ratio(total, mark, "true"), "%") for mark in MARKS]
    return rows + [Row("all", f"F1 of {mark}", f1(total, mark), "%", _TARGETS[mark]) for mark in MARKS]


def compare(true: str, found: str) -> Counts:
    """Marks of two punctuations of the same characters. Raises ValueError if the characters differ."""
    counts: Counts = Counter()
    if strip_punctuation(true) != strip_punctuation(found):
        raise ValueError(f"the model changed the text {true!r} to {found!r}")
    for (_, expected), (_, given) in zip(label(true), label(found), strict=True):
        counts[MARK_NAMES[expected], "true"] += 1
        counts[MARK_NAMES[given], "found"] += 1
        counts[MARK_NAMES[given], "right"] += expected == given
    return counts


def _count(punctuate: Punctuator, texts: Iterable[str]) -> Counts:
    counts: Counts = Counter()
    for text in texts:
        counts += compare(text, punctuate(strip_punctuation(text)))
    return counts


def with_errors(texts: Iterable[str]) -> Iterator[str]:
    """The texts with one character in twenty replaced at random, as a recognizer might get them wrong."""
    rng = Random(_SEED + 1)
    for text in texts:
        yield "".join(
            rng.choice(CHARACTERS) if character not in MARKS and rng.random() < 0.05 else character
            for character in text
        )


def _test_texts(test_set: str) -> Iterator[str]:
    source, rng = sentences(_SEED, "test"), Random(_SEED)
    for _ in range(_TEXTS[test_set]):
        if test_set == "sentence":
            yield next(source)
        elif test_set == "paragraph":
            yield "".join(next(source) for _ in range(rng.randint(3, 8)))
        else:
            text = ""
            while len(strip_punctuation(text)) < _STREAM_CHARACTERS:
                text += next(source)
            yield text


def ratio(counts: Counts, mark: str, whole: str) -> float:
    return 100 * counts[mark, "right"] / counts[mark, whole] if counts[mark, whole] else 0.0


def f1(counts: Counts, mark: str) -> float:
    either = counts[mark, "found"] + counts[mark, "true"]
    return 200 * counts[mark, "right"] / either if either else 0.0
