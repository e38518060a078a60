"""docs/add-a-model.md is followed word for word: what it says is written down, listed, loaded and asked."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.engines import read_wav
from deployments.engines.base import (
    AsrEngine,
    EngineOptions,
    Pcm,
    Recognition,
    SpeechSpan,
    VadOptions,
    VadResult,
    VadState,
)
from deployments.engines.model_files import ModelFilesError
from deployments.messages import AudioSlice, Priority, RecognitionOptions
from deployments.model_store import find_model
from serve_app.enabled_models import choose_models
from serve_app.models import ServedModels
from serve_app.pipeline.graph import DEFAULT_RECOGNITION
from serve_app.settings import Settings
from tests import audio_files
from tests.test_http_app import SilentGraph, client_of

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "add-a-model.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
ENGINE, TEST = [content for language, content in BLOCKS if language == "python"]
(ENTRY,) = [content for language, content in BLOCKS if language == "yaml"]
(COMMANDS,) = [content for language, content in BLOCKS if language == "bash"]


@pytest.fixture(scope="module")
def speech() -> Pcm:
    return read_wav(ROOT / "samples" / "travel.wav")[: 16_000 * 6]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What the guide has its reader write, in the working directory."""
    (tmp_path / "my_engines").mkdir()
    (tmp_path / "my_engines" / "funasr_package.py").write_text(ENGINE, "utf-8")
    (tmp_path / "models.yaml").write_text(ENTRY, "utf-8")
    for name in ("models", "deployments", ".venv", "samples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_engines"]:
        del sys.modules[name]


def served(place: Path) -> AsrEngine:
    """As a server comes to it, from the two settings of the guide."""
    settings = choose_models(Settings(models_file=place / "models.yaml", enabled_models="funasr")).settings
    (model,) = ServedModels(settings)
    assert model.id == "paraformer-funasr"
    directory = find_model(model.reference, settings.modelscope_path)
    engine: AsrEngine = import_module(model.engine).load(directory, EngineOptions(threads=1))
    return engine


class Graph(SilentGraph):
    """One segment of all that comes, recognized by an engine."""

    def __init__(self, engine: AsrEngine) -> None:
        super().__init__()
        self._engine = engine

    async def detect(
        self, audio: AudioSlice, state: VadState | None, final: bool, options: VadOptions
    ) -> VadResult:
        return VadResult((SpeechSpan(0, 5900),), None, None if final else VadState(b""))

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        assert options.model == "paraformer-funasr"
        pieces = [piece.ref[piece.begin : piece.end] for piece in audio.pieces]
        return self._engine.transcribe([np.concatenate(pieces)])[0]


def test_the_commands_show_the_model(place: Path) -> None:
    *commands, last = COMMANDS.splitlines()
    assert last == "make serve"
    script = "\n".join(commands)
    result = subprocess.run(["bash", "-euc", script], cwd=place, capture_output=True, text=True, check=True)
    shown = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in result.stdout.splitlines())
    assert shown["model"].strip() == "paraformer-funasr"
    assert shown["also called"].strip() == "funasr"


async def test_the_engine_answers_a_request(
    place: Path, speech: Pcm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELS_FILE", str(place / "models.yaml"))
    engine = served(place)
    graph = Graph(engine)
    wav = audio_files.wav(np.asarray(speech / 32768, np.float32), 16_000)
    options: dict[str, Any] = {
        "models_file": place / "models.yaml",
        "enabled_models": "paraformer-funasr",
        "enable_speaker_diarization": False,
    }
    async with client_of(graph, **options) as client:
        names = [model["id"] for model in (await client.get("/v1/models")).json()["data"]]
        response = await client.post(
            "/v1/audio/transcriptions", data={"model": "funasr"}, files={"file": wav}
        )
    assert names == ["paraformer-funasr"]
    from deployments.engines.paraformer import load

    own = load(ROOT / "models" / "starter" / "paraformer", EngineOptions(threads=1, precision="fp32"))
    said = "".join(word.text for word in own.transcribe([speech])[0].words)
    # What follows is a date, which is written in digits.
    assert said.startswith("请问火车站")
    assert response.json()["text"].replace(" ", "").startswith(said[:8])


def test_the_test_of_the_guide_passes(place: Path, speech: Pcm) -> None:
    names: dict[str, Any] = {}
    exec(compile(TEST, "docs/add-a-model.md", "exec"), names)
    (test,) = [function for name, function in names.items() if name.startswith("test_")]
    test(speech)


def test_a_directory_without_a_model_is_an_error_and_no_look_up(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match=r"config\.yaml: is missing"):
        import_module("my_engines.funasr_package").load(tmp_path, EngineOptions(threads=1))
