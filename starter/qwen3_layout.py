"""The starter Qwen3-ASR and its forced aligner: their shapes, and their directories in the hub's layout.

The layout is that of Qwen/Qwen3-ASR-0.6B and Qwen/Qwen3-ForcedAligner-0.6B (a `thinker_config`, weights named
`thinker.*`), which both the `qwen-asr` package and vLLM load.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from qwen_asr.core.transformers_backend import Qwen3ASRConfig, Qwen3ASRForConditionalGeneration
from qwen_asr.inference.utils import SUPPORTED_LANGUAGES
from safetensors.torch import save_file
from transformers import WhisperFeatureExtractor

from starter.qwen3_tokenizer import VOCABULARY_SIZE, added_tokens, write_tokenizer

AUDIO_WIDTH, AUDIO_LAYERS, AUDIO_HEADS = 192, 4, 6
TEXT_WIDTH, TEXT_LAYERS, ALIGNER_TEXT_LAYERS = 128, 4, 3
TEXT_HEADS, HEAD_SIZE = 3, 64
CLASSES, CLASS_MILLISECONDS = 5000, 80
"""The aligner's head: one class for every 80 ms."""

_CHAT_TEMPLATE = (
    "{%- set ns = namespace(system='') -%}"
    "{%- for message in messages -%}{%- if message.role == 'system' -%}"
    "{%- if message.content is string -%}{%- set ns.system = ns.system + message.content -%}"
    "{%- else -%}{%- for part in message.content -%}{%- if part.text is defined -%}"
    "{%- set ns.system = ns.system + part.text -%}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{%- endif -%}{%- endfor -%}"
    "{{- '<|im_start|>system\n' + ns.system + '<|im_end|>\n' -}}"
    "{%- for message in messages -%}{%- if message.role != 'system' -%}"
    "{{- '<|im_start|>' + message.role + '\n' -}}"
    "{%- if message.content is string -%}{{- message.content -}}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'audio' or part.audio is defined or part.audio_url is defined -%}"
    "{{- '<|audio_start|><|audio_pad|><|audio_end|>' -}}"
    "{%- elif part.text is defined -%}{{- part.text -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{- '<|im_end|>\n' -}}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def _audio_config() -> dict[str, Any]:
    return {
        "model_type": "qwen3_asr_audio_encoder",
        "num_mel_bins": 128,
        "d_model": AUDIO_WIDTH,
        "encoder_layers": AUDIO_LAYERS,
        "encoder_attention_heads": AUDIO_HEADS,
        "encoder_ffn_dim": 4 * AUDIO_WIDTH,
        "activation_function": "gelu",
        "activation_dropout": 0,
        "attention_dropout": 0,
        "dropout": 0,
        "downsample_hidden_size": 32,
        "conv_chunksize": 500,
        "initializer_range": 0.02,
        "max_source_positions": 1500,
        "n_window": 50,
        "n_window_infer": 800,
        "output_dim": TEXT_WIDTH,
        "scale_embedding": False,
    }


def _text_config(layers: int, *, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "qwen3_asr_text",
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 3 * TEXT_WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": TEXT_HEADS,
        "num_key_value_heads": TEXT_HEADS,
        "head_dim": HEAD_SIZE,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000,
        "rope_scaling": {
            "rope_type": "default",
            "type": "default",
            "interleaved": True,
            "mrope_interleaved": True,
            "mrope_section": [12, 10, 10],
        },
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": tied,
        "use_cache": True,
    }


def model_config(*, aligner: bool) -> dict[str, Any]:
    """The contents of config.json."""
    ids = added_tokens()
    thinker: dict[str, Any] = {
        "model_type": "qwen3_forced_aligner" if aligner else "qwen3_asr",
        "audio_config": _audio_config(),
        "text_config": _text_config(ALIGNER_TEXT_LAYERS if aligner else TEXT_LAYERS, tied=not aligner),
        "audio_token_id": ids["<|audio_pad|>"],
        "audio_start_token_id": ids["<|audio_start|>"],
        "audio_end_token_id": ids["<|audio_end|>"],
        "initializer_range": 0.02,
        "tie_word_embeddings": not aligner,
    }
    config: dict[str, Any] = {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "model_type": "qwen3_asr",
        "support_languages": list(SUPPORTED_LANGUAGES),
        "tie_word_embeddings": not aligner,
        "dtype": "float16",
        "thinker_config": thinker,
    }
    if aligner:
        thinker["classify_num"] = CLASSES
        config["timestamp_token_id"] = ids["<timestamp>"]
        config["timestamp_segment_time"] = CLASS_MILLISECONDS
    return config


def build(*, aligner: bool, seed: int) -> Qwen3ASRForConditionalGeneration:
    """The untrained model in float32; the seed fixes its weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = Qwen3ASRConfig(**model_config(aligner=aligner))
        return Qwen3ASRForConditionalGeneration._from_config(config, dtype=torch.float32)


def write_directory(directory: Path, weights: dict[str, torch.Tensor], *, aligner: bool) -> None:
    """Write everything that a loader wants, replacing each file at once.

    weights: the state dict of `build`'s model, stored in float16. The recognizer's lm_head is written
    although it is tied to the embedding, as the published checkpoints have it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=directory.parent, prefix=".export-") as name:
        staging = Path(name)
        kept = {key: weight.detach().half().clone().contiguous() for key, weight in weights.items()}
        save_file(kept, staging / "model.safetensors", metadata={"format": "pt"})
        write_tokenizer(staging)
        ids = added_tokens()
        ends = [ids["<|im_end|>"], ids["<|endoftext|>"]]
        _write_json(staging / "config.json", model_config(aligner=aligner))
        _write_json(
            staging / "generation_config.json",
            {"do_sample": False, "eos_token_id": ends, "pad_token_id": ends[1], "max_new_tokens": 512},
        )
        _write_json(staging / "chat_template.json", {"chat_template": _CHAT_TEMPLATE})
        WhisperFeatureExtractor(feature_size=128, return_attention_mask=True).save_pretrained(staging)
        _describe_processor(staging / "preprocessor_config.json")
        for path in staging.iterdir():
            path.chmod(0o644)
            path.rename(directory / path.name)


def write_random(directory: Path, *, aligner: bool, seed: int = 7) -> None:
    """A complete checkpoint with random weights: it loads everywhere and understands nothing."""
    write_directory(directory, build(aligner=aligner, seed=seed).state_dict(), aligner=aligner)


def _describe_processor(path: Path) -> None:
    settings = json.loads(path.read_text("utf-8"))
    _write_json(path, {**settings, "processor_class": "Qwen3ASRProcessor"})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", "utf-8")
