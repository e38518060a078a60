"""What dashboards are made of: charts, and their queries."""

from dataclasses import dataclass
from typing import Literal

from deployments.metrics import Metric
from serve_app.observability.queries import quantile

Unit = Literal["s", "short", "reqps", "percentunit", "percent", "bytes", "Bps", "none", "x"]


@dataclass(frozen=True, slots=True)
class Query:
    """``legend`` may name labels: ``{{deployment}}``."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart. ``unit`` is Grafana's; ``about`` says what to make of it."""

    title: str
    unit: Unit
    about: str
    queries: tuple[Query, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard; ``rows`` are its panels, three beside each other, under their headings."""

    name: str
    title: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]


PROTOCOL, STAGE, NODE = "{{protocol}}", "{{deployment}}", "{{instance}}"
"""Legends."""


def panel_of(title: str, unit: Unit, about: str, *queries: tuple[str, str]) -> Panel:
    """A chart of queries, each with its legend."""
    return Panel(title, unit, about, tuple(Query(*query) for query in queries))


def spread(metric: Metric, by: str, legend: str) -> tuple[tuple[str, str], ...]:
    """Half of the values, and all but one of twenty."""
    return (
        (quantile(0.5, metric, by), f"{legend} p50"),
        (quantile(0.95, metric, by), f"{legend} p95"),
    )
