"""An ONNX graph of SenseVoiceSmall, with the inputs and outputs of FunASR's own export.

``speech`` and ``speech_lengths`` are features; ``language`` and ``textnorm`` are numbers of queries, one for
each segment (:func:`deployments.engines.sensevoice_text.query_numbers`). ``ctc_logits`` begins with the rows
of the four queries, which ``encoder_out_lens`` counts, too.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deployments.engines.base import AsrEngine
from deployments.engines.loading import FunAsrModel, load_funasr_model
from deployments.engines.onnx_export import Exporter, Form, Material, Part
from deployments.engines.onnx_words import compare_words
from deployments.engines.sensevoice_files import MODEL
from deployments.engines.sensevoice_onnx import INPUTS, OUTPUTS, SenseVoiceOnnxEngine
from deployments.engines.sensevoice_text import EVENT_AND_EMOTION, QUERIES
from deployments.engines.sensevoice_torch import SenseVoiceTorchEngine

_AXES = {
    "speech": {0: "batch_size", 1: "feats_length"},
    "speech_lengths": {0: "batch_size"},
    "language": {0: "batch_size"},
    "textnorm": {0: "batch_size"},
    "ctc_logits": {0: "batch_size", 1: "logits_length"},
    "encoder_out_lens": {0: "batch_size"},
}


class SenseVoiceGraph(nn.Module):
    """FunASR's encoder and head between the queries and the scores."""

    def __init__(self, model: FunAsrModel) -> None:
        super().__init__()
        network: Any = model.module
        self.embed: nn.Embedding = network.embed
        self.encoder: nn.Module = network.encoder
        self.head: nn.Linear = network.ctc.ctc_lo
        size = self.embed.embedding_dim
        self.example = (
            torch.randn(2, 30, size),
            torch.tensor([20, 30], dtype=torch.int32),
            torch.tensor([0, 3], dtype=torch.int32),
            torch.tensor([15, 14], dtype=torch.int32),
        )

    def forward(
        self, speech: Tensor, speech_lengths: Tensor, language: Tensor, textnorm: Tensor
    ) -> tuple[Tensor, Tensor]:
        between = torch.tensor(EVENT_AND_EMOTION).expand(speech.shape[0], -1)
        numbers = torch.cat((language.long()[:, None], between, textnorm.long()[:, None]), dim=1)
        rows = torch.cat((self.embed(numbers), speech), dim=1)
        encoded, lengths = self.encoder(rows, speech_lengths + QUERIES)
        return self.head(encoded), lengths


def _parts(directory: Path) -> list[Part]:
    graph = SenseVoiceGraph(load_funasr_model(directory))
    return [Part("model", graph, graph.example, INPUTS, OUTPUTS, _AXES)]


def _load(directory: Path, form: Form, threads: int) -> Callable[[Material], list[list[str]]]:
    engine: AsrEngine
    if form == "torch":
        engine = SenseVoiceTorchEngine(directory, threads=threads, precision="fp32")
    else:
        engine = SenseVoiceOnnxEngine(directory, threads=threads)
    return lambda material: [
        [word.text + word.mark for word in found.words] for found in engine.transcribe(material.audio)
    ]


EXPORTERS = {MODEL: Exporter(_parts, _load, compare_words, limits=(0.002, 0.05))}
