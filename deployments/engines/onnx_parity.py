"""Exports a model, and compares each of its forms with the one in PyTorch: size, speed, and what it finds."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deployments.engines.base import SAMPLE_RATE
from deployments.engines.model_errors import ModelFilesError
from deployments.engines.model_files import read_file_names, read_tokens
from deployments.engines.onnx_export import (
    Difference,
    Exporter,
    Form,
    Material,
    copy_beside,
    find_exporter,
    quantize_graph,
    unfinished_directory,
    write_graph,
)
from deployments.engines.onnx_files import has_torch

_RUNS = 2
"""The first one warms up; the others are timed, and the fastest counts."""


@dataclass(frozen=True, slots=True)
class FormReport:
    """One form of a model: ``size`` in bytes; ``rate`` in seconds of audio or words a second, on one core if
    nothing else was asked for; how far what it found is from what PyTorch found, and how far it may be.
    """

    name: str
    size: int
    rate: float
    difference: Difference | None
    limit: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether the form finds what PyTorch finds, within the limit."""
        return self.difference is None or self.difference.value <= self.limit


class ParityBroken(Exception):
    """A form finds something else than PyTorch; ``reports`` has all forms up to that one."""

    def __init__(self, reports: list[FormReport], unit: str) -> None:
        form, difference = reports[-1], reports[-1].difference
        problem = f"{form.name} differs from PyTorch in {difference.text if difference else 'nothing'}"
        super().__init__(f"{problem}; the limit is {form.limit:g}. Nothing was written.")
        self.reports, self.unit = reports, unit


@dataclass(frozen=True, slots=True)
class Export:
    """What an export came to; ``quantized``: whether there is an int8 form."""

    reports: list[FormReport]
    unit: str
    quantized: bool


def export_model(
    source: Path,
    output: Path,
    material: Material,
    *,
    quantize: bool,
    threads: int = 1,
    progress: Callable[[str], None] = lambda step: None,
) -> Export:
    """Write the ``-onnx`` directory ``output`` of the PyTorch model in ``source``, after comparing all forms.

    Raises:
        ModelFilesError: ``source`` is not a model that can be exported, or ``output`` exists.
        ParityBroken: a form finds something else than PyTorch. Nothing is written then.
    """
    if not has_torch(source):
        raise ModelFilesError(source, "holds no PyTorch weights", "export the PyTorch model")
    exporter = find_exporter(source)
    with unfinished_directory(output) as directory:
        progress("tracing")
        parts = exporter.parts(source)
        copy_beside(source, directory)
        graphs = [write_graph(part, directory) for part in parts]
        progress("comparing PyTorch")
        meter = _Meter(exporter, material, threads)
        reports = [meter.measure("PyTorch fp32", source, "torch", [_weights(source)])]
        progress("comparing the graph")
        reports.append(meter.measure("ONNX fp32", directory, "onnx", graphs, exporter.limits[0]))
        quantized = quantize and any(part.quantized for part in parts)
        if reports[-1].sound and quantized:
            progress("quantizing")
            # A part that stays as it is has no int8 file: its fp32 one is read.
            smaller = [
                quantize_graph(part, graph) if part.quantized else graph
                for part, graph in zip(parts, graphs, strict=True)
            ]
            progress("comparing the int8 graph")
            reports.append(meter.measure("ONNX int8", directory, "onnx", smaller, exporter.limits[1]))
        if not reports[-1].sound:
            raise ParityBroken(reports, exporter.unit)
    return Export(reports, exporter.unit, quantized)


def vocabulary(source: Path) -> tuple[str, ...]:
    """The tokens of the model in ``source``; none where it has none."""
    path = source / read_file_names(source).get("tokenizer_conf.token_list", "tokens.json")
    return read_tokens(path) if path.is_file() else ()


class _Meter:
    """Runs the same material through one form after the other."""

    def __init__(self, exporter: Exporter, material: Material, threads: int) -> None:
        self._exporter, self._material, self._threads = exporter, material, threads
        words = sum(map(len, material.texts))
        seconds = sum(map(len, material.audio)) / SAMPLE_RATE
        self._amount = seconds if exporter.unit == "audio" else float(words)
        self._expected: object = None

    def measure(
        self, name: str, directory: Path, form: Form, files: list[Path], limit: float = 0.0
    ) -> FormReport:
        """The first form that is measured is what the others are compared with."""
        run = self._exporter.load(directory, form, self._threads)
        found = run(self._material)
        durations = []
        for _ in range(_RUNS):
            begin = time.perf_counter()
            found = run(self._material)
            durations.append(time.perf_counter() - begin)
        difference = None
        if self._expected is None:
            self._expected = found
        else:
            difference = self._exporter.compare(self._expected, found)
        size = sum(file.stat().st_size for file in files)
        return FormReport(name, size, self._amount / min(durations), difference, limit)


def _weights(source: Path) -> Path:
    return source / read_file_names(source).get("init_param", "model.pt")
