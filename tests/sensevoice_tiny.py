"""Tiny checkpoints of FunASR's SenseVoiceSmall with random weights, and a vocabulary with its tags."""

import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch

from benchmarks.full_size import PARAFORMER, write_checkpoint
from deployments.engines.base import Pcm

TAGS = [
    *(f"<|{name}|>" for name in ("zh", "en", "yue", "ja", "ko", "nospeech")),
    *(f"<|{name}|>" for name in ("HAPPY", "SAD", "ANGRY", "NEUTRAL", "EMO_UNKNOWN")),
    *(f"<|{name}|>" for name in ("Speech", "BGM", "Laughter", "Applause", "Event_UNK")),
    *(f"<|{name}|>" for name in ("withitn", "woitn")),
]
PIECES = "chn_jpn_yue_eng_ko_spectok.bpe.model"
_TEXTS = [
    "hello world, it's a test of things. The end.",
    "我们今天去北京，你好吗？",
    "三点五是3.5，百分之五是5%。",
    "今日はいい天気ですね。",
    "안녕하세요 여러분 반갑습니다",
]
_SIZE = {"output_size": 32, "linear_units": 48, "num_blocks": 3, "tp_blocks": 2}


def write_pieces(path: Path, byte_fallback: bool = False) -> sentencepiece.SentencePieceProcessor:
    """Train a vocabulary as that of the published model: its token 0, ``<unk>``, is CTC's blank."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(_TEXTS * 10),
        model_writer=model,
        vocab_size=420 if byte_fallback else 160,
        model_type="bpe",
        normalization_rule_name="identity",
        character_coverage=1.0,
        user_defined_symbols=TAGS,
        byte_fallback=byte_fallback,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def config(**size: int) -> dict[str, Any]:
    """The published model's configuration, in another size."""
    made = copy.deepcopy(PARAFORMER)
    for name in ("decoder", "decoder_conf", "predictor", "predictor_conf"):
        del made[name]
    return made | {
        "model": "SenseVoiceSmall",
        "model_conf": {"length_normalized_loss": True, "sos": 1, "eos": 2, "ignore_id": -1},
        "encoder": "SenseVoiceEncoderSmall",
        "encoder_conf": made["encoder_conf"] | (size or _SIZE),
        "frontend_conf": made["frontend_conf"] | {"dither": 0.0},
        "tokenizer": "SentencepiecesTokenizer",
        "tokenizer_conf": {"bpemodel": None, "unk_symbol": "<unk>", "split_with_space": True},
    }


def write_sensevoice(directory: Path, **size: int) -> None:
    """Write a directory as that of the published model."""

    def spread_out(state: dict[str, torch.Tensor], tokens: list[str]) -> None:
        # Many different tokens, clearly apart, between blanks.
        state["ctc.ctc_lo.weight"].mul_(20)
        state["ctc.ctc_lo.bias"][0] = 18
        # Queries that make a difference.
        state["embed.weight"].mul_(3)

    directory.mkdir(parents=True, exist_ok=True)
    pieces = write_pieces(directory / PIECES)
    tokens = [pieces.IdToPiece(number) for number in range(pieces.GetPieceSize())]
    write_checkpoint(directory, config(**size), tokens, spread_out, dtype=torch.float32)
    (directory / "tokens.json").unlink()
    metas = {
        "init_param": "model.pt",
        "config": "config.yaml",
        "tokenizer_conf": {"bpemodel": PIECES},
        "frontend_conf": {"cmvn_file": "am.mvn"},
    }
    described = {"framework": "pytorch", "task": "auto-speech-recognition", "file_path_metas": metas}
    (directory / "configuration.json").write_text(json.dumps(described), "utf-8")


def speech_like(seconds: float, seed: int) -> Pcm:
    """Tones that change several times a second."""
    rng = np.random.default_rng(seed)
    samples = int(seconds * 16_000)
    syllables = np.repeat(rng.uniform(0, 1, samples // 3200 + 1), 3200)[:samples]
    tone = np.sin(np.cumsum(rng.uniform(0.05, 0.5, samples // 1600 + 1).repeat(1600)[:samples]))
    return np.asarray(8000 * syllables * tone + rng.normal(0, 100, samples)).astype(np.int16)
