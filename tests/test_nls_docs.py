"""What docs/nls.md says: its programs run as they stand with Aliyun's own SDKs, its tables are complete."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.api.nls.errors import CODES
from serve_app.api.nls.wire import StartPayload
from tests.test_docs import ROOT, blocks

DOCUMENT = ROOT / "docs" / "nls.md"
BLOCKS = blocks(DOCUMENT)
TEXT = "请问火车站怎么走？2月15号我们坐高铁去上海。"


def commands(language: str) -> list[str]:
    return [content for shown, content in BLOCKS if shown == language]


@pytest.fixture(scope="module")
def sdks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with both SDKs, installed by the commands of the document.

    Skips where the registries cannot be reached.
    """
    directory = tmp_path_factory.mktemp("sdks")
    (directory / "samples").symlink_to(ROOT / "samples")
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands("bash"):
        # Not into the environment of the tests.
        environment = {**os.environ, "PATH": path, "PIP_TARGET": str(directory)}
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if result.returncode:
            pytest.skip(f"the SDKs cannot be installed: {result.stderr[-300:]}")
    return directory


def run(program: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(directory), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        program, cwd=directory, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.server
def test_the_commands_run_and_print_what_is_said(sdks: Path, server_url: str) -> None:
    """The live server is what ``make serve`` starts, so the edge repairs the Python SDK's handshake."""
    programs = [[sys.executable, "-W", "ignore", "-c", content] for content in commands("python")]
    programs += [["node", "-e", content] for content in commands("javascript")]
    assert len(programs) == 3
    for program in programs:
        content = program[-1].replace("localhost:8000", server_url.removeprefix("http://"))
        result = run([*program[:-1], content], sdks)
        assert result.returncode == 0, result.stderr[-2000:]
        assert TEXT in result.stdout.splitlines(), result.stdout


@pytest.mark.server
def test_a_recognizer_of_the_node_sdk(sdks: Path, server_url: str) -> None:
    (content,) = commands("javascript")
    recognizer = (
        content.replace("SpeechTranscription(", "SpeechRecognition(")
        .replace('"end"', '"completed"')
        .replace("localhost:8000", server_url.removeprefix("http://"))
    )
    result = run(["node", "-e", recognizer], sdks)
    assert (result.returncode, result.stdout.strip()) == (0, TEXT), result.stderr[-2000:]


@pytest.mark.server
def test_the_python_sdk_hears_why_a_task_failed(sdks: Path, server_url: str) -> None:
    content = commands("python")[0].replace("localhost:8000", server_url.removeprefix("http://"))
    content = content.replace('"max_sentence_silence": 800', '"max_sentence_silence": 5')
    result = run([sys.executable, "-W", "ignore", "-c", content], sdks)
    assert result.returncode == 1
    assert "Gateway:PARAMETER_INVALID:" in result.stderr
    assert "'max_sentence_silence'" in result.stderr


def test_every_parameter_is_documented() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    elsewhere = {"appkey", "sentence_max_length"}
    for name in set(StartPayload.model_fields) - elsewhere:
        assert re.search(rf"^\| .*`{name}`.* \|", text, re.MULTILINE), name


def test_every_code_is_documented() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for code in CODES.values():
        assert f"| {code.status} |" in text
