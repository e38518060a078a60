"""Attention of many streams at once, each to rows of its own that may lie anywhere in one matrix."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from deployments.engines.row_pool import Indices

_ALIKE_QUERIES = 16
_ALIKE_KEYS = 64


class RaggedAttention:
    """Where the queries, keys and values of each stream are; the same for all layers of a network.

    Streams of similar lengths are computed together, padded to the longest; keys that pad are masked.
    """

    def __init__(
        self, lengths: Sequence[int], keys: Sequence[Indices], heads: int, parts: int, device: torch.device
    ) -> None:
        """``lengths``: how many queries each stream has, one below the other; ``keys``: its rows of keys.

        ``parts``: how many times wider than queries are the rows that hold them (they come first).
        """
        self._heads = heads
        begins = [0, *accumulate(lengths)]
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, (length, rows) in enumerate(zip(lengths, keys, strict=True)):
            alike[_size_class(length, _ALIKE_QUERIES), _size_class(len(rows), _ALIKE_KEYS)].append(index)
        back = np.empty((begins[-1], heads), np.int64)
        self._groups: list[tuple[Tensor, Tensor, Tensor | None, int]] = []
        done = 0
        by_head = np.arange(heads)[:, None]
        for members in alike.values():
            counts = np.array([lengths[index] for index in members])
            begin = np.array([begins[index] for index in members])
            step = np.arange(counts.max())
            queries = np.clip(begin[:, None] + np.minimum(step, counts[:, None] - 1), 0, begins[-1] - 1)
            columns, mask = _padded([keys[index] for index in members])
            query_index = queries[:, None] * (parts * heads) + by_head
            key_index = columns[:, None] * (2 * heads) + by_head
            places = done + np.arange(query_index.size).reshape(query_index.shape)
            real = step < counts[:, None]
            back[queries[real]] = places.transpose(0, 2, 1)[real]
            done += query_index.size
            both = np.stack([key_index, key_index + heads])
            self._groups.append(
                (
                    torch.from_numpy(query_index.ravel()).to(device),
                    torch.from_numpy(both.ravel()).to(device),
                    None if mask is None else torch.from_numpy(mask.repeat(heads, axis=0)).to(device),
                    len(members) * heads,
                )
            )
        self._back = torch.from_numpy(back.ravel()).to(device)

    def __call__(self, query: Tensor, key_value: Tensor) -> Tensor:
        """``query``: ``(rows, parts * size)``, scaled already; ``key_value``: keys and values side by side.

        Returns ``(rows, size)``, in the dtype of ``query``.
        """
        size = key_value.shape[1] // (2 * self._heads)
        query, key_value = query.view(-1, size), key_value.view(-1, size)
        results = []
        for query_index, key_index, mask, count in self._groups:
            q = query.index_select(0, query_index).view(count, -1, size)
            k, v = key_value.index_select(0, key_index).view(2, count, -1, size)
            scores = torch.bmm(q, k.transpose(1, 2))
            if mask is not None:
                scores.add_(mask)
            results.append(torch.bmm(torch.softmax(scores, -1), v).view(-1, size))
        result = results[0] if len(results) == 1 else torch.cat(results)
        return result.index_select(0, self._back).view(-1, size * self._heads)


def _size_class(length: int, smallest: int) -> int:
    return max(length - 1, smallest - 1).bit_length()


def _padded(
    rows: Sequence[Indices],
) -> tuple[Indices, np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None]:
    """Row numbers, padded with 0 to one length, and what to add to the scores: ``(streams, 1, length)``."""
    counts = np.array([len(row) for row in rows])
    if counts.min() == counts.max():
        return np.stack(rows), None
    columns = np.zeros((len(rows), counts.max()), np.int64)
    for column, row in zip(columns, rows, strict=True):
        column[: len(row)] = row
    mask = np.where(np.arange(counts.max()) < counts[:, None], np.float32(0), np.float32(-np.inf))
    return columns, mask[:, None]
