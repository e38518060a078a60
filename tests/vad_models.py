"""Voice-activity models for tests (small random ones, the published one) and what FunASR makes of them."""

import contextlib
import importlib
import io
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from deployments.engines.base import SAMPLE_RATE, Pcm, VadOptions

ENCODER: dict[str, Any] = {
    "input_dim": 400,
    "input_affine_dim": 20,
    "fsmn_layers": 3,
    "linear_dim": 30,
    "proj_dim": 16,
    "lorder": 20,
    "rorder": 0,
    "lstride": 1,
    "rstride": 0,
    "output_affine_dim": 20,
    "output_dim": 5,
    "use_softmax": True,
}
FRONTEND: dict[str, Any] = {
    "fs": SAMPLE_RATE,
    "window": "hamming",
    "n_mels": 80,
    "frame_length": 25,
    "frame_shift": 10,
    "dither": 0.0,
    "lfr_m": 5,
    "lfr_n": 1,
}
# The detector's settings in the configuration of iic/speech_fsmn_vad_zh-cn-16k-common-pytorch.
DETECTOR: dict[str, Any] = {
    "sample_rate": SAMPLE_RATE,
    "detect_mode": 1,
    "snr_mode": 0,
    "max_end_silence_time": 800,
    "max_start_silence_time": 3000,
    "do_start_point_detection": True,
    "do_end_point_detection": True,
    "window_size_ms": 200,
    "sil_to_speech_time_thres": 150,
    "speech_to_sil_time_thres": 150,
    "speech_2_noise_ratio": 1.0,
    "do_extend": 1,
    "lookback_time_start_point": 200,
    "lookahead_time_end_point": 100,
    "max_single_segment_time": 60000,
    "snr_thres": -100.0,
    "noise_frame_num_used_for_snr": 100,
    "decibel_thres": -100.0,
    "speech_noise_thres": 0.6,
    "fe_prior_thres": 0.0001,
    "silence_pdf_num": 1,
    "sil_pdf_ids": [0],
    "speech_noise_thresh_low": -0.1,
    "speech_noise_thresh_high": 0.3,
    "output_frame_probs": False,
    "frame_in_ms": 10,
    "frame_length_ms": 25,
}

Spans = list[tuple[int, int]]
Reference = Callable[[Pcm, VadOptions], Spans]


def bursts(seed: int, seconds: float) -> Pcm:
    """Bursts of colored noise and tones of all lengths and levels, with noise floors and digital silence."""
    rng = np.random.default_rng(seed)
    pieces: list[np.ndarray[Any, np.dtype[np.float64]]] = []
    total = int(seconds * SAMPLE_RATE)
    while not pieces or sum(map(len, pieces)) < total:
        length = int(rng.choice([0.05, 0.2, 0.5, 1.2, 3.0]) * rng.uniform(0.3, 1.7) * SAMPLE_RATE)
        noise = np.convolve(rng.standard_normal(length + 7), rng.standard_normal(8), "valid")
        tone = np.sin(np.arange(length) * rng.uniform(0.02, 1.5)) * 3
        level = rng.choice([0.0, 3.0, 30.0, 300.0, 3000.0, 30000.0], p=[0.1, 0.15, 0.2, 0.2, 0.25, 0.1])
        pieces.append(level * (noise if rng.random() < 0.7 else tone) * rng.uniform(0.3, 1))
    return np.clip(np.concatenate(pieces)[:total], -32768, 32767).astype(np.int16)


