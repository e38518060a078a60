"""Tiny random checkpoints of Qwen3-ASR in the hub's layout; what they write depends on what they hear.

Written without the model's classes, so that they can be made beside any version of transformers.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from deployments.engines.base import SAMPLE_RATE, Pcm

STARTER = Path(__file__).parent.parent / "models" / "starter"

_AUDIO = {
    "num_mel_bins": 128,
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "downsample_hidden_size": 8,
    "output_dim": 48,
}
_TEXT = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
CLASSES = 40
"""Of which the aligner of this kind finds the last ones behind most audio."""


def write_tiny(directory: Path, *, aligner: bool = False, seed: int = 1) -> Path:
    """Write a checkpoint; the seed fixes its weights. The tokenizer is the starter model's."""
    starter = STARTER / ("qwen3-forced-aligner" if aligner else "qwen3-asr")
    shutil.copytree(starter, directory, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    config = json.loads((starter / "config.json").read_text("utf-8"))
    thinker = config["thinker_config"]
    thinker["audio_config"] |= _AUDIO
    thinker["text_config"] |= _TEXT
    thinker["text_config"]["rope_scaling"]["mrope_section"] = [4, 2, 2]
    if aligner:
        thinker["classify_num"] = CLASSES
    (directory / "config.json").write_text(json.dumps(config), "utf-8")
    generator = torch.Generator().manual_seed(seed)
    vocabulary = thinker["text_config"]["vocab_size"]
    shapes = {**dict(_audio_shapes()), **dict(_text_shapes(CLASSES if aligner else None, vocabulary))}
    embedding = 1.0 if aligner else 0.3  # one that writes would go on with the same token if they were larger
    weights = {name: _weight(name, shape, generator, embedding=embedding) for name, shape in shapes.items()}
    if not aligner:
        weights["thinker.lm_head.weight"] = weights["thinker.model.embed_tokens.weight"].clone()
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def noise(seconds: float, seed: int = 0) -> Pcm:
    """Noise that changes all the time."""
    random = np.random.default_rng(seed)
    samples = round(seconds * SAMPLE_RATE)
    loudness = np.repeat(random.uniform(50, 6000, samples // 800 + 1), 800)[:samples]
    pitch = np.cumsum(np.repeat(random.uniform(0.02, 2.0, samples // 800 + 1), 800)[:samples])
    return (loudness * (np.sin(pitch) + random.standard_normal(samples) / 3)).astype(np.int16)


def _weight(
    name: str, shape: tuple[int, ...], generator: torch.Generator, *, embedding: float
) -> torch.Tensor:
    if name.endswith("bias"):
        return torch.zeros(shape)
    if len(shape) == 1:
        sharp = name.endswith("q_norm.weight")
        return torch.full(shape, 4.0 if sharp else 1.0)
    drawn: torch.Tensor = torch.randn(shape, generator=generator)
    if "embed_tokens" in name:
        return drawn * embedding
    gain = 3.0 if "o_proj" in name or "proj2" in name else 1.2
    scale: float = gain / drawn[0].numel() ** 0.5
    return drawn * scale


def _audio_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    width, hidden, channels = _AUDIO["d_model"], _AUDIO["encoder_ffn_dim"], _AUDIO["downsample_hidden_size"]
    tower = "thinker.audio_tower."
    linear = {"proj1": (width, width), "proj2": (_AUDIO["output_dim"], width)}
    for layer in range(_AUDIO["encoder_layers"]):
        inside = {
            **{f"self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")},
            "fc1": (hidden, width),
            "fc2": (width, hidden),
        }
        linear |= {f"layers.{layer}.{name}": shape for name, shape in inside.items()}
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            yield from _affine(f"{tower}layers.{layer}.{norm}", (width,))
    yield from _affine(f"{tower}ln_post", (width,))
    for name, shape in linear.items():
        yield from _affine(tower + name, shape)
    for number, before in enumerate((1, channels, channels), 1):
        yield from _affine(f"{tower}conv2d{number}", (channels, before, 3, 3))
    yield f"{tower}conv_out.weight", (width, channels * 16)


def _affine(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _text_shapes(classes: int | None, vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, inner, head = _TEXT["hidden_size"], _TEXT["intermediate_size"], _TEXT["head_dim"]
    query, key = _TEXT["num_attention_heads"] * head, _TEXT["num_key_value_heads"] * head
    shapes: dict[str, Any] = {
        "self_attn.q_proj": (query, width),
        "self_attn.k_proj": (key, width),
        "self_attn.v_proj": (key, width),
        "self_attn.o_proj": (width, query),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
    }
    for layer in range(_TEXT["num_hidden_layers"]):
        for name, shape in shapes.items():
            yield f"thinker.model.layers.{layer}.{name}.weight", shape
    yield "thinker.model.norm.weight", (width,)
    yield "thinker.model.embed_tokens.weight", (vocabulary, width)
    if classes is not None:
        yield "thinker.lm_head.weight", (classes, width)
