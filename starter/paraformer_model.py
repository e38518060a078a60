"""The recognizer's shape, as FunASR's own classes, and its directory in the layout that ModelScope uses."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import funasr.models.paraformer.decoder
import funasr.models.sanm.encoder  # noqa: F401  registers SANMEncoder by name
import numpy as np
import torch
import yaml
from funasr.models.paraformer.model import Paraformer
from numpy.typing import NDArray

from starter.paraformer_data import TOKENS

LFR_STACKED, LFR_STRIDE = 7, 6
FRAME_SECONDS = 0.06
"""One encoder frame: six 10 ms filter-bank frames (low frame rate)."""
FEATURE_SIZE = 80 * LFR_STACKED

_DROPOUT = 0.1
WIDTH = 192
ENCODER_BLOCKS, DECODER_BLOCKS = 5, 2

ARCHITECTURE: dict[str, Any] = {
    "model": "Paraformer",
    "model_conf": {
        "ctc_weight": 0.0,
        "lsm_weight": 0.1,
        "length_normalized_loss": True,
        "predictor_weight": 1.0,
        "predictor_bias": 1,
        "sampling_ratio": 0.5,
    },
    "encoder": "SANMEncoder",
    "encoder_conf": {
        "output_size": WIDTH,
        "attention_heads": 4,
        "linear_units": 4 * WIDTH,
        "num_blocks": ENCODER_BLOCKS,
        "dropout_rate": _DROPOUT,
        "positional_dropout_rate": _DROPOUT,
        "attention_dropout_rate": 0.0,
        "input_layer": "pe",
        "pos_enc_class": "SinusoidalPositionEncoder",
        "normalize_before": True,
        "kernel_size": 11,
        "sanm_shfit": 0,
        "selfattention_layer_type": "sanm",
    },
    "decoder": "ParaformerSANMDecoder",
    "decoder_conf": {
        "attention_heads": 4,
        "linear_units": 4 * WIDTH,
        "num_blocks": DECODER_BLOCKS,
        "dropout_rate": _DROPOUT,
        "positional_dropout_rate": _DROPOUT,
        "self_attention_dropout_rate": 0.0,
        "src_attention_dropout_rate": 0.0,
        "att_layer_num": DECODER_BLOCKS,
        "kernel_size": 11,
        "sanm_shfit": 0,
    },
    "predictor": "CifPredictorV2",
    "predictor_conf": {
        "idim": WIDTH,
        "threshold": 1.0,
        "l_order": 1,
        "r_order": 1,
        "tail_threshold": 0.45,
    },
    "frontend": "WavFrontend",
    "frontend_conf": {
        "fs": 16000,
        "window": "hamming",
        "n_mels": 80,
        "frame_length": 25,
        "frame_shift": 10,
        "lfr_m": LFR_STACKED,
        "lfr_n": LFR_STRIDE,
        # With dither the same audio may give another text the next time.
        "dither": 0.0,
    },
    "tokenizer": "CharTokenizer",
    "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": False},
}

_FILES = {
    "framework": "pytorch",
    "task": "auto-speech-recognition",
    "model": {"type": "funasr"},
    "file_path_metas": {
        "init_param": "model.pt",
        "config": "config.yaml",
        "tokenizer_conf": {"token_list": "tokens.json"},
        "frontend_conf": {"cmvn_file": "am.mvn"},
    },
}


def build(ctc_weight: float) -> Paraformer:
    """The untrained model; a CTC head exists only where `ctc_weight` > 0 and is used in training alone."""
    parts = {key: value for key, value in ARCHITECTURE.items() if not key.startswith(("front", "token"))}
    del parts["model"]
    settings = {**parts.pop("model_conf"), "ctc_weight": ctc_weight}
    return Paraformer(input_size=FEATURE_SIZE, vocab_size=len(TOKENS), **parts, **settings)


def stack_frames(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Low frame rate, as FunASR's WavFrontend does it: [n, 80] at 10 ms -> [ceil(n / 6), 560] at 60 ms."""
    count = -(-len(features) // LFR_STRIDE)
    left = (LFR_STACKED - 1) // 2
    index = np.arange(count)[:, None] * LFR_STRIDE + np.arange(LFR_STACKED) - left
    stacked: NDArray[np.float32] = features[index.clip(0, len(features) - 1)].reshape(count, FEATURE_SIZE)
    return stacked


def write_cmvn(path: Path, mean: NDArray[np.float32], deviation: NDArray[np.float32]) -> None:
    """Kaldi's text form of a global mean and variance normalization: a shift, then a scale, 560 values
    each.
    """

    def row(values: NDArray[np.float32]) -> str:
        return "<LearnRateCoef> 0 [ " + " ".join(f"{value:.6f}" for value in values) + " ]"

    lines = ["<Nnet>", f"<Splice> {FEATURE_SIZE} {FEATURE_SIZE}", "[ 0 ]"]
    lines += [f"<AddShift> {FEATURE_SIZE} {FEATURE_SIZE}", row(-mean)]
    lines += [f"<Rescale> {FEATURE_SIZE} {FEATURE_SIZE}", row(np.float32(1) / deviation), "</Nnet>"]
    path.write_text("\n".join(lines) + "\n", "ascii")


def export(
    directory: Path,
    weights: dict[str, torch.Tensor],
    mean: NDArray[np.float32],
    deviation: NDArray[np.float32],
    architecture: dict[str, Any] = ARCHITECTURE,
) -> None:
    """Write a model directory that `funasr.AutoModel` loads, replacing each file at once.

    weights: the model's state dict; it is stored in fp16 and without the CTC head. architecture: the
    contents of config.yaml.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=directory.parent, prefix=".export-") as name:
        staging = Path(name)
        kept = {key: value.half() for key, value in weights.items() if not key.startswith("ctc.")}
        torch.save(kept, staging / "model.pt")
        (staging / "tokens.json").write_text(json.dumps(TOKENS, ensure_ascii=False, indent=0) + "\n", "utf-8")
        write_cmvn(staging / "am.mvn", mean, deviation)
        (staging / "config.yaml").write_text(yaml.safe_dump(architecture, sort_keys=False), "utf-8")
        (staging / "configuration.json").write_text(json.dumps(_FILES, indent=2) + "\n", "utf-8")
        for path in staging.iterdir():
            path.rename(directory / path.name)
