"""What counts: the instruments of :mod:`deployments.metrics`, made here and nowhere else.

Serve adds ``application``, ``deployment`` and ``replica``. Ray exports each 10 s what a process has recorded.

A *gauge* has to be put again and again, also where it does not change: Ray 2.60 exports it only if it was put
since the last time, and forgets it after 20 s.

The *sum* of a histogram is not exact: Ray passes on how many values fell into each bucket, as if each were in
the middle of it. Where a mean matters there is a counter of the same beside it.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from ray.serve import metrics

from deployments.metrics import Metric


class Counter(metrics.Counter):
    """Only grows."""

    def __init__(self, metric: Metric) -> None:
        super().__init__(metric.name, metric.description, _keys(metric))
        if metric.zeros is not None:
            for tags in _combinations(metric.zeros):
                self.begin(**tags)

    def begin(self, **tags: str) -> None:
        """Have a series there before its first event."""
        # `inc` takes no 0.
        self._record(0, tags)

    def add(self, value: float = 1, **tags: str) -> None:
        """Count; 0 changes nothing."""
        if value > 0:
            self.inc(value, tags)


class Gauge(metrics.Gauge):
    """A value of now; to be put at least every ten seconds."""

    def __init__(self, metric: Metric) -> None:
        super().__init__(metric.name, metric.description, _keys(metric))
        if metric.zeros is not None:
            self.put(0)

    def put(self, value: float, **tags: str) -> None:
        """Replace the value."""
        self.set(value, tags)


class Histogram(metrics.Histogram):
    """How values are spread."""

    def __init__(self, metric: Metric) -> None:
        super().__init__(metric.name, metric.description, [*metric.buckets], _keys(metric))

    def add(self, value: float, **tags: str) -> None:
        """Record a value."""
        self.observe(value, tags)


def _keys(metric: Metric) -> Any:
    # Ray's annotations know of one tag only.
    return tuple(metric.tags)


def _combinations(values: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
    for combination in product(*values.values()):
        yield dict(zip(values, combination, strict=True))
