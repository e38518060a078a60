"""Models on the stub hubs, and the environment in which nothing but those hubs is known."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.settings import Settings
from tests.stub_hubs import StubHubs

STARTER = Path(__file__).parents[1] / "models" / "starter"
VAD = "iic/speech_fsmn_vad_zh-cn-16k-common-pytorch"
PARAFORMER = "iic/speech_paraformer-large_asr_nat-zh-cn-16k-common-vocab8404-pytorch"
HF_VAD = "funasr/fsmn-vad"
FILES = ("README.md", "am.mvn", "config.yaml", "configuration.json", "model.pt", "training.json")
"""Of the starter VAD."""


def starter_files(name: str) -> dict[str, bytes]:
    """The files of a starter model, and some that nobody needs."""
    files = {path.name: path.read_bytes() for path in (STARTER / name).iterdir()}
    return {**files, ".gitattributes": b"*.pt", "example/asr_example.wav": b"RIFF", "fig/struct.png": b"PNG"}


def isolate(monkeypatch: pytest.MonkeyPatch, home: Path, hubs: StubHubs | None = None) -> None:
    """Point everything that the hubs' clients read to ``home``, and to the stub."""
    for name in (*(field.upper() for field in Settings.model_fields), *_variables()):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    if hubs is not None:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hubs.url)
        monkeypatch.setenv("HF_ENDPOINT", hubs.url)


def _variables() -> Iterator[str]:
    yield from (name for name in os.environ if name.startswith(("HF_", "MODELSCOPE_", "HUGGINGFACE_")))
    yield "XDG_CACHE_HOME"
