"""Writes full-size checkpoints with random weights, for measuring speed: ``python -m benchmarks.full_size``.

The shapes are those of the published models (iic/speech_paraformer-large_asr_nat-zh-cn-16k-common-vocab8404,
the same with -online, iic/punc_ct-transformer_zh-cn-common-vocab272727 and its vad_realtime variant,
iic/speech_campplus_sv_zh-cn_16k-common; the
starter fsmn-vad has its original's shape already and is copied, because random weights find no speech). They
transcribe nothing; speed depends on shapes.
Biases are set so that as much happens as with learnt weights: about four tokens a second, a mark every
dozen words.
"""

import argparse
import itertools
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from deployments.engines.loading import build_network
from deployments.engines.model_files import ModelFiles, Parameters

SEED = 20_26
TOKENS_PER_SECOND = 4.0
FRAMES_PER_SECOND = 1000 / 60
"""Encoder frames: 10 ms frames, six to one."""

_SPECIAL = ("<blank>", "<s>", "</s>")
_STARTER_VAD = Path(__file__).parent.parent / "models" / "starter" / "fsmn-vad"

_SANM_ENCODER: dict[str, Any] = {
    "dropout_rate": 0.1,
    "positional_dropout_rate": 0.1,
    "attention_dropout_rate": 0.1,
    "input_layer": "pe",
    "pos_enc_class": "SinusoidalPositionEncoder",
    "normalize_before": True,
    "kernel_size": 11,
    "sanm_shfit": 0,
    "selfattention_layer_type": "sanm",
}

PARAFORMER: dict[str, Any] = {
    "model": "Paraformer",
    "model_conf": {
        "ctc_weight": 0.0,
        "lsm_weight": 0.1,
        "length_normalized_loss": True,
        "predictor_weight": 1.0,
        "predictor_bias": 1,
        "sampling_ratio": 0.75,
    },
    "encoder": "SANMEncoder",
    "encoder_conf": {
        "output_size": 512,
        "attention_heads": 4,
        "linear_units": 2048,
        "num_blocks": 50,
        **_SANM_ENCODER,
    },
    "decoder": "ParaformerSANMDecoder",
    "decoder_conf": {
        "attention_heads": 4,
        "linear_units": 2048,
        "num_blocks": 16,
        "dropout_rate": 0.1,
        "positional_dropout_rate": 0.1,
        "self_attention_dropout_rate": 0.1,
        "src_attention_dropout_rate": 0.1,
        "att_layer_num": 16,
        "kernel_size": 11,
        "sanm_shfit": 0,
    },
    "predictor": "CifPredictorV2",
    "predictor_conf": {"idim": 512, "threshold": 1.0, "l_order": 1, "r_order": 1, "tail_threshold": 0.45},
    "frontend": "WavFrontend",
    "frontend_conf": {
        "fs": 16000,
        "window": "hamming",
        "n_mels": 80,
        "frame_length": 25,
        "frame_shift": 10,
        "lfr_m": 7,
        "lfr_n": 6,
    },
    "tokenizer": "CharTokenizer",
    "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
}

PARAFORMER_STREAMING: dict[str, Any] = {
    **PARAFORMER,
    "model": "ParaformerStreaming",
    "encoder": "SANMEncoderChunkOpt",
    "encoder_conf": {
        **PARAFORMER["encoder_conf"],
        "input_layer": "pe_online",
        "chunk_size": [12, 15],
        "stride": [8, 10],
        "pad_left": [0, 0],
        "encoder_att_look_back_factor": [4, 4],
        "decoder_att_look_back_factor": [1, 1],
    },
    "decoder_conf": {**PARAFORMER["decoder_conf"], "sanm_shfit": 5},
    "predictor_conf": {**PARAFORMER["predictor_conf"], "l_order": 0},
    "frontend": "WavFrontendOnline",
}

PUNCTUATION: dict[str, Any] = {
    "model": "CTTransformer",
    "model_conf": {
        "ignore_id": 0,
        "embed_unit": 256,
        "att_unit": 256,
        "dropout_rate": 0.1,
        "punc_list": ["<unk>", "_", "，", "。", "？", "、"],
        "punc_weight": [1.0] * 6,
        "sentence_end_id": 3,
    },
    "encoder": "SANMEncoder",
    "encoder_conf": {
        "input_size": 256,
        "output_size": 256,
        "attention_heads": 8,
        "linear_units": 1024,
        "num_blocks": 4,
        "padding_idx": 0,
        **_SANM_ENCODER,
    },
    "tokenizer": "CharTokenizer",
    "tokenizer_conf": {"unk_symbol": "<unk>"},
}

PUNCTUATION_REALTIME: dict[str, Any] = {
    **PUNCTUATION,
    "model": "CTTransformerStreaming",
    "encoder": "SANMVadEncoder",
}

CAMPPLUS: dict[str, Any] = {
    "model": "CAMPPlus",
    "model_conf": {
        "feat_dim": 80,
        "embedding_size": 192,
        "growth_rate": 32,
        "bn_size": 4,
        "init_channels": 128,
        "config_str": "batchnorm-relu",
        "memory_efficient": True,
        "output_level": "segment",
    },
}

NAMES = ("paraformer", "paraformer-streaming", "ct-punc", "ct-punc-realtime", "campplus", "fsmn-vad")
"""Directories that :func:`write_all` writes."""


