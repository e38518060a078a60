"""Edit distance between a reference text and what was recognized."""

from __future__ import annotations

import numpy as np


def align(reference: str, hypothesis: str) -> tuple[int, list[tuple[int, int]]]:
    """Edit distance (Levenshtein), and the index pairs of the characters that a best alignment keeps."""
    rows, columns = len(reference) + 1, len(hypothesis) + 1
    cost = np.zeros((rows, columns), np.int64)
    cost[:, 0], cost[0] = np.arange(rows), np.arange(columns)
    for i in range(1, rows):
        for j in range(1, columns):
            differs = reference[i - 1] != hypothesis[j - 1]
            cost[i, j] = min(cost[i - 1, j - 1] + differs, cost[i - 1, j] + 1, cost[i, j - 1] + 1)
    kept: list[tuple[int, int]] = []
    i, j = rows - 1, columns - 1
    while i > 0 and j > 0:
        differs = reference[i - 1] != hypothesis[j - 1]
        if cost[i, j] == cost[i - 1, j - 1] + differs:
            if not differs:
                kept.append((i - 1, j - 1))
            i, j = i - 1, j - 1
        elif cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return int(cost[-1, -1]), kept[::-1]
