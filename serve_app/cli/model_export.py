"""``asr-serve models export``: what it takes and prints."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from deployments.engines.model_errors import ModelFilesError
from deployments.model_store import ModelMissing, find_model
from serve_app.audio.decode import decode_blocks
from serve_app.audio.limits import DecodeLimits
from serve_app.cli.common import fail
from serve_app.errors import AsrError
from serve_app.settings import Settings

if TYPE_CHECKING:
    from deployments.engines.base import Pcm
    from deployments.engines.onnx_export import Material
    from deployments.engines.onnx_parity import Export, FormReport

_SAMPLES = Path("samples")
_BLOCK_SAMPLES = 1 << 20
_UNITS = {"audio": ("x real time", ".0f"), "words": ("words/s", ",.0f")}


def add_commands(app: typer.Typer) -> None:
    """Add the command to ``asr-serve models``."""
    app.command("export")(export)


def export(
    model: Annotated[
        str, typer.Argument(metavar="NAME|DIRECTORY", help="A PyTorch model: its name, id or directory.")
    ],
    quantize: Annotated[
        bool, typer.Option("--quantize", help="Also with int8 weights: model_quant.onnx.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The new directory; <name>-onnx if not given.")
    ] = None,
    check: Annotated[
        list[Path] | None,
        typer.Option(
            "--check",
            exists=True,
            dir_okay=False,
            help="Recordings, or texts (.txt), to compare on. Otherwise samples/*.wav, or generated ones.",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads with which speed is measured.")] = 1,
) -> None:
    """Make ONNX graphs of a PyTorch model of FunASR, and compare them with it.

    Nothing is written if a graph finds something else than PyTorch.
    """
    try:
        source = find_model(model, Settings().modelscope_path)
    except ModelMissing as error:
        fail(str(error))
    # PyTorch and FunASR take seconds to load: after everything that can be refused at once.
    from deployments.engines.onnx_parity import ParityBroken, export_model

    target = output or Path(f"{source.name.removesuffix('-pytorch')}-onnx")
    console = Console(stderr=True)
    try:
        with console.status("reading") as status, _without_warnings():
            material = _material(source, check or [])
            done = export_model(
                source, target, material, quantize=quantize, threads=threads, progress=status.update
            )
    except ParityBroken as error:
        _print(error.reports, error.unit)
        fail(str(error))
    except ModelFilesError as error:
        fail(str(error))
    except ImportError as error:
        fail(f"{error}. The packages for exporting are not installed: pip install 'asr-serve[export]'.")
    _print(done.reports, done.unit)
    _explain(done, target, quantize=quantize)


def _material(source: Path, check: list[Path]) -> "Material":
    from deployments.engines.onnx_material import material_of
    from deployments.engines.onnx_parity import vocabulary
    from deployments.engines.punctuation_text import units

    texts = [units(path.read_text("utf-8").split()) for path in check if path.suffix == ".txt"]
    recordings = [path for path in check if path.suffix != ".txt"]
    if not check:
        recordings = sorted(_SAMPLES.glob("*.wav"))
    return material_of([_read(path) for path in recordings], texts, vocabulary(source))


def _read(path: Path) -> "Pcm":
    try:
        with path.open("rb") as source:
            blocks = decode_blocks(source, block_samples=_BLOCK_SAMPLES, limits=DecodeLimits())
            return np.concatenate([*blocks])
    except AsrError as error:
        fail(f"{path}: {error}")


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _print(reports: "list[FormReport]", unit: str) -> None:
    label, shape = _UNITS[unit]
    table = Table("form", "size", label, "speed", "differs from PyTorch in", box=None, pad_edge=False)
    for column in table.columns[1:4]:
        column.justify = "right"
    for report in reports:
        difference = report.difference.text if report.difference else ""
        speed = f"{report.rate / reports[0].rate:.2f}x"
        table.add_row(
            report.name, f"{report.size / 1e6:.1f} MB", format(report.rate, shape), speed, difference
        )
    Console(soft_wrap=True).print(table)


def _explain(done: "Export", target: Path, *, quantize: bool) -> None:
    if quantize and not done.quantized:
        print("No int8 form was made: this model would be slower with it.")
    print(f"Written to {target}. It is served by its path, or by FUNASR_ENGINE=onnx where both forms are.")
