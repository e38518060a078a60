"""Tiny checkpoints, with random weights, of FunASR's two classes of Paraformer that listen for hotwords."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.full_size import PARAFORMER, write_checkpoint
from deployments.engines.base import Pcm, Recognition

CHARACTERS = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳"
TOKENS = ["<blank>", "<s>", "</s>", *CHARACTERS, "7", "hel@@", "lo", "a@@", "b", "<unk>"]
NO_BIAS = TOKENS.index("<unk>")
SEG_DICT = {
    **{character: character for character in CHARACTERS},
    "7": "7",
    "hello": "hel@@ lo",
    "ab": "a@@ b",
}
SIZE = 32


def tiny_config(model: str) -> dict[str, Any]:
    config = copy.deepcopy(PARAFORMER)
    config["model"] = model
    config["encoder_conf"] |= {"output_size": SIZE, "linear_units": 48, "num_blocks": 2}
    config["decoder_conf"] |= {"linear_units": 48, "num_blocks": 4, "att_layer_num": 3}
    config["predictor_conf"] |= {"idim": SIZE}
    config["frontend_conf"] |= {"dither": 0.0}
    config["model_conf"] |= {"inner_dim": SIZE, "bias_encoder_type": "lstm"}
    if model == "SeacoParaformer":
        config["model_conf"] |= {"NO_BIAS": NO_BIAS, "bias_encoder_bid": False}
        config["seaco_decoder"] = "ParaformerSANMDecoder"
        # As in the published model: fewer blocks than attending ones, which FunASR takes for six.
        config["seaco_decoder_conf"] = {
            "attention_heads": 4,
            "linear_units": 40,
            "num_blocks": 4,
            "kernel_size": 11,
            "sanm_shfit": 0,
            "use_output_layer": False,
            "wo_input_layer": True,
        }
    else:
        config["decoder"] = "ContextualParaformerDecoder"
    return config


def lively(state: dict[str, torch.Tensor], tokens: list[str]) -> None:
    """Weights under which many different tokens come out, and hotwords change some of them."""
    state["predictor.cif_output.bias"].fill_(-1.0)
    state["decoder.output_layer.weight"].mul_(20)
    # FunASR leaves <unk> and pieces of words that do not go on out of the text.
    unwritten = [tokens.index(token) for token in ("hel@@", "lo", "a@@", "b", "<unk>")]
    state["decoder.output_layer.bias"][unwritten] = -1000
    for name in state:
        if name.startswith(("bias_encoder.", "bias_embed.", "decoder.embed.", "decoder.bias_")):
            state[name].mul_(3)
    if "hotword_output_layer.weight" in state:
        state["hotword_output_layer.weight"].mul_(20)
        state["hotword_output_layer.bias"][unwritten] = -1000
        state["hotword_output_layer.bias"][NO_BIAS] = 8


def write_tiny(directory: Path, model: str, config: dict[str, Any] | None = None) -> Path:
    write_checkpoint(directory, config or tiny_config(model), TOKENS, lively, dtype=torch.float32)
    lines = [f"{word} {pieces}" for word, pieces in SEG_DICT.items()]
    (directory / "seg_dict").write_text("\n".join(lines) + "\n", "utf-8")
    return directory


def funasr_texts(directory: Path) -> Callable[[Pcm, str | None], str]:
    """FunASR itself on the same files: the text of a recording, given hotwords with spaces between them."""
    from funasr import AutoModel

    options: dict[str, Any] = {"disable_update": True, "disable_pbar": True, "device": "cpu", "ncpu": 1}
    model = AutoModel(model=str(directory), log_level="ERROR", **options)

    def generate(samples: Pcm, hotwords: str | None) -> str:
        waveform = samples.astype(np.float32) / (1 << 15)
        given = {} if hotwords is None else {"hotword": hotwords}
        text: str = model.generate(input=waveform, **given)[0]["text"]
        return text.replace(" ", "")

    return generate


def speech_like(seconds: float, seed: int) -> Pcm:
    rng = np.random.default_rng(seed)
    samples = int(seconds * 16_000)
    syllables = np.repeat(rng.uniform(0, 1, samples // 3200 + 1), 3200)[:samples]
    tone = np.sin(np.cumsum(rng.uniform(0.05, 0.5, samples // 1600 + 1).repeat(1600)[:samples]))
    return np.asarray(8000 * syllables * tone + rng.normal(0, 100, samples)).astype(np.int16)


def words(recognition: Recognition) -> list[str]:
    return [word.text for word in recognition.words]
