"""What a live punctuation model is asked: the words of a stream so far, and where its newest block begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import torch

from starter.punctuation_data import BATCH_CHARACTERS, NO_MARK, Labelled, collate, label, sentences

_LONGEST = (8, 20, 40, 60, 100, 220)


@dataclass(frozen=True, slots=True)
class RealtimeBatch:
    """Padded with zeros.

    ids and marks: token ids and the mark behind each token, (rows, columns). lengths: (rows,). blocks:
    (rows,), the column at which the newest block begins: words before it, except for the last, are to get
    their marks without a look at it. 0 where a row is one block.
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    marks: torch.Tensor
    blocks: torch.Tensor


def realtime_batch(seed: int) -> RealtimeBatch:
    """One batch, fixed by its seed.

    Rows begin at a sentence, as what is carried from block to block does, and end where a block can end:
    where the speaker stops or pauses, or anywhere, because a block is also a sentence that still grows.
    """
    rng = Random(seed)
    longest = rng.choice(_LONGEST)
    source = sentences(seed, "train")
    rows = [_row(source, rng, longest) for _ in range(BATCH_CHARACTERS // longest)]
    ids, lengths, marks = collate(rows, rng)
    return RealtimeBatch(ids, lengths, marks, torch.tensor([_block_begin(row, rng) for row in rows]))


def _row(source: Iterator[str], rng: Random, longest: int) -> Labelled:
    target = rng.randint(1, longest)
    row: Labelled = []
    while len(row) < target:
        row += label(next(source))
    if rng.random() < 0.1:
        row = row[rng.randint(1, 5) :] or row
    draw = rng.random()
    if draw < 0.3:
        return row
    pauses = [end for end in _pauses(row) if end <= target]
    return row[: rng.choice(pauses[-2:])] if draw < 0.6 and pauses else row[:target]


def _block_begin(row: Labelled, rng: Random) -> int:
    draw = rng.random()
    if draw < 0.25:
        return 0
    pauses = [end for end in _pauses(row) if end < len(row)]
    return rng.choice(pauses[-3:]) if draw < 0.6 and pauses else rng.randrange(len(row))


def _pauses(row: Labelled) -> list[int]:
    """How many characters there are up to each mark: where speakers pause."""
    return [index + 1 for index, (_, mark) in enumerate(row) if mark != NO_MARK]
