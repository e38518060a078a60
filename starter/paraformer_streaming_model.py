"""The online recognizer's shape, as FunASR's own classes, and its first weights: those of the offline one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import funasr.models.paraformer.decoder
import funasr.models.scama.encoder  # noqa: F401  registers SANMEncoderChunkOpt by name
import numpy as np
import torch
from funasr.frontends.wav_frontend import load_cmvn
from funasr.models.paraformer_streaming.model import ParaformerStreaming
from numpy.typing import NDArray

from starter.paraformer_data import TOKENS
from starter.paraformer_model import ARCHITECTURE as OFFLINE
from starter.paraformer_model import FEATURE_SIZE
from starter.paraformer_streaming_windows import Chunking

LIVE = Chunking()
"""600 ms chunks with 300 ms look-ahead: chunk_size [0, 10, 5], look-back of 4 chunks (decoder: 1)."""
_KERNEL = int(OFFLINE["decoder_conf"]["kernel_size"])

ARCHITECTURE: dict[str, Any] = {
    **OFFLINE,
    "model": "ParaformerStreaming",
    # Whether a sentence has ended is not known while it is spoken, so no end token is predicted.
    "model_conf": {**OFFLINE["model_conf"], "predictor_bias": 0},
    "encoder": "SANMEncoderChunkOpt",
    "encoder_conf": {
        **OFFLINE["encoder_conf"],
        "input_layer": "pe_online",
        "pos_enc_class": "StreamSinusoidalPositionEncoder",
        "chunk_size": [LIVE.size],
        "stride": [LIVE.stride],
        "pad_left": [LIVE.left],
        "encoder_att_look_back_factor": [LIVE.encoder_look_back],
        "decoder_att_look_back_factor": [1],
    },
    # The memory block of the decoder looks at earlier tokens alone.
    "decoder_conf": {**OFFLINE["decoder_conf"], "sanm_shfit": (_KERNEL - 1) // 2},
    "frontend": "WavFrontendOnline",
}


def build(ctc_weight: float) -> ParaformerStreaming:
    """The untrained model; a CTC head exists only where `ctc_weight` > 0 and is used in training alone."""
    parts = {key: value for key, value in ARCHITECTURE.items() if not key.startswith(("front", "token"))}
    del parts["model"]
    settings = {**parts.pop("model_conf"), "ctc_weight": ctc_weight}
    return ParaformerStreaming(input_size=FEATURE_SIZE, vocab_size=len(TOKENS), **parts, **settings)


def start_from_offline(model: ParaformerStreaming, offline: Path) -> None:
    """Load the weights of the offline recognizer in the directory `offline`.

    The decoder's memory blocks look back only: their taps on earlier tokens and on the token itself move to
    the end of the kernel, those on later tokens are dropped.
    """
    weights = {
        key: value.float() for key, value in torch.load(offline / "model.pt", weights_only=True).items()
    }
    for key in [key for key in weights if key.startswith("decoder.") and "fsmn_block" in key]:
        shifted = torch.zeros_like(weights[key])
        shifted[..., _KERNEL // 2 :] = weights[key][..., : _KERNEL // 2 + 1]
        weights[key] = shifted
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or any(not key.startswith("ctc.") for key in missing):
        raise ValueError(f"{offline} holds another model: missing {missing}, unexpected {unexpected}")


def read_statistics(offline: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation, float32 [560] each, of the offline recognizer's am.mvn."""
    shift, scale = load_cmvn(str(offline / "am.mvn")).numpy().astype(np.float32)
    return -shift, np.float32(1) / scale
