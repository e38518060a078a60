"""Memory for what live streams remember: rows of numbers, never rewritten while a state refers to them.

A step over many streams then reads and writes the rows of all of them with one operation each, and nothing
is copied from an old state into the next one. A row comes back as soon as no state refers to its lease.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deployments.engines.sanm import Placement

Indices = npt.NDArray[np.int64]

_SMALLEST = 256


def write_rows(layer: Tensor, rows: Tensor, values: Tensor) -> None:
    """``layer[rows] = values``, all of one dtype; ``rows`` are distinct."""
    words = layer.shape[1] * layer.element_size() // 16
    if (
        words * 16 == layer.shape[1] * layer.element_size()
        and values.stride(0) * layer.element_size() % 16 == 0
    ):
        # Element by element, whatever an element is: the widest there is makes it 4x faster.
        layer, values = layer.view(torch.complex128), values.view(torch.complex128)
    layer.index_copy_(0, rows, values)


class Lease:
    """Some rows of a :class:`RowPool`, given back when the last reference to it is gone."""

    __slots__ = ("_returned", "rows")

    def __init__(self, rows: Indices, returned: deque[Indices]) -> None:
        self.rows = rows
        self._returned = returned

    def __del__(self) -> None:
        self._returned.append(self.rows)  # atomic: states are dropped on any thread


class RowPool:
    """Rows of ``width`` numbers in ``layers`` layers; a lease holds the same rows in all of them.

    ``layers``: for each layer, a tensor of shape ``(rows, width)``. Row 0 is never lent and always zero: what
    a stream that has just begun remembers. May be used by one thread at a time; only leases may be dropped
    on others. It grows as needed and shrinks when nothing is lent.
    """

    def __init__(self, layers: int, width: int, at: Placement) -> None:
        self._shape, self._at = (layers, width), at
        self._returned: deque[Indices] = deque()
        self._free: Indices = np.zeros(0, np.int64)
        self._allocate(_SMALLEST)

    def lease(self, counts: Sequence[int]) -> list[Lease]:
        """Leases of so many rows each. What the rows hold is undefined, but finite."""
        self._collect()
        total = sum(counts)
        if total > len(self._free):
            self._grow(total - len(self._free))
        taken, self._free = self._free[:total], self._free[total:]
        return [Lease(rows, self._returned) for rows in np.split(taken, np.cumsum(counts)[:-1])]

    def index(self, rows: Sequence[Indices]) -> Tensor:
        """Row numbers one after the other, as operations on ``layers`` take them."""
        return torch.from_numpy(np.concatenate(rows)).to(self._at.device)

    def read(self, rows: Sequence[Indices]) -> Tensor:
        """What these rows hold, in all layers: ``(layers, rows, width)``."""
        return self._rows.index_select(1, self.index(rows))

    def write(self, rows: Sequence[Indices], values: Tensor) -> None:
        """Fill distinct rows, in all layers."""
        self._rows.index_copy_(1, self.index(rows), values)

    def _collect(self) -> None:
        returned = [self._returned.popleft() for _ in range(len(self._returned))]
        if returned:
            self._free = np.concatenate([*returned, self._free])
        if len(self._free) == self._capacity - 1 and self._capacity > _SMALLEST:
            self._allocate(_SMALLEST)

    def _allocate(self, capacity: int) -> None:
        layers, width = self._shape
        # Memory of zeros is not taken before it is written to.
        self._rows = torch.zeros(layers, capacity, width, dtype=self._at.dtype, device=self._at.device)
        self.layers = list(self._rows)
        self._capacity = capacity
        self._free = np.arange(1, capacity)

    def _grow(self, missing: int) -> None:
        rows, free, before = self._rows, self._free, self._capacity
        self._allocate(max(before + missing, before * 3 // 2))
        self._rows[:, :before] = rows
        self._free = np.concatenate([free, np.arange(before, self._capacity)])
