"""How large models are: their files where they are on this machine, else what the catalogue says."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from deployments.catalogue import ModelEntry, load_catalogue
from deployments.model_store import ModelMissing, locate, weights_file
from serve_app.settings import Settings

_MB = 10**6
_FP32_BYTES = 4
_UNITS = {"M": 10**6, "B": 10**9}


class Model:
    """A model by its reference in the settings: a directory, a name of the catalogue, or an id on a hub."""

    def __init__(self, reference: str, settings: Settings) -> None:
        self._entry = load_catalogue(settings.models_file).find(reference)
        try:
            found: Path | None = locate(reference, settings.modelscope_path)
        except ModelMissing:
            found = None
        self.directory = found

    @property
    def weights_bytes(self) -> int:
        """Bytes of its parameters as they are stored: what they take on a GPU, or at most twice that.

        FunASR's are stored in fp32, and keep to that or become bf16; Qwen3's are stored in bf16. 0: unknown.
        """
        if self.directory is not None and (size := _files(self.directory)):
            return size
        return 0 if self._entry is None else _listed(self._entry)

    def config(self) -> dict[str, Any]:
        """What ``config.json`` (Qwen3) or ``config.yaml`` (FunASR) says; empty where it is not here."""
        if self.directory is None:
            return {}
        try:
            if (path := self.directory / "config.json").is_file():
                content = json.loads(path.read_text(encoding="utf-8"))
            else:
                content = yaml.safe_load((self.directory / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return content if isinstance(content, dict) else {}


def _files(directory: Path) -> int:
    stored = weights_file(directory)
    files = [stored] if stored.is_file() and stored.suffix != ".safetensors" else []
    files = files or list(directory.glob("*.safetensors")) or list(directory.glob("*.onnx"))
    return sum(path.stat().st_size for path in files)


def _listed(entry: ModelEntry) -> int:
    if entry.size_mb is not None:
        return entry.size_mb * _MB
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([MB])", entry.parameters or "")
    return int(float(match[1]) * _UNITS[match[2]] * _FP32_BYTES) if match else 0