def write_model(
    model_dir: Path,
    *,
    encoder: Mapping[str, Any] = ENCODER,
    reach: float = 6.0,
    seed: int = 1,
    rate: int = SAMPLE_RATE,
    **detector: Any,
) -> Path:
    """An FsmnVADStreaming with random weights that calls about half of :func:`bursts` speech.

    ``reach`` is how far the log odds go to either side: those of 17 and more are posteriors of exactly 1,
    in which FunASR fails ("math domain error"). ``rate``: samples per second of what the model hears.
    """
    from funasr.frontends.wav_frontend import WavFrontend
    from funasr.models.fsmn_vad_streaming.model import FsmnVADStreaming

    model_dir.mkdir(parents=True, exist_ok=True)
    cmvn = [np.full(400, -9.0), np.full(400, 0.25)]
    rows = [f"<LearnRateCoef> 0 [ {' '.join(map(str, row))} ]" for row in cmvn]
    lines = ["<Nnet>", "<AddShift> 400 400", rows[0], "<Rescale> 400 400", rows[1], "</Nnet>"]
    (model_dir / "am.mvn").write_text("\n".join(lines), "utf-8")
    torch.manual_seed(seed)
    settings = {**DETECTOR, "sample_rate": rate, **detector}
    conf = {**FRONTEND, "fs": rate}
    model = FsmnVADStreaming(encoder="FSMN", encoder_conf=dict(encoder), **settings)
    samples = torch.from_numpy(bursts(99, 60)[:: SAMPLE_RATE // rate].astype(np.float32) / 32768)
    with torch.inference_mode():
        frontend = WavFrontend(cmvn_file=str(model_dir / "am.mvn"), **conf)
        features, _ = frontend(samples[None], [len(samples)])
        _calibrate(model.encoder, features[0], settings["sil_pdf_ids"], reach)
    torch.save(model.state_dict(), model_dir / "model.pt")
    config = {
        "frontend": "WavFrontendOnline",
        "frontend_conf": conf,
        "model": "FsmnVADStreaming",
        "model_conf": settings,
        "encoder": "FSMN",
        "encoder_conf": dict(encoder),
    }
    (model_dir / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return model_dir


def _calibrate(encoder: Any, features: torch.Tensor, silent: list[int], reach: float) -> None:
    """Give silence log odds of about -1.4 +- ``reach``, higher where it is quiet, by the output layer."""
    encoder.use_softmax = False
    last = encoder.out_linear2.linear

    def log_odds() -> torch.Tensor:
        logits: torch.Tensor = encoder(features[None], {})[0]
        others = [output for output in range(logits.shape[1]) if output not in silent]
        return logits[:, silent].logsumexp(1) - logits[:, others].logsumexp(1)

    loudness = features.mean(1)
    if torch.corrcoef(torch.stack([log_odds(), loudness]))[0, 1] > 0:
        last.weight.neg_()
    last.bias[silent] -= log_odds().median()
    factor = reach / log_odds().abs().max()
    last.weight *= factor
    last.bias *= factor
    last.bias[silent] -= log_odds().median() + 1.4


def funasr_reference(model_dir: Path) -> Reference:
    """FunASR's own spans of a whole recording."""
    from funasr import AutoModel

    with contextlib.redirect_stdout(io.StringIO()):
        model = AutoModel(model=str(model_dir), disable_update=True, disable_pbar=True, ncpu=1)

    def detect(samples: Pcm, options: VadOptions) -> Spans:
        model.model.vad_opts.max_single_segment_time = options.max_span_ms
        (result,) = model.generate(
            input=samples.astype(np.float32) / 32768,
            fs=SAMPLE_RATE,
            max_end_silence_time=options.max_end_silence_ms,
            disable_pbar=True,
        )
        return [(begin, end) for begin, end in result["value"]]

    return detect


def published_model(data: Path, model_dir: Path) -> Path:
    """The published model's directory, made from its ``fsmnvad-offline.onnx`` and ``am.mvn`` in ``data``."""
    onnx, numpy_helper = importlib.import_module("onnx"), importlib.import_module("onnx.numpy_helper")
    graph = onnx.load(str(data / "fsmnvad-offline.onnx")).graph
    weights = {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in graph.initializer}
    products = [
        weights[name]
        for node in graph.node
        if node.op_type == "MatMul"
        for name in node.input
        if name in weights
    ]
    blocks = [f"fsmn.{index}.{part}" for index in range(4) for part in ("linear", "affine")]
    layers = ["in_linear1", "in_linear2", *blocks, "out_linear1", "out_linear2"]
    state = {name: value for name, value in weights.items() if name.startswith("encoder.")}
    for layer, product in zip(layers, products, strict=True):
        state[f"encoder.{layer}.linear.weight"] = product.t().contiguous()
    torch.save(state, model_dir / "model.pt")
    shutil.copyfile(data / "am.mvn", model_dir / "am.mvn")
    sizes = {"input_affine_dim": 140, "fsmn_layers": 4, "linear_dim": 250, "proj_dim": 128}
    config = {
        "frontend": "WavFrontendOnline",
        "frontend_conf": FRONTEND,
        "model": "FsmnVADStreaming",
        "model_conf": DETECTOR,
        "encoder": "FSMN",
        "encoder_conf": {**ENCODER, **sizes, "output_affine_dim": 140, "output_dim": 248},
    }
    (model_dir / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return model_dir
