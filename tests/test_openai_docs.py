"""The examples of docs/openai.md run as they stand, and its tables name every field with its default."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.api.openai.schema import transcription_properties
from tests.test_docs import ROOT, blocks, row

DOCUMENT = ROOT / "docs" / "openai.md"
BLOCKS = blocks(DOCUMENT)
TEXT = "请问火车站怎么走？2月15号我们坐高铁去上海。"
FIELDS = transcription_properties()


def run(language: str, content: str, url: str, directory: Path) -> str:
    program = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[language]
    script = content.replace("localhost:8000", url.removeprefix("http://"))
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [*program, script], cwd=directory, env=environment, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.server
def test_the_commands_run_and_print_what_is_shown(server_url: str) -> None:
    checked = 0
    for (language, content), (shown_as, shown) in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True):
        if language not in ("bash", "python"):
            continue
        output = run(language, content, server_url, ROOT)
        assert TEXT in output or "corrections" in content
        assert "error" not in output
        if language == "bash" and shown_as in ("json", "text"):
            assert output.strip() == shown.strip()
            checked += 1
    assert checked == 3


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_every_field_is_documented_with_its_default(name: str) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    plain = name.removesuffix("[]")
    assert re.search(rf"^\| .*`{re.escape(plain)}(\[\])?`.* \|", text, re.MULTILINE)
    default = FIELDS[name].get("default")
    if default not in (None, "", []) and name != "sample_rate":
        _, shown, _ = row(DOCUMENT, f"`{name}`")
        plain = str(default).lower() if isinstance(default, bool | str) else f"{default:g}"
        assert shown.strip("`") == plain
