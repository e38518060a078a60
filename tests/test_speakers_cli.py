"""``asr-serve speakers`` against the real routes; the commands of docs/speakers.md against a real server."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from benchmarks.live_server import LiveServer
from serve_app.cli.main import app
from serve_app.jobs.database import Database, database_url
from serve_app.jobs.schema import speakers
from serve_app.settings import Settings
from tests.fuzzing import fuzzed_server
from tests.test_docs import ROOT, blocks
from tests.test_speakers import ANN, BOB, VoicesGraph, wav

runner = CliRunner()


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    for name, tones in (("ann", ANN), ("bob", BOB)):
        (tmp_path / f"{name}.wav").write_bytes(wav(tones))
    with fuzzed_server(tmp_path, VoicesGraph()) as address:
        yield address


def speakers_of(url: str, *arguments: str | Path) -> tuple[int, str]:
    """Exit status, and all that is printed."""
    result = runner.invoke(app, ["speakers", *map(str, arguments), "--url", url])
    return result.exit_code, result.output


def test_add_list_remove(url: str, tmp_path: Path) -> None:
    ann, bob = tmp_path / "ann.wav", tmp_path / "bob.wav"
    status, output = speakers_of(url, "add", "Ann", ann, ann)
    assert (status, output.partition(" (")[0]) == (0, "Ann is known by 8.0 s of speech in 2 recordings")
    assert speakers_of(url, "add", "Bob", bob)[0] == 0
    status, output = speakers_of(url, "list")
    rows = [line.split("\t") for line in output.splitlines()]
    assert [row[1:3] for row in rows] == [
        ["Bob", "4.0 s of speech in 1 recording"],
        ["Ann", "8.0 s of speech in 2 recordings"],
    ]
    assert speakers_of(url, "remove", "Ann") == (0, "Ann is forgotten.\n")
    assert speakers_of(url, "remove", rows[0][0])[0] == 0
    assert speakers_of(url, "list") == (0, "")


def test_what_is_wrong_is_said(url: str, tmp_path: Path) -> None:
    ann, bob = tmp_path / "ann.wav", tmp_path / "bob.wav"
    assert "there is no file" in speakers_of(url, "add", "Ann", tmp_path / "none.wav")[1]
    assert speakers_of(url, "remove", "Ann")[0] == 1
    assert speakers_of(url, "remove", "spk_none")[0] == 1
    assert speakers_of(url, "add", "Ann", ann)[0] == 0
    status, output = speakers_of(url, "add", "Ann", bob)
    assert (status, "does not sound like" in output) == (1, True)


def test_voices_of_another_model_are_pointed_out(url: str, tmp_path: Path) -> None:
    assert speakers_of(url, "add", "Ann", tmp_path / "ann.wav")[0] == 0
    with Database(database_url(Settings(data_dir=tmp_path))).write() as connection:
        connection.execute(update(speakers).values(model="another"))
    assert "of another speaker model" in speakers_of(url, "list")[1]


@pytest.mark.server
def test_the_commands_of_the_document_run_as_they_stand(server: LiveServer) -> None:
    shown = blocks(ROOT / "docs" / "speakers.md")
    here = {**os.environ, "ASR_SERVE_URL": server.url}
    printed = []
    for language, content in shown:
        if language == "bash":
            command = content.replace("localhost:8000", server.url.removeprefix("http://"))
            shell = ["bash", "-euo", "pipefail", "-c", command]
            printed.append(
                subprocess.run(shell, cwd=ROOT, env=here, capture_output=True, text=True, check=True)
            )
    by_command, by_http = (result.stdout for result in printed)
    assert "[王芳] " in by_command
    assert "说话人" not in by_command
    assert by_command.endswith("王芳 is forgotten.\n")
    [example] = [json.loads(content) for language, content in shown if language == "json"]
    speaker = json.loads(by_http)
    assert runner.invoke(app, ["speakers", "remove", speaker["id"], "--url", server.url]).exit_code == 0
    own = ("id", "created_at", "model", "seconds")
    assert {**speaker, **dict.fromkeys(own)} == {**example, **dict.fromkeys(own)}
    assert speaker["seconds"] == pytest.approx(example["seconds"], abs=0.3)
