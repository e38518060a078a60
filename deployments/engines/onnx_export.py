"""Makes an ``-onnx`` directory of a PyTorch model's: graphs, int8 graphs, and the files beside them.

What is particular to a kind of model is an :class:`Exporter`. :data:`_MODULES` says in which module of
``deployments/engines/`` the one for a ``model:`` of a ``config.yaml`` is; that module has them in a mapping
``EXPORTERS``, by the same names. Needs the packages ``onnx`` and ``funasr``.
"""

import importlib
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deployments.engines.base import Pcm
from deployments.engines.model_errors import ModelFilesError
from deployments.engines.model_files import read_config, read_file_names

Form = Literal["torch", "onnx"]

_MODULES = {
    "BiCifParaformer": "onnx_export_paraformer",
    "CAMPPlus": "onnx_export_speaker",
    "CTTransformer": "onnx_export_punctuation",
    "CTTransformerStreaming": "onnx_export_punctuation",
    "FsmnVADStreaming": "onnx_export_vad",
    "Paraformer": "onnx_export_paraformer",
    "ParaformerStreaming": "onnx_export_paraformer",
    "SenseVoiceSmall": "onnx_export_sensevoice",
}
_OPSET = 14
"""As FunASR's own exports, so that every ONNX Runtime that runs those runs ours."""
_WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".onnx", ".torchscript")
_LEFT_OUT = ("training.json", "README.md", "config.json")


@dataclass(frozen=True, slots=True)
class Part:
    """One graph of a model: a module whose ``forward`` takes ``inputs`` and returns a tuple of ``outputs``.

    ``example``: inputs to trace it with. ``axes``: for each input and output, the axes that may have any
    length, and a name for each. ``quantized``: which kinds of nodes become int8; ``keeps``: those that stay
    fp32 all the same, by their names. ``signed``: int8 weights are signed, of 7 bits; else unsigned, of 8.
    """

    stem: str
    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: Sequence[str]
    outputs: Sequence[str]
    axes: Mapping[str, Mapping[int, str]]
    quantized: tuple[str, ...] = ("MatMul",)
    keeps: Callable[[str], bool] = lambda name: False
    signed: bool = False


@dataclass(frozen=True, slots=True)
class Material:
    """What the engines are compared on: recordings, and texts as words."""

    audio: tuple[Pcm, ...] = ()
    texts: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """How far what one engine found is from what another one did, and in words. 0 is not at all."""

    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Exporter:
    """How one kind of model is exported, and how its forms are compared.

    Attributes:
        parts: the graphs of the model in a directory.
        load: ``load(directory, form, threads)`` gives what runs material through the engine of that form (in
            PyTorch in fp32) and returns what it found.
        compare: what PyTorch found, and what another form did.
        limits: the largest tolerable difference of an fp32 graph, and of an int8 one.
        unit: what the speed is counted in: seconds of ``audio``, or ``words`` of text.
    """

    parts: Callable[[Path], Sequence[Part]]
    load: Callable[[Path, Form, int], Callable[[Material], Any]]
    compare: Callable[[Any, Any], Difference]
    limits: tuple[float, float]
    unit: Literal["audio", "words"] = "audio"


def find_exporter(directory: Path) -> Exporter:
    """The exporter of the model in ``directory``.

    Raises:
        ModelFilesError: the directory has no readable ``config.yaml``, or its model cannot be exported.
    """
    names = read_file_names(directory)
    path = directory / names.get("config", "config.yaml")
    kind = str(read_config(path)["model"])
    if kind not in _MODULES:
        remedy = f"only these can be exported: {', '.join(sorted(_MODULES))}"
        raise ModelFilesError(path, f"there is no ONNX export of a {kind}", remedy)
    module = importlib.import_module(f"deployments.engines.{_MODULES[kind]}")
    exporters: Mapping[str, Exporter] = module.EXPORTERS
    return exporters[kind]


@contextmanager
def unfinished_directory(output: Path) -> Iterator[Path]:
    """An empty directory beside ``output`` that takes its place at the end; after an error it is gone.

    Raises:
        ModelFilesError: there is something at ``output`` already.
    """
    if output.exists():
        raise ModelFilesError(output, "is already there", "delete it, or give another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as name:
        directory = Path(name) / "model"
        directory.mkdir()
        yield directory
        directory.rename(output)


def copy_beside(source: Path, target: Path) -> None:
    """Copy what belongs to a model besides its weights: configuration, normalization, vocabulary, ..."""
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix not in _WEIGHTS and path.name not in _LEFT_OUT:
            shutil.copyfile(path, target / path.name)


def write_graph(part: Part, directory: Path) -> Path:
    """Trace ``part`` and write ``<stem>.onnx``, fp32."""
    path = directory / f"{part.stem}.onnx"
    with warnings.catch_warnings(), torch.inference_mode():
        # Of sizes that become constants, and of the exporter that will replace this one.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            part.module.eval(),
            part.example,
            str(path),
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            dynamic_axes={name: dict(axes) for name, axes in part.axes.items()},
            opset_version=_OPSET,
            # FunASR's modules are made for the exporter that traces.
            dynamo=False,
        )
    return path


def quantize_graph(part: Part, path: Path) -> Path:
    """Write ``<stem>_quant.onnx`` beside the graph at ``path``: int8 weights, activations quantized as they
    come, each by its own range.

    One scale for each output of a product, which costs nothing and loses least. Signed weights take half the
    time of unsigned ones on a processor with VNNI instructions; without them, their products overflow if they
    have more than 7 bits.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = path.with_name(f"{part.stem}_quant.onnx")
    names = [node.name for node in onnx.load(str(path), load_external_data=False).graph.node]
    with _quiet():
        quantize_dynamic(
            str(path),
            str(target),
            op_types_to_quantize=list(part.quantized),
            per_channel=True,
            reduce_range=part.signed,
            weight_type=QuantType.QInt8 if part.signed else QuantType.QUInt8,
            nodes_to_exclude=[name for name in names if part.keeps(name)],
        )
    return target


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice to preprocess a graph, which is logged at the root."""
    import logging

    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
