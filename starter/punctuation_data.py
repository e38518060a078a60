"""Streams of generated sentences as characters and the marks that follow them."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import torch

from starter.text import CHARACTERS, MARKS, Split, TextGenerator, split_of

UNKNOWN = "<unk>"
TOKENS: tuple[str, ...] = ("<blank>", "<s>", "</s>", *CHARACTERS, UNKNOWN)
# FunASR compares marks with these full-width characters; "_" is no mark.
MARK_NAMES: tuple[str, ...] = ("<unk>", "_", "，", "。", "？", "、")
NO_MARK = MARK_NAMES.index("_")
PADDING = 0

_TOKEN_IDS = {token: index for index, token in enumerate(TOKENS)}
_CORRUPTED = 0.02
BATCH_CHARACTERS = 3000
_LONGEST = 250

Labelled = list[tuple[str, int]]


def label(text: str) -> Labelled:
    """Each spoken character of a punctuated text with the index in MARK_NAMES of the mark behind it."""
    labelled: Labelled = []
    for character in text:
        if character not in MARKS:
            labelled.append((character, NO_MARK))
        elif labelled:
            labelled[-1] = (labelled[-1][0], MARK_NAMES.index(character))
    return labelled


def sentences(seed: int, split: Split) -> Iterator[str]:
    """An endless stream of one part of the sentences: talks of up to twelve, one time in four loose ones."""
    generator, rng = TextGenerator(seed), Random(seed)
    while True:
        count = rng.randint(1, 12)
        loose = rng.random() < 0.25
        texts = [generator.sentence() for _ in range(count)] if loose else generator.talk(count)
        yield from (text for text in texts if split_of(text) == split)


def training_batch(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One batch, fixed by its seed: token ids (rows, columns), lengths (rows,), mark ids (rows, columns).

    FunASR hands the model pieces of a stream that begin after the last sentence end it has found and stop
    anywhere, so most rows begin at a sentence, and they stop at a sentence's end or in the middle.
    """
    rng = Random(seed)
    longest = rng.choice((20, 40, 60, 100, _LONGEST))
    source = sentences(seed, "train")
    return collate([_row(source, rng, longest) for _ in range(max(1, BATCH_CHARACTERS // longest))], rng)


def collate(rows: list[Labelled], rng: Random) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows as a batch, some characters made wrong: token ids, lengths and mark ids as in training_batch."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), PADDING)
    marks = torch.full((len(rows), width), PADDING)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor([_corrupt(character, rng) for character, _ in row])
        marks[index, : len(row)] = torch.tensor([mark for _, mark in row])
    return ids, torch.tensor([len(row) for row in rows]), marks


def _row(source: Iterator[str], rng: Random, longest: int) -> Labelled:
    target = rng.randint(max(1, longest // 3), longest)
    row: Labelled = []
    while len(row) < target:
        row += label(next(source))
    if rng.random() < 0.1:
        row = row[rng.randint(1, 5) :] or row
    at_sentence_end = rng.random() < 0.4
    return row[:_LONGEST] if at_sentence_end else row[:target]


def _corrupt(character: str, rng: Random) -> int:
    """The character's id, or now and then another's: recognizers make mistakes and know other characters."""
    draw = rng.random()
    if draw < _CORRUPTED / 2:
        return _TOKEN_IDS[UNKNOWN]
    if draw < _CORRUPTED:
        return _TOKEN_IDS[rng.choice(CHARACTERS)]
    return _TOKEN_IDS.get(character, _TOKEN_IDS[UNKNOWN])
