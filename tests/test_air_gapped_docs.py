"""The commands of docs/air-gapped.md, one after the other as they stand there, against stubs of the hubs."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.catalogue import load_catalogue
from deployments.model_store import find_model
from serve_app.app import build
from serve_app.cli.main import app
from serve_app.model_hub.selection import PROFILES
from serve_app.settings import Settings
from tests.hub_models import isolate, starter_files
from tests.stub_hubs import StubHubs, stub_hubs
from tests.test_docs import ROOT, blocks
from tests.whole_models import write_onnx

STARTERS = {
    "asr": "paraformer",
    "asr-streaming": "paraformer-streaming",
    "vad": "fsmn-vad",
    "punctuation": "ct-punc",
    "punctuation-realtime": "ct-punc-realtime",
    "speaker": "campplus",
}
EXPECTED = {
    "pull --profile": "paraformer-large: whole, all hashes match",
    "pack --profile": "paraformer-large: 7 files",
    "unpack": "paraformer-large: whole, all hashes match (new here)",
    "verify": "paraformer-large: whole, the hashes of 7 files match",
    "pull fsmn-vad cam++": "cam++: whole, all hashes match (it was here)",
    "--hub huggingface": "fsmn-vad: whole, all hashes match (0.9 MB came)",
    "--onnx": "fsmn-vad: whole",
    "list --here": "ct-punc-realtime\t",
    "verify fsmn-vad": "fsmn-vad: whole, the hashes",
    "prune": "There is nothing to remove",
}
"""What is printed, by a part of the command."""


@pytest.fixture
def hubs(tmp_path: Path) -> Iterator[StubHubs]:
    catalogue = load_catalogue()
    with stub_hubs() as running:
        for name in PROFILES["cpu"]:
            entry = catalogue.find(name)
            assert entry is not None
            running.models[entry.modelscope[0]] = starter_files(STARTERS[entry.task])
        vad = catalogue.find("fsmn-vad")
        assert vad is not None
        running.models[vad.huggingface[0]] = starter_files("fsmn-vad")
        write_onnx(tmp_path / "graph")
        graph = (tmp_path / "graph").read_bytes()
        running.models[vad.onnx[0]] = {"config.yaml": b"model: X\n", "model_quant.onnx": graph}
        yield running


def test_the_commands_run_as_they_stand(
    hubs: StubHubs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    content = [block for language, block in blocks(ROOT / "docs" / "air-gapped.md") if language == "bash"]
    commands = [line for block in content for line in block.splitlines()]
    told = set()
    machine = tmp_path / "outside"
    for command in commands:
        if " unpack " in command:
            machine = tmp_path / "site"
            isolate(monkeypatch, machine)
        elif " pull " in command:
            isolate(monkeypatch, machine, hubs)
        if command.endswith("make serve"):
            serve(command, monkeypatch)
        else:
            told.add(run(command))
    assert told == set(EXPECTED)


def run(command: str) -> str:
    """Which part of the command told what it prints."""
    program, *arguments = shlex.split(command)
    assert program == ".venv/bin/asr-serve"
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, (command, result.output)
    part = max((part for part in EXPECTED if part in command), key=len)
    assert EXPECTED[part] in result.output, (command, result.output)
    return part


def serve(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``make serve`` does first of all, and what fails where a model is missing."""
    variables = dict(word.split("=", 1) for word in shlex.split(command) if "=" in word)
    with monkeypatch.context() as started:
        for name, value in variables.items():
            started.setenv(name, value)
        build({})
        assert find_model(Settings().enabled_models, Settings().modelscope_path).parent.name == "iic"
