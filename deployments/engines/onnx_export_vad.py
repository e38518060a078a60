"""FSMN-VAD as an ONNX graph, with the inputs and outputs of FunASR's own export and batches of any size."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from deployments.engines.base import Pcm, VadBlock, VadEngine
from deployments.engines.loading import load_funasr_model
from deployments.engines.onnx_export import Difference, Exporter, Form, Material, Part
from deployments.engines.vad_fsmn import FsmnVadEngine
from deployments.engines.vad_onnx import FsmnVadOnnxEngine

Spans = list[tuple[int, int]]
"""Begin and end in milliseconds."""


class _Graph(nn.Module):
    """FunASR's module for export, with the caches side by side with the scores."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        from funasr.models.fsmn_vad_streaming.encoder import FSMNExport

        self.encoder = FSMNExport(encoder)

    def forward(self, speech: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        scores, kept = self.encoder(speech, *caches)
        return (scores, *kept)


def _parts(directory: Path) -> Sequence[Part]:
    model = load_funasr_model(directory)
    conf = model.files.section("encoder_conf")
    layers, past = int(conf["fsmn_layers"]), (int(conf["lorder"]) - 1) * int(conf.get("lstride", 1))
    caches = tuple(torch.zeros(2, int(conf["proj_dim"]), past, 1) for _ in range(layers))
    inputs = ["speech", *(f"in_cache{layer}" for layer in range(layers))]
    outputs = ["logits", *(f"out_cache{layer}" for layer in range(layers))]
    axes = {name: {0: "batch"} for name in (*inputs, *outputs)}
    axes["speech"][1] = axes["logits"][1] = "frames"
    example = torch.randn(2, 30, int(conf["input_dim"]))
    graph = _Graph(model.module.get_submodule("encoder"))
    return [Part("model", graph, (example, *caches), inputs, outputs, axes)]


def _load(directory: Path, form: Form, threads: int) -> Callable[[Material], list[Spans]]:
    engine: VadEngine
    if form == "onnx":
        engine = FsmnVadOnnxEngine(directory, threads=threads)
    else:
        engine = FsmnVadEngine(directory, threads=threads)

    def spans(samples: Pcm) -> Spans:
        (result,) = engine.detect([VadBlock(samples, None, final=True)])
        return [(span.begin_ms, span.end_ms) for span in result.spans]

    return lambda material: [spans(samples) for samples in material.audio]


def _compare(expected: Sequence[Spans], found: Sequence[Spans]) -> Difference:
    """The milliseconds that only one of both calls speech, as a share of those that the first does."""
    differing = speech = 0
    for ours, theirs in zip(expected, found, strict=True):
        own, other = _milliseconds(ours), _milliseconds(theirs)
        differing, speech = differing + len(own ^ other), speech + len(own)
    share = differing / max(1, speech)
    counts = f"{sum(map(len, found))} spans, {sum(map(len, expected))} by PyTorch"
    return Difference(share, f"{share:.2%} of the speech ({counts})")


def _milliseconds(spans: Spans) -> set[int]:
    return {millisecond for begin, end in spans for millisecond in range(begin, end)}


EXPORTERS = {"FsmnVADStreaming": Exporter(_parts, _load, _compare, limits=(0.001, 0.02))}
