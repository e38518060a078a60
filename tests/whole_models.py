"""The smallest files that count as whole: for tests that look for models and load none."""

import json
import zipfile
from pathlib import Path


def write_checkpoint(path: Path, content: bytes = b"") -> None:
    """What PyTorch saves, without a tensor in it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)


def write_safetensors(path: Path, content: bytes = b"") -> None:
    """One tensor of ``content``."""
    entry = {"dtype": "U8", "shape": [len(content)], "data_offsets": [0, len(content)]}
    header = json.dumps({"x": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content)


def write_onnx(path: Path, graph: bytes = b"") -> None:
    """A ``ModelProto`` of version 10 with ``graph`` as its graph (shorter than 128 bytes)."""
    path.write_bytes(b"\x08\x0a" + b"\x3a" + bytes([len(graph)]) + graph)


def write_funasr(directory: Path) -> Path:
    """A model in ModelScope's layout."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.yaml").write_text("model: Paraformer\n")
    write_checkpoint(directory / "model.pt")
    return directory


def write_qwen3(directory: Path, kind: str = "qwen3_asr") -> Path:
    """A model in the layout of transformers."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {"model_type": "qwen3_asr", "thinker_config": {"model_type": kind}}
    (directory / "config.json").write_text(json.dumps(config))
    for name in ("preprocessor_config.json", "tokenizer_config.json", "vocab.json"):
        (directory / name).write_text("{}")
    (directory / "merges.txt").write_text("#version: 0.2\n")
    write_safetensors(directory / "model.safetensors")
    return directory
