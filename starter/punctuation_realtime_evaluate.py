"""Measures a live punctuation model through funasr.AutoModel, mark by mark, over streams in blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from funasr import AutoModel

from starter.punctuation_data import MARK_NAMES, NO_MARK, label, sentences
from starter.punctuation_evaluate import Counts, compare, f1, ratio, with_errors
from starter.registry import Row
from starter.text import MARKS, strip_punctuation

_SEED = 20_003
_STREAMS = 40
_STREAM_CHARACTERS = 200
_GROWING = 400
_TARGETS = {"，": ">= 90", "。": ">= 90", "？": ">= 90", "、": ""}

Cut = Callable[[str, Random], list[str]]
"""Cuts a text with marks into the blocks (without marks) of a stream."""


class RealtimePunctuator:
    """A model directory as a service uses it."""

    def __init__(self, model_dir: Path) -> None:
        self._model = AutoModel(
            model=str(model_dir.resolve()), disable_update=True, disable_pbar=True, disable_log=True, ncpu=1
        )

    def stream(self, blocks: Sequence[str]) -> Iterator[tuple[str, str]]:
        """For each block, what it adds to the text, and the mark that for now is to follow its last word.

        FunASR holds that mark back: the text of the next block begins with it, if it still stands then.
        """
        cache: dict[str, Any] = {}
        for block in blocks:
            (result,) = self._model.generate(input=block, cache=cache)
            last = int(result["punc_array"][-1])
            yield str(result["text"]), "" if last <= NO_MARK else MARK_NAMES[last]

    def __call__(self, blocks: Sequence[str]) -> str:
        """All blocks together, with marks."""
        parts = list(self.stream(blocks))
        return "".join(text for text, _ in parts) + parts[-1][1]


def measure(model_dir: Path) -> list[Row]:
    """The whole table, on held-out sentences."""
    punctuate = RealtimePunctuator(model_dir)
    talks = list(_talks())
    wrong = list(with_errors(talks))
    sets = {
        "cut anywhere": _streams(punctuate, talks, cut_anywhere),
        "cut at pauses": _streams(punctuate, talks, cut_at_pauses),
        "growing sentence": _growing(punctuate),
    }
    extra = {
        "cut anywhere, 5 % wrong characters": _streams(punctuate, wrong, cut_anywhere),
        "end of a block": _block_ends(punctuate, talks),
    }
    total = sum(sets.values(), Counter())
    rows = [
        Row(name, f"F1 of {mark}", f1(counts, mark), "%")
        for name, counts in (sets | extra).items()
        for mark in MARKS
        if counts[mark, "true"]
    ]
    rows.append(
        Row("growing sentence", "characters with the right mark", _right(sets["growing sentence"]), "%")
    )
    rows += [Row("all", f"precision of {mark}", ratio(total, mark, "found"), "%") for mark in MARKS]
    rows += [Row("all", f"recall of {mark}", ratio(total, mark, "true"), "%") for mark in MARKS]
    return rows + [Row("all", f"F1 of {mark}", f1(total, mark), "%", _TARGETS[mark]) for mark in MARKS]


def cut_anywhere(text: str, rng: Random) -> list[str]:
    """Blocks of 1 to 15 characters, the first of at least 2 (FunASR 1.4 cannot begin with a single one)."""
    rest = strip_punctuation(text)
    blocks: list[str] = []
    while rest:
        size = rng.randint(1 if blocks else 2, 15)
        blocks.append(rest[:size])
        rest = rest[size:]
    return blocks


def cut_at_pauses(text: str, rng: Random) -> list[str]:
    """Blocks that end at marks: at all ends of sentences, at half of the other marks."""
    block = ""
    blocks: list[str] = []
    for character in text:
        if character not in MARKS:
            block += character
        elif len(block) > 1 and (character in "。？" or rng.random() < 0.5):
            blocks.append(block)
            block = ""
    return [*blocks, block] if block else blocks


def _streams(punctuate: RealtimePunctuator, talks: Sequence[str], cut: Cut) -> Counts:
    rng, counts = Random(_SEED), Counts()
    for text in talks:
        counts += compare(text, punctuate(cut(text, rng)))
    return counts


def _growing(punctuate: RealtimePunctuator) -> Counts:
    """A sentence of which only a part is there yet, all characters but its last one."""
    source, rng, counts = sentences(_SEED, "test"), Random(_SEED), Counts()
    for _ in range(_GROWING):
        blocks = ["".join(strip_punctuation(next(source)) for _ in range(3))]
        growing = next(source)
        spoken = strip_punctuation(growing)
        size = rng.randint(1, len(spoken))
        text, _ = list(punctuate.stream([*blocks, spoken[:size]]))[-1]
        # What stands before its first character belongs to the sentence before.
        counts += compare(_first(growing, size - 1), _first(text.lstrip(MARKS), size - 1))
    return counts


def _block_ends(punctuate: RealtimePunctuator, talks: Sequence[str]) -> Counts:
    rng, counts = Random(_SEED), Counts()
    for text in talks:
        blocks = cut_at_pauses(text, rng)
        labelled, end = label(text), 0
        for block, (_, mark) in zip(blocks, punctuate.stream(blocks), strict=True):
            end += len(block)
            character, true = labelled[end - 1]
            counts += compare(character + MARK_NAMES[true], character + mark)
    return counts


def _right(counts: Counts) -> float:
    return (
        100
        * sum(counts[mark, "right"] for mark in MARK_NAMES)
        / sum(counts[mark, "true"] for mark in MARK_NAMES)
    )


def _first(text: str, size: int) -> str:
    """The first `size` spoken characters of a text with their marks."""
    marks = [("" if mark == NO_MARK else MARK_NAMES[mark]) for _, mark in label(text)]
    return "".join(c + m for c, m in zip(strip_punctuation(text)[:size], marks, strict=False))


def _talks() -> Iterator[str]:
    source = sentences(_SEED, "test")
    for _ in range(_STREAMS):
        text = ""
        while len(strip_punctuation(text)) < _STREAM_CHARACTERS:
            text += next(source)
        yield text
