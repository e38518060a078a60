"""CAM++ as an ONNX graph of our own format, as there is no official one; see ``speaker_onnx``."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from deployments.engines.base import SAMPLE_RATE, Embeddings, SpeakerEngine, Stretch
from deployments.engines.loading import load_funasr_model
from deployments.engines.onnx_export import Difference, Exporter, Form, Material, Part
from deployments.engines.speaker_onnx import SpeakerOnnxEngine
from deployments.engines.speaker_torch import SpeakerTorchEngine

_WINDOW, _STEP = 3 * SAMPLE_RATE // 2, 3 * SAMPLE_RATE // 4
"""Samples of the windows that a diarizer cuts, and from one to the next."""


class _Graph(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> tuple[Tensor]:
        return (self.model(features),)


def _parts(directory: Path) -> Sequence[Part]:
    model = load_funasr_model(directory, needs_cmvn=False)
    bands = int(model.files.section("model_conf").get("feat_dim", 80))
    axes = {"features": {0: "windows", 1: "frames"}, "embedding": {0: "windows"}}
    example = torch.randn(2, 250, bands)
    # Convolutions with int8 activations are slower in ONNX Runtime than in fp32, and hardly a matrix product
    # is none: what would be gained is the size of the file.
    return [Part("model", _Graph(model.module), (example,), ["features"], ["embedding"], axes, quantized=())]


def _load(directory: Path, form: Form, threads: int) -> Callable[[Material], Embeddings]:
    engine: SpeakerEngine
    if form == "onnx":
        engine = SpeakerOnnxEngine(directory, threads=threads)
    else:
        engine = SpeakerTorchEngine(directory, threads=threads, precision="fp32")

    def embed(material: Material) -> Embeddings:
        stretches = []
        for samples in material.audio:
            begins = range(0, max(1, len(samples) - _WINDOW + 1), _STEP)
            windows = tuple((begin, min(begin + _WINDOW, len(samples))) for begin in begins)
            stretches.append(Stretch(samples, windows))
        return np.concatenate(engine.embed_stretches(stretches))

    return embed


def _compare(expected: Embeddings, found: Embeddings) -> Difference:
    """How far from 1 the similarity is of what both make of one window, at most."""
    least = float((expected * found).sum(axis=1).min())
    return Difference(1 - least, f"similarity {least:.6f} at least, over {len(found)} windows")


EXPORTERS = {"CAMPPlus": Exporter(_parts, _load, _compare, limits=(1e-4, 0.01))}
