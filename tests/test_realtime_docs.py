"""What docs/realtime.md says: its program and its command run as they stand, its table names every field."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from serve_app.api.realtime.config import NoiseReduction, SemanticVad, ServerVad, Transcription
from tests.test_docs import ROOT, blocks

DOCUMENT = ROOT / "docs" / "realtime.md"
BLOCKS = blocks(DOCUMENT)


def block(language: str) -> str:
    (content,) = (content for shown, content in BLOCKS if shown == language)
    return content


def run(command: list[str], content: str, url: str, directory: Path) -> str:
    script = content.replace("localhost:8000", url.removeprefix("http://"))
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [*command, script],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


@pytest.mark.server
def test_the_program_prints_what_is_shown(server_url: str) -> None:
    assert run([sys.executable, "-c"], block("python"), server_url, ROOT) == block("text")


@pytest.mark.server
def test_the_command_gets_a_secret(server_url: str) -> None:
    answer = json.loads(run(["bash", "-euo", "pipefail", "-c"], block("sh"), server_url, ROOT))
    shown = json.loads(block("json"))
    assert answer.keys() == shown.keys()
    assert answer["value"].startswith("ek_")
    assert answer["session"]["type"] == shown["session"]["type"]


@pytest.mark.parametrize(
    ("part", "model"),
    [
        ("transcription.", Transcription),
        ("turn_detection.", ServerVad),
        ("turn_detection.", SemanticVad),
        ("", NoiseReduction),
    ],
)
def test_every_field_is_documented_with_its_default(part: str, model: type[BaseModel]) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, field in model.model_fields.items():
        if name == "type":
            continue
        assert f"`{part}{name}`" in text
        if isinstance(field.default, int | float | str):
            assert f"| `{part}{name}` | `{field.default}` |" in text
