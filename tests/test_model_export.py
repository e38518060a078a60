"""``asr-serve models export``: whole directories that others can use, what it prints, and what it refuses."""

import contextlib
import dataclasses
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from deployments.engines import onnx_export_punctuation, onnx_export_vad
from deployments.engines.backends import choose_backend
from deployments.engines.base import SAMPLE_RATE
from deployments.engines.onnx_export import Part
from deployments.engines.onnx_files import has_torch, onnx_file
from deployments.engines.onnx_material import speech_like
from deployments.engines.vad_onnx import FsmnVadOnnxEngine
from deployments.model_store import find_model
from serve_app.cli.main import app
from tests.onnx_models import ROOT, STARTER
from tests.vad_models import write_model

VAD, PUNCTUATION = STARTER / "fsmn-vad", STARTER / "ct-punc"
runner = CliRunner()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In stereo and at another rate than the models': it is decoded as what clients send is."""
    path = tmp_path_factory.mktemp("audio") / "speech.flac"
    samples = np.repeat(speech_like(6, seed=3)[:, None], 2, axis=1)
    soundfile.write(path, samples, 2 * SAMPLE_RATE)
    return path


def export(*arguments: object) -> tuple[int, str]:
    """The command's status, and all that it printed."""
    result = runner.invoke(app, ["models", "export", *map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of the document are run: a directory with what the repository has."""
    directory = tmp_path_factory.mktemp("home")
    for name in ("models", "samples"):
        (directory / name).symlink_to(ROOT / name)
    return directory


@pytest.fixture(scope="module")
def vad(home: Path) -> tuple[Path, str]:
    """The starter model exported and quantized, on the repository's samples, and what was printed."""
    return home / "fsmn-vad-onnx", run_as_it_stands(home, 0)


def run_as_it_stands(home: Path, number: int) -> str:
    """What a command of the document prints."""
    document = (ROOT / "docs" / "onnx.md").read_text("utf-8")
    command = document.split("```bash\n")[1].splitlines()[number]
    program, models, name, *arguments = shlex.split(command)
    assert (program, models, name) == (".venv/bin/asr-serve", "models", "export")
    with contextlib.chdir(home):
        status, printed = export(*arguments)
    assert status == 0, printed
    return printed


def test_forms_are_compared_and_reported(vad: tuple[Path, str]) -> None:
    directory, printed = vad
    rows = {" ".join(line.split()[:2]): line for line in printed.splitlines()}
    assert rows.keys() >= {"PyTorch fp32", "ONNX fp32", "ONNX int8"}
    assert "0.00% of the speech" in rows["ONNX fp32"]
    assert "spans" in rows["ONNX int8"]
    for row, file in (("ONNX fp32", "model.onnx"), ("ONNX int8", "model_quant.onnx")):
        assert f"{(directory / file).stat().st_size / 1e6:.1f} MB" in rows[row]
    assert f"Written to {directory.name}" in printed


def test_the_document_shows_what_is_printed_and_which_limits_hold(vad: tuple[Path, str]) -> None:
    document = (ROOT / "docs" / "onnx.md").read_text("utf-8")
    shown = document.split("```\nform ")[1].splitlines()[0].split()
    assert shown == vad[1].splitlines()[0].split()[1:]
    for name, kinds in (
        ("FSMN-VAD", onnx_export_vad.EXPORTERS),
        ("CT-Transformer, whole and live", onnx_export_punctuation.EXPORTERS),
    ):
        (row,) = re.findall(rf"^\| {name} \| .* \| ([\d.]+) % \| (\d+) % \|$", document, re.MULTILINE)
        assert {exporter.limits for exporter in kinds.values()} == {(float(row[0]) / 100, int(row[1]) / 100)}


def test_the_output_is_named_and_found(home: Path) -> None:
    """The second command of the document."""
    assert "words/s" in run_as_it_stands(home, 1)
    assert onnx_file(home / "my-models" / "ct-punc") == home / "my-models" / "ct-punc" / "model_quant.onnx"
    assert (home / "my-models" / "ct-punc" / "tokens.json").is_file()


def test_the_directory_is_whole_and_found(vad: tuple[Path, str]) -> None:
    directory, _ = vad
    names = {path.name for path in directory.iterdir()}
    assert names == {"am.mvn", "config.yaml", "configuration.json", "model.onnx", "model_quant.onnx"}
    assert find_model(str(directory), Path("none")) == directory.resolve()
    assert onnx_file(directory) == directory / "model_quant.onnx"
    assert not has_torch(directory)
    assert has_torch(VAD)
    assert onnx_file(VAD) is None
    assert choose_backend("auto", directory, "cpu") == "onnx"
    assert choose_backend("auto", VAD, "cpu") == "torch"
    FsmnVadOnnxEngine(directory, threads=1)


def test_what_it_is_compared_on_can_be_given(tmp_path: Path, recording: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("今天天气怎么样\n明天会下雨吗我不知道\n", "utf-8")
    status, printed = export(PUNCTUATION, "-o", tmp_path / "punc", "--check", text)
    assert status == 0, printed
    assert "of the marks (0 of 17)" in printed
    small = write_model(tmp_path / "small")
    status, printed = export(small, "-o", tmp_path / "vad", "--check", recording)
    assert status == 0, printed
    assert "int8" not in printed
    status, printed = export(small, "-o", tmp_path / "other", "--check", text.with_name("am.mvn"))
    assert status == 2


def test_a_model_that_int8_slows_down_stays_as_it_is(tmp_path: Path, recording: Path) -> None:
    status, printed = export(
        STARTER / "campplus", "-o", tmp_path / "campplus", "--quantize", "--check", recording
    )
    assert status == 0, printed
    assert "similarity 1.000000 at least" in printed
    assert "No int8 form was made" in printed
    assert {path.name for path in (tmp_path / "campplus").glob("*.onnx")} == {"model.onnx"}


def test_nothing_is_written_if_a_graph_finds_something_else(
    tmp_path: Path, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a layer had been exported wrongly."""
    exporter = onnx_export_vad.EXPORTERS["FsmnVADStreaming"]

    def wrong(directory: Path) -> list[Part]:
        (part,) = exporter.parts(directory)
        with torch.no_grad():
            for parameter in part.module.parameters():
                parameter.mul_(0.9)
        return [part]

    replaced = dataclasses.replace(exporter, parts=wrong)
    monkeypatch.setitem(onnx_export_vad.EXPORTERS, "FsmnVADStreaming", replaced)
    status, printed = export(write_model(tmp_path / "vad"), "-o", tmp_path / "new", "--check", recording)
    assert status == 1
    assert "ONNX fp32 differs from PyTorch in " in printed
    assert "Nothing was written." in printed
    assert [path.name for path in tmp_path.iterdir()] == ["vad"]


def test_an_int8_graph_that_is_too_far_off_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a limit that none can keep."""
    exporter = onnx_export_punctuation.EXPORTERS["CTTransformer"]
    strict = dataclasses.replace(exporter, limits=(exporter.limits[0], -1.0))
    monkeypatch.setitem(onnx_export_punctuation.EXPORTERS, "CTTransformer", strict)
    status, printed = export(PUNCTUATION, "-o", tmp_path / "new", "--quantize")
    assert status == 1
    assert "ONNX int8 differs from PyTorch in " in printed
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_refused_with_a_sentence(tmp_path: Path, vad: tuple[Path, str]) -> None:
    status, printed = export(VAD, "-o", vad[0])
    assert (status, "is already there" in printed) == (1, True)
    status, printed = export(tmp_path / "none")
    assert (status, "There is no model" in printed) == (1, True)
    status, printed = export(vad[0], "-o", tmp_path / "new")
    assert (status, "holds no PyTorch weights" in printed) == (1, True)
    other = tmp_path / "other"
    shutil.copytree(PUNCTUATION, other)
    config = (other / "config.yaml").read_text("utf-8")
    (other / "config.yaml").write_text(config.replace("CTTransformer", "Whisper"), "utf-8")
    status, printed = export(other, "-o", tmp_path / "new")
    assert (status, "there is no ONNX export of a Whisper" in printed) == (1, True)
    noise = tmp_path / "noise.wav"
    noise.write_text(json.dumps("not audio"), "utf-8")
    status, printed = export(VAD, "-o", tmp_path / "new", "--check", noise)
    assert (status, "noise.wav: " in printed) == (1, True)
    assert not (tmp_path / "new").exists()
