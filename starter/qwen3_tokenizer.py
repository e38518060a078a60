"""The starter Qwen3-ASR's tokenizer: byte-level BPE in the hub's files, with one token for every character.

The merges are made by rule instead of being learned: the bytes of each character of the grammar and of its
marks join to one token, and so do the few English words of the prompt. All other text falls apart into bytes.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from transformers import Qwen2TokenizerFast

from starter.text import CHARACTERS, MARKS

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|audio_start|>",
    "<|audio_end|>",
    "<|audio_pad|>",
)
TEXT_TOKENS = ("<asr_text>", "<timestamp>")
"""Added tokens that decoding must keep, as in the published checkpoints."""

_AUDIO_TOKENS = {
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
    "audio_token": "<|audio_pad|>",
}
_WORDS = ("language", " Chinese", " None", "system", "user", "assistant")


@cache
def _byte_letters() -> dict[int, str]:
    """GPT-2's printable letter for each byte: the byte itself where it prints, else U+0100 onward."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    return letters | {byte: chr(0x100 + index) for index, byte in enumerate(others)}


def _letters(text: str) -> str:
    return "".join(_byte_letters()[byte] for byte in text.encode())


@cache
def merges() -> tuple[tuple[str, str], ...]:
    """Pairs in the order in which they are applied; each text of the vocabulary grows from its left end."""
    found: dict[tuple[str, str], None] = {}
    texts = [_letters(text) for text in (*CHARACTERS, *MARKS, *_WORDS)]
    for size in range(1, max(map(len, texts))):
        for text in texts:
            if len(text) > size:
                found[text[:size], text[size]] = None
    return tuple(found)


@cache
def vocabulary() -> dict[str, int]:
    """Token -> id, without the added tokens, which follow."""
    tokens = [*sorted(_byte_letters().values()), *(left + right for left, right in merges())]
    return {token: index for index, token in enumerate(tokens)}


@cache
def added_tokens() -> dict[str, int]:
    first = len(vocabulary())
    return {token: first + index for index, token in enumerate((*SPECIAL_TOKENS, *TEXT_TOKENS))}


VOCABULARY_SIZE = -(-(len(vocabulary()) + len(added_tokens())) // 64) * 64
"""Rows of the embedding: all tokens, rounded up to a multiple of 64."""


def character_id(character: str) -> int:
    """The token of one character or mark. Raises KeyError for one that the grammar does not have."""
    return vocabulary()[_letters(character)]


def write_tokenizer(directory: Path) -> None:
    """Write vocab.json, merges.txt and tokenizer_config.json."""
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges())]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    (directory / "vocab.json").write_text(json.dumps(vocabulary(), ensure_ascii=False), "utf-8")
    added = {
        str(index): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token in SPECIAL_TOKENS,
        }
        for token, index in added_tokens().items()
    }
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        **_AUDIO_TOKENS,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "extra_special_tokens": _AUDIO_TOKENS,
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "processor_class": "Qwen3ASRProcessor",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    text = json.dumps(config, ensure_ascii=False, indent=2)
    (directory / "tokenizer_config.json").write_text(text + "\n", "utf-8")


def load_tokenizer(directory: Path) -> Qwen2TokenizerFast:
    """The tokenizer of a written directory."""
    tokenizer: Qwen2TokenizerFast = Qwen2TokenizerFast.from_pretrained(directory)
    return tokenizer