def vocabulary(size: int) -> list[str]:
    """A plausible vocabulary: special tokens, the characters of GB 2312, Latin pieces, character pairs."""
    latin = ("".join(piece) for n in (1, 2, 3) for piece in itertools.product("aeiotnrslcdhmu", repeat=n))
    pieces = (form for piece in latin for form in (f"{piece}@@", piece))
    pairs = ("".join(pair) for pair in itertools.product(_gb2312(), repeat=2))
    tokens = itertools.chain(_SPECIAL, _gb2312(), itertools.islice(pieces, 1637), pairs)
    return [*itertools.islice(tokens, size - 1), "<unk>"]


def _gb2312() -> Iterator[str]:
    for row, cell in itertools.product(range(0xB0, 0xF8), range(0xA1, 0xFF)):
        character = bytes((row, cell)).decode("gb2312", errors="ignore")
        if character:
            yield character


def _bias_paraformer(state: dict[str, torch.Tensor], tokens: list[str]) -> None:
    rate = TOKENS_PER_SECOND / FRAMES_PER_SECOND
    state["predictor.cif_output.weight"].mul_(0.05)
    state["predictor.cif_output.bias"].fill_(math.log(rate / (1 - rate)))
    for special in (*_SPECIAL, "<unk>"):
        state["decoder.output_layer.bias"][tokens.index(special)] = -100.0


def _bias_punctuation(state: dict[str, torch.Tensor], tokens: list[str]) -> None:
    state["decoder.bias"].copy_(torch.tensor([-100.0, 1.0, 0.0, 0.0, 0.0, 0.0]))


def _leave(state: dict[str, torch.Tensor], tokens: list[str]) -> None:
    """Nothing depends on what a speaker model says."""


def _write_cmvn(path: Path, size: int, generator: np.random.Generator) -> None:
    """Shift and scale as of log-mel energies of int16 speech: means near 12, deviations near 5."""
    shift = -12 + generator.normal(0, 1, size)
    scale = 0.2 + generator.normal(0, 0.01, size)
    lines = ["<Nnet>", f"<Splice> {size} {size}", "[ 0 ]"]
    for name, values in (("<AddShift>", shift), ("<Rescale>", scale)):
        numbers = " ".join(f"{value:.6f}" for value in values)
        lines += [f"{name} {size} {size}", f"<LearnRateCoef> 0 [ {numbers} ]"]
    path.write_text("\n".join([*lines, "</Nnet>", ""]), encoding="utf-8")


def write_checkpoint(
    directory: Path,
    config: dict[str, Any],
    tokens: list[str],
    bias: Callable[[dict[str, torch.Tensor], list[str]], None],
    *,
    seed: int = SEED,
    dtype: torch.dtype = torch.float16,
) -> int:
    """Write one model directory in ModelScope's layout and return its number of parameters.

    ``bias`` changes some of the randomly drawn parameters, which are given by name in fp32. The same
    ``seed`` gives the same files. Overwrites what is there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    files = ModelFiles(directory, config, Parameters(directory, {}), tuple(tokens), None)
    module, _ = build_network(files)
    with torch.no_grad():
        state = module.state_dict()
        bias(state, tokens)
        torch.save({name: value.to(dtype) for name, value in state.items()}, directory / "model.pt")
    (directory / "config.yaml").write_text(
        yaml.safe_dump(config, allow_unicode=True, sort_keys=False), "utf-8"
    )
    (directory / "tokens.json").write_text(json.dumps(tokens, ensure_ascii=False, indent=0), "utf-8")
    if "frontend" in config:
        frontend = config["frontend_conf"]
        generator = np.random.default_rng(seed)
        _write_cmvn(directory / "am.mvn", frontend["n_mels"] * frontend["lfr_m"], generator)
    return sum(value.numel() for value in state.values())


def write_all(out: Path, starter_vad: Path = _STARTER_VAD) -> dict[str, int]:
    """Write a directory for each of :data:`NAMES` below ``out``.

    Returns their sizes in parameters, by name.

    Raises:
        FileNotFoundError: there is no starter fsmn-vad to copy.
    """
    tokens, words = vocabulary(8404), vocabulary(272_727)
    sizes = {
        "paraformer": write_checkpoint(out / "paraformer", PARAFORMER, tokens, _bias_paraformer),
        "paraformer-streaming": write_checkpoint(
            out / "paraformer-streaming", PARAFORMER_STREAMING, tokens, _bias_paraformer
        ),
        "ct-punc": write_checkpoint(out / "ct-punc", PUNCTUATION, words, _bias_punctuation),
        "ct-punc-realtime": write_checkpoint(
            out / "ct-punc-realtime", PUNCTUATION_REALTIME, words, _bias_punctuation
        ),
        "campplus": write_checkpoint(out / "campplus", CAMPPLUS, [], _leave),
    }
    shutil.copytree(starter_vad, out / "fsmn-vad", dirs_exist_ok=True)
    weights = torch.load(out / "fsmn-vad" / "model.pt", weights_only=True)
    return {**sizes, "fsmn-vad": sum(value.numel() for value in weights.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("build/full-size"), help="where to write (1.5 GB)")
    out: Path = parser.parse_args().out
    for name, size in write_all(out).items():
        print(f"{out / name}: {size / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
