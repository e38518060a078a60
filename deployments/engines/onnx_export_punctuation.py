"""CT-Transformers as ONNX graphs, with the inputs and outputs of FunASR's own exports."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deployments.engines.base import PunctuationBlock
from deployments.engines.loading import load_funasr_model
from deployments.engines.onnx_export import Difference, Exporter, Form, Material, Part
from deployments.engines.punctuation_ct import CtPunctuationEngine
from deployments.engines.punctuation_onnx import CtPunctuationOnnxEngine
from deployments.engines.punctuation_realtime import CtRealtimePunctuationEngine
from deployments.engines.punctuation_realtime_onnx import CtRealtimePunctuationOnnxEngine

_BLOCK = 12
"""Words of a block of live text: about what is said between two pauses."""

Marks = list[list[str]]


def _parts(directory: Path) -> Sequence[Part]:
    model = load_funasr_model(directory)
    # FunASR's modules say all about their graph, but that its first axis, too, may have any length.
    graph: Any = model.module
    graph = graph.export(encoder=model.files.config["encoder"], type="onnx")
    inputs, outputs = graph.export_input_names(), graph.export_output_names()
    axes = {name: {0: "batch_size", **graph.export_dynamic_axes().get(name, {})} for name in inputs + outputs}
    return [Part("model", graph, graph.export_dummy_inputs(), inputs, outputs, axes, signed=True)]


def _load(directory: Path, form: Form, threads: int) -> Callable[[Material], Marks]:
    kind = CtPunctuationOnnxEngine if form == "onnx" else CtPunctuationEngine
    engine = kind(directory, threads=threads)
    return lambda material: engine.punctuate(material.texts)


def _load_realtime(directory: Path, form: Form, threads: int) -> Callable[[Material], Marks]:
    kind = CtRealtimePunctuationOnnxEngine if form == "onnx" else CtRealtimePunctuationEngine
    engine = kind(directory, threads=threads)

    def marks(words: Sequence[str]) -> list[str]:
        found: list[str] = []
        context: tuple[str, ...] = ()
        for begin in range(0, len(words), _BLOCK):
            (block,) = engine.punctuate([PunctuationBlock(tuple(words[begin : begin + _BLOCK]), context)])
            found, context = [*found, *block.marks], block.context
        return found

    return lambda material: [marks(words) for words in material.texts]


def _compare(expected: Marks, found: Marks) -> Difference:
    """The share of the words that one of both gives another mark."""
    words = sum(map(len, expected))
    pairs = zip(expected, found, strict=True)
    differing = sum(own != other for ours, theirs in pairs for own, other in zip(ours, theirs, strict=True))
    share = differing / max(1, words)
    return Difference(share, f"{share:.2%} of the marks ({differing} of {words})")


EXPORTERS = {
    "CTTransformer": Exporter(_parts, _load, _compare, limits=(0.001, 0.02), unit="words"),
    "CTTransformerStreaming": Exporter(_parts, _load_realtime, _compare, limits=(0.001, 0.02), unit="words"),
}
