"""How much goes through a network at once."""

from collections.abc import Iterator, Sequence

PASS_ROWS = 2048
"""Encoder rows (of 60 ms, so 2 min) of one pass: more is not faster, and memory grows with it."""


def passes(rows: Sequence[int]) -> Iterator[list[int]]:
    """Indices of segments that have any rows, in groups of :data:`PASS_ROWS` at most or of one segment."""
    group: list[int] = []
    total = 0
    for index, count in enumerate(rows):
        if count == 0:
            continue
        if group and total + count > PASS_ROWS:
            yield group
            group, total = [], 0
        group.append(index)
        total += count
    if group:
        yield group
