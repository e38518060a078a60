"""How the live benchmark shows its figures: a line for each step, a table, a verdict, a JSON file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from benchmarks.live_metrics import Bounds, Spread, Step, sessions_carried

Results = Mapping[str, Sequence[Step]]
"""The steps of each server, by its name; this project's server first."""


def step_line(server: str, step: Step, bounds: Bounds) -> str:
    """One step in one line, for reading along."""
    parts = [
        f"{server}, {step.sessions} sessions: lag p95 {_milliseconds(step.lag.p95)} ms",
        f"final p95 {step.final_after_stop.p95:.2f} s",
        f"text {step.text:.1%}",
        f"{step.cores:.1f} cores",
        f"packets up to {_milliseconds(step.sent_late)} ms late",
        "carried" if step.carried(bounds) else "not carried",
    ]
    return ", ".join([*parts, *step.errors])


def results_table(title: str, results: Results, bounds: Bounds) -> Table:
    """A row for each step of each server."""
    table = Table(
        "server",
        "sessions",
        "first_update\np50/p95 s",
        "response lag\np50/p95 ms",
        "final_after_stop\np50/p95 s",
        "emission delay\np50/p95 s",
        "text",
        "CER",
        "cores",
        "carried",
        title=title,
        caption=f"carried: lag p95 at most {bounds.lag * 1000:.0f} ms, final p95 at most {bounds.final:g} s",
    )
    for server, steps in results.items():
        for step in steps:
            table.add_row(
                server,
                str(step.sessions),
                _seconds(step.first_update),
                f"{_milliseconds(step.lag.p50)}/{_milliseconds(step.lag.p95)}",
                _seconds(step.final_after_stop),
                "-" if step.emission_delay is None else _seconds(step.emission_delay),
                f"{step.text:.1%}",
                "-" if step.cer is None else f"{step.cer:.1%}",
                f"{step.cores:.1f}",
                "yes" if step.carried(bounds) else "no",
            )
    return table


def _seconds(spread: Spread) -> str:
    return f"{spread.p50:.2f}/{spread.p95:.2f}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"


def verdict(results: Results, bounds: Bounds, cores: int) -> str:
    """Sessions carried and sessions per core of each server, and the ratio of the first to each other."""
    carried = {server: sessions_carried(steps, bounds) for server, steps in results.items()}
    lines = [f"{server}: {count} sessions, {count / cores:g} per core" for server, count in carried.items()]
    (ours, own), *others = carried.items()
    lines += [f"{ours} / {server}: {own / count:.3g}" for server, count in others if count]
    lines += [f"{server} carried not even one session" for server, count in others if not count]
    return "\n".join(lines)


def write_json(path: Path, results: Results, bounds: Bounds, cores: int) -> None:
    """All figures: times in seconds, ``text`` and ``cer`` as shares."""
    record = {
        "cores": cores,
        "bounds": asdict(bounds),
        "sessions_carried": {name: sessions_carried(steps, bounds) for name, steps in results.items()},
        "steps": {name: [asdict(step) for step in steps] for name, steps in results.items()},
    }
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")
