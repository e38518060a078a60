"""``asr-serve models``: which models there are, which of them are on this machine, and what a server has."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deployments.catalogue import Catalogue, CatalogueError, ModelEntry, Task, load_catalogue
from deployments.model_store import present
from serve_app.cli.client import AsrClient
from serve_app.cli.common import ApiKey, fail, run_command
from serve_app.cli.model_table import markdown, short_languages, size
from serve_app.settings import Settings

models_app = typer.Typer(
    no_args_is_help=True, help="The models: which there are, which of them are here or on a server."
)

ModelsFile = Annotated[
    Path | None,
    typer.Option("--models-file", help="Your own entries, besides those delivered.", envvar="MODELS_FILE"),
]


def catalogue_of(models_file: Path | None) -> Catalogue:
    """The catalogue that a command works with; a broken one ends the command."""
    try:
        return load_catalogue(models_file)
    except CatalogueError as error:
        fail(str(error))


@models_app.command("list")
def list_models(
    url: Annotated[
        str | None, typer.Option(help="A server: list what it has loaded.", envvar="ASR_SERVE_URL")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="With --url: the rest of the catalogue too.")
    ] = False,
    task: Annotated[Task | None, typer.Option(help="Only models for this.")] = None,
    here: Annotated[bool, typer.Option("--here", help="Only models that are on this machine.")] = False,
    models_file: ModelsFile = None,
    api_key: ApiKey = None,
) -> None:
    """List the models that there are, and where on this machine; with --url those of a running server.

    Without a terminal, with tabs between the columns.
    """
    catalogue = catalogue_of(models_file)
    loaded = None if url is None else run_command(_served(url, api_key))
    if loaded is not None and not everything:
        _print_served(loaded)
        return
    rows = []
    for entry in catalogue if task is None else catalogue.of_task(task):
        place = present(entry, Settings().modelscope_path)
        if place is not None or not here:
            rows.append(_row(entry, place))
    _print_rows(rows if loaded is None else _marked(rows, catalogue, loaded))


@models_app.command()
def show(
    name: Annotated[str, typer.Argument(help="Its name, an alias, or its id on a hub.")],
    models_file: ModelsFile = None,
) -> None:
    """Show all that is known of one model."""
    entry = catalogue_of(models_file).find(name)
    if entry is None:
        fail(f"There is no model {name!r:.80} in the catalogue. `asr-serve models list` shows all of them.")
    place = present(entry, Settings().modelscope_path)
    table = Table(box=None, pad_edge=False, show_header=False)
    for label, value in _details(entry, place):
        if value:
            table.add_row(label, Text(value))
    Console().print(table)


@models_app.command()
def table(models_file: ModelsFile = None) -> None:
    """Print the table of docs/models.md."""
    print(markdown(catalogue_of(models_file)), end="")


async def _served(url: str, api_key: str | None) -> list[dict[str, Any]]:
    async with AsrClient(url, api_key) as client:
        return await client.models()


def _print_served(models: Sequence[dict[str, Any]]) -> None:
    table = Table("model", "owned by", box=None, pad_edge=False)
    for model in models:
        table.add_row(str(model["id"]), str(model.get("owned_by", "")))
    Console().print(table)


def _row(entry: ModelEntry, place: Path | None) -> list[str]:
    return [
        entry.name,
        entry.task,
        short_languages(entry),
        size(entry),
        ", ".join(entry.backends),
        "no engine" if entry.planned else _shown(place),
    ]


def _marked(
    rows: Sequence[list[str]], catalogue: Catalogue, loaded: Sequence[dict[str, Any]]
) -> list[list[str]]:
    """``rows`` with what a server has loaded; models of it that the catalogue does not know come first."""
    found = {str(model["id"]): catalogue.find(str(model["id"])) for model in loaded}
    names = {entry.name for entry in found.values() if entry is not None}
    unknown = [[name, *[""] * 5, "loaded"] for name, entry in found.items() if entry is None]
    return unknown + [[*row, "loaded" if row[0] in names else ""] for row in rows]


def _print_rows(rows: Sequence[list[str]]) -> None:
    if not sys.stdout.isatty():
        for row in rows:
            print(*row, sep="\t")
        return
    columns = ("model", "task", "languages", "size", "runs on", "here", "")
    table = Table(box=None, pad_edge=False)
    for column in columns[: max(map(len, rows), default=1)]:
        table.add_column(column, no_wrap=column in ("model", "size"))
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _shown(place: Path | None) -> str:
    if place is None:
        return "-"
    home, working = Path.home(), Path.cwd()
    if place.is_relative_to(working):
        return str(place.relative_to(working))
    return f"~/{place.relative_to(home)}" if place.is_relative_to(home) else str(place)


def _details(entry: ModelEntry, place: Path | None) -> list[tuple[str, str]]:
    return [
        ("model", entry.name),
        ("title", entry.title),
        ("also called", ", ".join(entry.aliases)),
        ("task", entry.task),
        ("languages", ", ".join(entry.languages)),
        ("sample rate", f"{entry.sample_rate} Hz" if entry.sample_rate else ""),
        ("parameters", entry.parameters or ""),
        ("size", size(entry)),
        ("license", entry.license),
        ("ModelScope", ", ".join(entry.modelscope)),
        ("Hugging Face", ", ".join(entry.huggingface)),
        ("ONNX", ", ".join(entry.onnx)),
        ("runs on", ", ".join(entry.backends)),
        ("needs", ", ".join(entry.needs)),
        ("gives", ", ".join(entry.gives)),
        ("not usable", entry.planned or ""),
        ("here", "" if place is None else str(place)),
    ]
