"""ONNX directories for tests: the starter models exported, and the published FSMN-VAD with a reference."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import yaml

from deployments.engines.base import Pcm, SpeechSpan, VadBlock, VadEngine, VadOptions
from deployments.engines.onnx_export import copy_beside, find_exporter, quantize_graph, write_graph
from tests.vad_models import DETECTOR, ENCODER, FRONTEND, Spans

ROOT = Path(__file__).parents[1]
STARTER = ROOT / "models" / "starter"


def exported(source: Path, base: Path, *, quantize: bool = False) -> Path:
    """The ``-onnx`` directory of ``source``, made once under ``base``, without comparing anything."""
    directory = base / f"{source.name}-{'int8' if quantize else 'fp32'}"
    if directory.is_dir():
        return directory
    directory.mkdir(parents=True)
    copy_beside(source, directory)
    for part in find_exporter(source).parts(source):
        path = write_graph(part, directory)
        if quantize:
            quantize_graph(part, path)
            path.unlink()
    return directory


def real_fsmn_vad() -> Path | None:
    """Where the published FSMN-VAD and a recording of real speech are: ``REAL_FSMN_VAD``, or beside the
    repository; ``None`` where they are not.
    """
    named = os.environ.get("REAL_FSMN_VAD")
    data = Path(named) if named else ROOT.parent / "shared" / "data" / "real-fsmn-vad"
    return data if (data / "fsmnvad-online.onnx").is_file() else None


def hub_directory(data: Path, graph: str, directory: Path) -> Path:
    """The graph ``graph`` of ``data`` in a directory of the hub's layout, in which it keeps its name."""
    directory.mkdir()
    for name in (graph, "am.mvn"):
        shutil.copyfile(data / name, directory / name)
    sizes = {"input_affine_dim": 140, "fsmn_layers": 4, "linear_dim": 250, "proj_dim": 128}
    config = {
        "frontend": "WavFrontendOnline",
        "frontend_conf": FRONTEND,
        "model": "FsmnVADStreaming",
        "model_conf": DETECTOR,
        "encoder": "FSMN",
        "encoder_conf": {**ENCODER, **sizes, "output_affine_dim": 140, "output_dim": 248},
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    (directory / "configuration.json").write_text(json.dumps({"file_path_metas": {"onnx": graph}}), "utf-8")
    return directory


def spans_of_whole_audio(data: Path, samples: Pcm, options: VadOptions) -> Spans:
    """The published graph run once over a whole recording in plain ONNX Runtime, between FunASR's own
    frontend and its own detector.
    """
    from funasr.frontends.wav_frontend import WavFrontend
    from funasr.models.fsmn_vad_streaming.model import FsmnVADStreaming

    session = onnxruntime.InferenceSession(str(data / "fsmnvad-offline.onnx"))

    class Encoder(torch.nn.Module):
        def forward(self, features: torch.Tensor, cache: Any) -> torch.Tensor:
            return torch.from_numpy(session.run(None, {"speech": features.numpy()})[0])

    model = FsmnVADStreaming(encoder="FSMN", encoder_conf=dict(ENCODER), **DETECTOR)
    model.encoder = Encoder()
    model.vad_opts.max_single_segment_time = options.max_span_ms
    waveform = torch.from_numpy(samples.astype(np.float32) / 32768)[None]
    features, _ = WavFrontend(cmvn_file=str(data / "am.mvn"), **FRONTEND)(waveform, [waveform.shape[1]])
    whole_frames = (features.shape[1] - 1) * 160 + 400
    cache: dict[str, Any] = {}
    model.init_cache(cache, max_end_silence_time=options.max_end_silence_ms)
    (spans,) = model(
        features, waveform[:, :whole_frames], cache=cache, is_final=True, is_streaming_input=False
    )
    return [(begin, end) for begin, end in spans]


def detect(engine: VadEngine, recordings: Sequence[Pcm], packet: int, options: VadOptions) -> list[Spans]:
    """The spans of recordings that arrive side by side in packets of so many samples."""
    found: list[Spans] = [[] for _ in recordings]
    states: list[Any] = [None] * len(recordings)
    for begin in range(0, max(map(len, recordings)) + 1, packet):
        running = [index for index, samples in enumerate(recordings) if begin <= len(samples)]
        blocks = [
            VadBlock(
                recordings[index][begin : begin + packet],
                states[index],
                begin + packet > len(recordings[index]),
                options,
            )
            for index in running
        ]
        for index, result in zip(running, engine.detect(blocks), strict=True):
            found[index] += [milliseconds(span) for span in result.spans]
            states[index] = result.state
    return found


def milliseconds(span: SpeechSpan) -> tuple[int, int]:
    """Begin and end."""
    return span.begin_ms, span.end_ms


def largest_shift(expected: Spans, found: Spans) -> int:
    """By how many milliseconds an edge of a span lies elsewhere, at most; there must be as many spans."""
    assert len(found) == len(expected), (expected, found)
    pairs = zip(expected, found, strict=True)
    return max(max(abs(a - c), abs(b - d)) for (a, b), (c, d) in pairs) if expected else 0


def constructor(deployment: Any) -> Callable[..., Any]:
    """What makes a replica of a deployment, without Ray."""
    made: Callable[..., Any] = deployment.func_or_class
    return made
