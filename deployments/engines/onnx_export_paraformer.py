"""ONNX graphs of Paraformers, with the inputs and outputs of FunASR's own exports where it has any."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deployments.engines.base import (
    AsrEngine,
    Pcm,
    StreamChunk,
    StreamingAsrEngine,
    StreamOptions,
    StreamState,
)
from deployments.engines.loading import FunAsrModel, load_funasr_model
from deployments.engines.onnx_export import Exporter, Form, Material, Part
from deployments.engines.onnx_export_paraformer_predictor import (
    FineTimes,
    count_to,
    integrate,
    weigh,
    with_tail,
)
from deployments.engines.onnx_export_paraformer_streaming import StreamDecoderGraph, StreamEncoderGraph
from deployments.engines.onnx_words import compare_words
from deployments.engines.paraformer_onnx import INPUTS, OUTPUTS, ParaformerOnnxEngine
from deployments.engines.paraformer_streaming import ParaformerStreamingEngine
from deployments.engines.paraformer_streaming_onnx import ParaformerStreamingOnnxEngine
from deployments.engines.paraformer_torch import ParaformerTorchEngine

_AXES = {
    "speech": {0: "batch_size", 1: "feats_length"},
    "speech_lengths": {0: "batch_size"},
    "logits": {0: "batch_size", 1: "logits_length"},
    "token_num": {0: "batch_size"},
    "alphas": {0: "batch_size", 1: "alphas_length"},
    "us_alphas": {0: "batch_size", 1: "alphas_length"},
    "us_cif_peak": {0: "batch_size", 1: "alphas_length"},
}


class OfflineGraph(nn.Module):
    """``speech``, ``speech_lengths`` to ``logits``, ``token_num`` and, for times, what the predictor gives.

    That is ``alphas``, the weight of each frame and of the tail, or, for a ``BiCifParaformer``, ``us_alphas``
    and ``us_cif_peak`` as in FunASR's graph. ``logits`` are log-probabilities of the tokens that fired, at
    least one row of them; ``token_num`` is how many are meant.
    """

    def __init__(self, model: FunAsrModel) -> None:
        super().__init__()
        from funasr.register import tables

        network: Any = model.module
        config, size = model.files.config, int(network.encoder.encoders0[0].in_size)
        self.encoder = tables.encoder_classes[f"{config['encoder']}Export"](network.encoder, onnx=True)
        self.decoder = tables.decoder_classes[f"{config['decoder']}Export"](network.decoder, onnx=True)
        self.predictor: Any = network.predictor
        self.times = FineTimes(self.predictor) if config["predictor"] == "CifPredictorV3" else None
        self.example = torch.randn(2, 30, size), torch.tensor([20, 30], dtype=torch.int32)
        self.outputs = (*OUTPUTS, *(("us_alphas", "us_cif_peak") if self.times else ("alphas",)))

    def forward(self, speech: Tensor, speech_lengths: Tensor) -> tuple[Tensor, ...]:
        encoded, _ = self.encoder(speech, speech_lengths)
        mask = (count_to(encoded.shape[1]) < speech_lengths[:, None]).float()
        hidden, alphas = weigh(self.predictor, encoded)
        weights = with_tail(alphas * mask, speech_lengths, float(self.predictor.tail_threshold))
        embeddings, count = integrate(weights, encoded)
        token_num = count.to(torch.int32)
        logits, _ = self.decoder(encoded, speech_lengths, embeddings, token_num.clamp(min=1))
        log_probs = torch.log_softmax(logits, -1)
        if self.times is None:
            return log_probs, token_num, weights
        return log_probs, token_num, *self.times(encoded, hidden, mask, count)


def _offline_parts(directory: Path) -> list[Part]:
    graph = OfflineGraph(load_funasr_model(directory))
    axes = {name: _AXES[name] for name in (*INPUTS, *graph.outputs)}
    return [
        Part("model", graph, graph.example, INPUTS, graph.outputs, axes, keeps=_keeps, signed=True),
    ]


def _streaming_parts(directory: Path) -> list[Part]:
    # FunASR's modules for export change the network they are made of, so each graph has its own.
    graphs: dict[str, StreamEncoderGraph | StreamDecoderGraph] = {
        "model": StreamEncoderGraph(load_funasr_model(directory)),
        "decoder": StreamDecoderGraph(load_funasr_model(directory)),
    }
    return [
        Part(stem, graph, graph.example, graph.inputs, graph.outputs, graph.axes, keeps=_keeps, signed=True)
        for stem, graph in graphs.items()
    ]


def _keeps(node: str) -> bool:
    """The last layers, as in FunASR's quantization: a fire or a token is decided there."""
    return "output" in node


def _load_offline(directory: Path, form: Form, threads: int) -> Callable[[Material], list[list[str]]]:
    engine: AsrEngine
    if form == "torch":
        engine = ParaformerTorchEngine(directory, threads=threads, precision="fp32")
    else:
        engine = ParaformerOnnxEngine(directory, threads=threads)
    return lambda material: [
        [word.text for word in found.words] for found in engine.transcribe(material.audio)
    ]


def _load_streaming(directory: Path, form: Form, threads: int) -> Callable[[Material], list[list[str]]]:
    engine: StreamingAsrEngine
    if form == "torch":
        engine = ParaformerStreamingEngine(directory, threads=threads, precision="fp32")
    else:
        engine = ParaformerStreamingOnnxEngine(directory, threads=threads)
    return lambda material: list(stream_texts(engine, material.audio))


def stream_texts(
    engine: StreamingAsrEngine, recordings: Sequence[Pcm], options: StreamOptions | None = None
) -> list[list[str]]:
    """The tokens of each recording, all of them live at once, chunk by chunk."""
    options = options or StreamOptions()
    stride = options.chunk_size[1] * 960
    texts: list[list[str]] = [[] for _ in recordings]
    states: list[StreamState | None] = [None] * len(recordings)
    for begin in range(0, max(map(len, recordings), default=0), stride):
        heard = [index for index, samples in enumerate(recordings) if begin < len(samples)]
        chunks = [
            StreamChunk(
                recordings[index][begin : begin + stride],
                states[index],
                begin + stride >= len(recordings[index]),
                options,
            )
            for index in heard
        ]
        for index, result in zip(heard, engine.step(chunks), strict=True):
            texts[index] += [token.text for token in result.tokens]
            states[index] = result.state
    return texts


_OFFLINE = Exporter(_offline_parts, _load_offline, compare_words, limits=(0.002, 0.05))
EXPORTERS = {
    "Paraformer": _OFFLINE,
    "BiCifParaformer": _OFFLINE,
    "ParaformerStreaming": Exporter(_streaming_parts, _load_streaming, compare_words, limits=(0.002, 0.05)),
}
