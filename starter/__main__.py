"""`python -m starter train|evaluate|card|samples`: makes and measures the starter models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from starter import registry
from starter.report import print_rows, write_card

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

Name = Annotated[
    str, typer.Argument(help=f"One of {', '.join(registry.names())}; evaluate and card also take 'all'.")
]


def _selected(name: str) -> list[str]:
    if name == "all":
        return registry.names()
    if name not in registry.names():
        raise typer.BadParameter(
            f"no starter model is called {name!r}; there are: {', '.join(registry.names())}, all"
        )
    return [name]


def _directory(name: str, override: Path | None) -> Path:
    return override if override is not None else registry.MODELS_DIR / name


@app.command()
def train(
    name: Name,
    minutes: Annotated[float | None, typer.Option(help="Wall-clock budget of the optimization.")] = None,
    processes: Annotated[int, typer.Option(help="Data-parallel processes, one thread each.")] = 3,
    seed: Annotated[int, typer.Option(help="Fixes texts, voices, noise, initial weights and batches.")] = 7,
    output: Annotated[Path | None, typer.Option(help="Model directory to write.")] = None,
    work: Annotated[Path | None, typer.Option(help="Directory for cached data and checkpoints.")] = None,
) -> None:
    """Train a model from scratch, or go on with a training that was interrupted."""
    for selected in _selected(name):
        module = registry.load(selected)
        module.train(
            registry.TrainOptions(
                output=_directory(selected, output),
                work=work if work is not None else registry.BUILD_DIR / selected,
                minutes=minutes if minutes is not None else module.DEFAULT_MINUTES,
                processes=processes,
                seed=seed,
            )
        )


@app.command()
def evaluate(
    name: Name,
    model_dir: Annotated[Path | None, typer.Option(help="Model directory to measure.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure models on held-out sentences and voices and print a table."""
    for selected in _selected(name):
        rows = registry.load(selected).evaluate(_directory(selected, model_dir))
        if json:
            typer.echo(registry.rows_as_json(rows))
        else:
            print_rows(Console(), selected, rows)


@app.command()
def card(
    name: Name,
    model_dir: Annotated[Path | None, typer.Option(help="Model directory to measure and describe.")] = None,
) -> None:
    """Measure models and write the figures into their cards (README.md)."""
    for selected in _selected(name):
        module = registry.load(selected)
        directory = _directory(selected, model_dir)
        rows = module.evaluate(directory)
        print_rows(Console(), selected, rows)
        write_card(directory, selected, module.ABOUT, rows)


@app.command()
def samples(
    output: Annotated[Path, typer.Option(help="Directory for the recordings.")] = registry.ROOT / "samples",
) -> None:
    """Make the sample recordings from held-out sentences that the shipped models transcribe exactly."""
    from starter.sample_conversation import make_conversation
    from starter.sample_recordings import make_samples

    models = registry.MODELS_DIR / "paraformer", registry.MODELS_DIR / "ct-punc"
    make_samples(output, *models)
    make_conversation(output, *models)


if __name__ == "__main__":
    app()
