"""``asr-serve plan``: what it takes and prints."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from serve_app.capacity import rates
from serve_app.capacity.cards import gib
from serve_app.capacity.checking import CannotCheck, check_file
from serve_app.capacity.profile import profile, spelled_gpus
from serve_app.capacity.sizing import enough_gpus, nearest, plan, single_models
from serve_app.capacity.wishes import CannotCount, CannotPlan, Plan, Wish
from serve_app.cli.common import fail
from serve_app.settings import Megabytes

_MIB = 2**20
_MEGABYTES: TypeAdapter[float] = TypeAdapter(Megabytes)
_MOST_GPUS = 64
_MOST = 1_000_000


def make_plan(
    gpu: Annotated[
        list[str] | None,
        typer.Option(help="Memory of a GPU as it is sold, as 24GB; once for each, or with --gpus."),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, max=_MOST_GPUS, help="How many GPUs of this size one machine has.")
    ] = None,
    cpus: Annotated[
        float | None, typer.Option(min=1, help="Cores of the machine; as many as it takes if not given.")
    ] = None,
    streams: Annotated[int, typer.Option(min=0, max=_MOST, help="Live sessions at once.")] = 0,
    files_rtfx: Annotated[
        float,
        typer.Option(min=0, max=_MOST, help="Seconds of recordings to work off in a second, beside them."),
    ] = 0,
    models: Annotated[
        str | None,
        typer.Option(help="Recognizers, separated by commas; the first one carries the load."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the profile here.")] = None,
    check: Annotated[
        Path | None, typer.Option(help="Plan nothing: say whether this config fits such GPUs.")
    ] = None,
) -> None:
    """Plan a config for a load and a machine: the profile goes to stdout, how it came about to stderr."""
    console = Console(stderr=True)
    try:
        wish = Wish(*_cards(gpu or [], gpus), cpus, streams, files_rtfx, _names(models))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if check is not None:
        _check(check, wish)
        return
    try:
        made = plan(wish)
    except CannotCount as error:
        fail(str(error))
    except CannotPlan as error:
        fail("\n".join(filter(None, (str(error), *_instead(wish)))))
    text = profile(made, _command(wish))
    _show(made, console)
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"{output} cannot be written: {error.strerror}.")
    console.print(
        f"Written to {escape(str(output))}. Start it with `asr-serve serve --config {escape(str(output))}`."
    )


def _cards(sizes: list[str], count: int | None) -> tuple[int, int]:
    """Bytes of the smallest GPU, as sold, and how many there are."""
    try:
        sold = [int(_MEGABYTES.validate_python(size) * _MIB) for size in sizes]
    except ValidationError as error:
        raise ValueError(f"--gpu takes a size, such as 24GB, not {' or '.join(sizes)}") from error
    if any(size < 1024 * _MIB for size in sold):
        raise ValueError("--gpu takes the memory of a GPU, such as 24GB; less than 1GB is none")
    if count is not None and len(sold) != 1:
        raise ValueError("--gpus says how many of one size there are: give --gpu once with it")
    # Ray takes all GPUs of a machine for alike.
    return min(sold, default=0), count or len(sold)


def _names(models: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in (models or "").split(",") if name.strip())
    if models is not None and not names:
        raise ValueError("--models takes names, separated by commas")
    return names


def _command(wish: Wish) -> str:
    words = ["asr-serve", "plan"]
    if wish.gpus:
        words += ["--gpu", f"{wish.gpu // _MIB / 1024:g}GB"] + (
            ["--gpus", str(wish.gpus)] if wish.gpus > 1 else []
        )
    words += [] if wish.cores is None else ["--cpus", f"{wish.cores:g}"]
    words += ["--streams", str(wish.streams), "--files-rtfx", f"{wish.files_rtfx:g}"]
    return shlex.join(words + (["--models", ",".join(wish.models)] if wish.models else []))


def _instead(wish: Wish) -> list[str]:
    """Wishes that can be granted."""
    smaller, more = nearest(wish), enough_gpus(wish)
    lines = []
    if smaller is None:
        more_of = "a larger GPU" if wish.gpus else "more cores"
        lines.append(f"Not even without any load does it fit: take {more_of}.")
        lines += [f"Without the other model it fits: {_command(one)}" for one in single_models(wish)]
    else:
        lines.append(f"The nearest that fits: {_command(smaller)}")
    if more is not None:
        lines.append(f"With {more} such GPUs it fits as it is.")
    return lines


def _show(made: Plan, console: Console) -> None:
    cores = "as many cores as it takes" if made.wish.cores is None else f"{made.wish.cores:g} cores"
    console.print(f"For {spelled_gpus(made)}, and {cores}:")
    table = Table()
    for name in ("deployment", "replicas", "cores", "num_gpus", "GB"):
        table.add_column(name, justify="left" if name == "deployment" else "right", no_wrap=True)
    table.add_column("carries")
    for stage in made.stages:
        share = (f"{stage.share:g}", gib(min(stage.share, 1) * made.memory)) if stage.share else ("", "")
        table.add_row(stage.name, str(stage.replicas), f"{stage.cores:g}", *share, stage.carries)
    console.print(table)
    for stage in made.stages:
        if stage.share:
            console.print(f"{stage.name}: {stage.need}", soft_wrap=True)
    gpus = f"Shares of GPUs together: {made.shares:.2f} of {made.wish.gpus}. " if made.wish.gpus else ""
    console.print(
        f"{gpus}Cores at most: {made.cores:g}. Each core and GPU is planned {rates.TARGET_BUSY:g} busy. No "
        "figure of a GPU is ours: what is published was taken with other servers, what is derived is a guess "
        "from that (docs/sizing.md). Measure before you promise.",
        soft_wrap=True,
    )


def _check(path: Path, wish: Wish) -> None:
    if not wish.gpus:
        raise typer.BadParameter(
            "--check needs the GPUs of a machine: --gpu 24GB, and --gpus if there are several"
        )
    try:
        found = check_file(path, wish.gpu, wish.gpus)
    except CannotCheck as error:
        fail(str(error))
    if not found.fits:
        fail(found.text)
    Console(soft_wrap=True).print(found.text, markup=False, highlight=False)
