"""Prints measured figures as a table and writes them into model cards."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from starter.registry import Row, load_facts

_WARNING = (
    "**This model knows synthesized speech and generated sentences only. It does not understand people: "
    "use it to try out and test the service, and a real checkpoint for real speech.**"
)


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}".rstrip("0").rstrip(".")


def _verdict(row: Row) -> str:
    return {None: "", True: "yes", False: "no"}[row.reached]


def print_rows(console: Console, name: str, rows: list[Row]) -> None:
    table = Table(title=name, title_justify="left")
    for heading in ("test set", "measure", "value", "target", "reached"):
        table.add_column(heading, justify="right" if heading == "value" else "left")
    for row in rows:
        value = f"{_number(row.value)} {row.unit}"
        table.add_row(row.test_set, row.measure, value, row.target, _verdict(row))
    console.print(table)


def write_card(model_dir: Path, name: str, about: str, rows: list[Row]) -> None:
    """Write `model_dir`/README.md: warning, description, training facts and the table of `rows`."""
    facts = "\n".join(f"- {key}: {value}" for key, value in load_facts(model_dir).items())
    lines = [f"# {name} (starter model)", "", _WARNING, "", about.strip(), ""]
    if facts:
        lines += ["## Training", "", facts, ""]
    lines += [
        "## Measured",
        "",
        f"On held-out sentences, never trained on, by `python -m starter evaluate {name}`:",
        "",
        "| test set | measure | value | target | reached |",
        "|---|---|---:|---|---|",
    ]
    lines += [
        f"| {row.test_set} | {row.measure} | {_number(row.value)} {row.unit} "
        f"| {row.target} | {_verdict(row)} |"
        for row in rows
    ]
    (model_dir / "README.md").write_text("\n".join(lines) + "\n", "utf-8")
