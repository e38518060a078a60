"""The catalogue knows every model that users name, under each of its names, and says where it is broken."""

import contextlib
import http.server
import io
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from deployments.catalogue import (
    CATALOGUE,
    Catalogue,
    CatalogueError,
    ModelEntry,
    ModelRefused,
    load_catalogue,
    read_entries,
)
from deployments.engines.qwen3_languages import ALIGNED, LANGUAGES
from serve_app.cli.main import app

ROOT = Path(__file__).parents[1]
runner = CliRunner()

NAMED_BY_GUIDES = [
    "FunAudioLLM/Fun-ASR-Nano-2512",
    "FunAudioLLM/SenseVoiceSmall",
    "Qwen/Qwen3-ASR-0.6B",
    "Qwen/Qwen3-ASR-1.7B",
    "Qwen/Qwen3-ForcedAligner-0.6B",
    "damo/punc_ct-transformer_cn-en-common-vocab471067-large",
    "damo/punc_ct-transformer_cn-en-common-vocab471067-large-onnx",
    "damo/punc_ct-transformer_zh-cn-common-vad_realtime-vocab272727-onnx",
    "damo/speech_fsmn_vad_zh-cn-16k-common-onnx",
    "damo/speech_fsmn_vad_zh-cn-16k-common-pytorch",
    "damo/speech_fsmn_vad_zh-cn-8k-common-onnx",
    "damo/speech_ngram_lm_zh-cn-ai-wesp-fst",
    "damo/speech_ngram_lm_zh-cn-ai-wesp-fst-token8358",
    "damo/speech_paraformer-large-contextual_asr_nat-zh-cn-16k-common-vocab8404-onnx",
    "damo/speech_paraformer-large-vad-punc-spk_asr_nat-zh-cn",
    "damo/speech_paraformer-large-vad-punc_asr_nat-en-16k-common-vocab10020",
    "damo/speech_paraformer-large-vad-punc_asr_nat-zh-cn-16k-common-vocab8404-onnx",
    "damo/speech_paraformer-large-vad-punc_asr_nat-zh-cn-16k-common-vocab8404-pytorch",
    "damo/speech_paraformer-large_asr_nat-zh-cn-16k-common-vocab8404-online",
    "damo/speech_paraformer-large_asr_nat-zh-cn-16k-common-vocab8404-online-onnx",
    "damo/speech_paraformer-large_asr_nat-zh-cn-16k-common-vocab8404-pytorch",
    "damo/speech_paraformer_asr_nat-zh-cn-8k-common-vocab8358-tensorflow1-onnx",
    "damo/speech_timestamp_prediction-v1-16k-offline",
    "iic/SenseVoiceSmall",
    "iic/SenseVoiceSmall-onnx",
    "iic/Whisper-large-v3",
    "iic/Whisper-large-v3-turbo",
    "iic/emotion2vec_plus_base",
    "iic/emotion2vec_plus_large",
    "iic/emotion2vec_plus_seed",
    "iic/punc_ct-transformer_zh-cn-common-vad_realtime-vocab272727",
    "iic/punc_ct-transformer_zh-cn-common-vocab272727-pytorch",
    "iic/speech_campplus_speaker-diarization_common",
    "iic/speech_campplus_sv_zh-cn_16k-common",
    "iic/speech_ngram_lm_zh-cn-ai-wesp-fst",
    "iic/speech_paraformer-large-vad-punc_asr_nat-zh-cn-16k-common-vocab8404-pytorch",
    "iic/speech_paraformer_asr_nat-zh-cn-16k-common-vocab8404-online",
    "iic/speech_sanm_kws_phone-xiaoyun-commands-offline",
    "iic/speech_sanm_kws_phone-xiaoyun-commands-online",
    "iic/speech_seaco_paraformer_large_asr_nat-zh-cn-16k-common-vocab8404-pytorch",
    "thuduj12/fst_itn_zh",
]
"""Ids of the guides that people follow when they set such a service up."""

NAMES = [
    "qwen3-asr-1.7b",
    "qwen3-asr-0.6b",
    "paraformer-large",
    "Fun-ASR-Nano",
    "SenseVoiceSmall",
    "Paraformer-zh",
    "SeACo-Paraformer",
    "Paraformer-zh-spk",
    "Paraformer-en",
    "Whisper-large-v3",
    "Whisper-large-v3-turbo",
    "Paraformer-zh-streaming",
    "Paraformer-zh-streaming-small",
    "FSMN-VAD",
    "CT-Punc",
    "CAM++",
    "Ngram-LM",
    "FST_ITN_zh",
    "FA-zh",
    "emotion2vec+large",
    "emotion2vec+base",
    "emotion2vec+seed",
    "FSMN-KWS",
    "SANM-KWS",
]
"""Names of the same guides, in their spelling."""


@pytest.fixture
def catalogue() -> Catalogue:
    return load_catalogue()


@pytest.mark.parametrize("reference", [*NAMED_BY_GUIDES, *NAMES])
def test_every_model_of_the_guides_is_known(catalogue: Catalogue, reference: str) -> None:
    assert catalogue.find(reference) is not None


def test_aliases_are_funasrs(catalogue: Catalogue) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        from funasr.download.name_maps_from_hub import name_maps_hf, name_maps_ms

    for alias, identifier in name_maps_ms.items():
        entry = catalogue.find(alias)
        assert entry is not None
        assert entry is catalogue.find(identifier)
    for alias, identifier in name_maps_hf.items():
        assert catalogue.find(identifier) is not None, alias


def test_names_are_found_in_any_case_and_under_the_organizations_old_name(catalogue: Catalogue) -> None:
    vad = catalogue.find("fsmn-vad")
    assert vad is not None
    for reference in ("FSMN-VAD", " fsmn-vad ", *vad.ids, *(one.replace("iic/", "damo/") for one in vad.ids)):
        assert catalogue.find(reference) is vad
    assert catalogue.find("nobody/fsmn-vad") is None
    assert catalogue.find("") is None
    starter = catalogue.find("models/starter/paraformer")
    assert starter is catalogue.find("paraformer-starter")
    assert starter in catalogue.of_task("asr")
    assert vad in catalogue.of_task("vad")


def test_entries_say_what_users_need_to_know(catalogue: Catalogue) -> None:
    for entry in catalogue:
        assert entry.license, entry.name
        assert entry.languages, entry.name
        assert bool(entry.backends) == bool(entry.gives) == (entry.planned is None), entry.name
        text_only = {"punctuation", "punctuation-realtime", "language-model", "itn"}
        assert (entry.sample_rate is None) == (entry.task in text_only), entry.name
        if entry.planned:
            with pytest.raises(ModelRefused, match=rf"^The model {entry.name} cannot be used: "):
                entry.check_usable()
        else:
            entry.check_usable()
            assert entry.size_mb or entry.path, entry.name


def test_what_stands_for_a_missing_engine_exists(catalogue: Catalogue) -> None:
    """The message of a model without an engine names another one, which has one."""
    for entry in catalogue:
        words = re.findall(r"[\w.+-]+", (entry.planned or "").replace(". ", " ").rstrip("."))
        found = [catalogue.find(word) for word in words]
        named = [other for other in found if other is not None and other is not entry]
        assert all(other.planned is None for other in named), entry.name
        assert named or entry.task == "itn" or not entry.planned, entry.name


def test_starter_models_are_as_large_as_said(catalogue: Catalogue) -> None:
    starters = {entry.path: entry.size_mb for entry in catalogue if entry.path}
    assert starters.keys() == {
        f"models/starter/{path.name}" for path in (ROOT / "models" / "starter").iterdir()
    }
    for place, said in starters.items():
        size = sum(file.stat().st_size for file in (ROOT / place).iterdir()) / 1e6
        assert said is not None
        assert size == pytest.approx(said, abs=1 + 0.1 * said), place


def test_languages_are_those_of_the_engines(catalogue: Catalogue) -> None:
    for entry in catalogue:
        if entry.engine == "qwen3":
            assert entry.languages == tuple(LANGUAGES)
        if entry.engine == "qwen3_aligner":
            assert set(entry.languages) == ALIGNED


def write(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"models": list(entries)}, allow_unicode=True), "utf-8")
    return path


MINE = {"name": "mine", "title": "Mine", "task": "asr", "engine": "my_engine.asr", "path": "/models/mine"}


def test_models_of_ones_own_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "models.yaml", MINE, {**MINE, "name": "ct-punc", "path": "/models/other"})
    added = load_catalogue(file)
    assert len(added) == len(load_catalogue()) + 1
    mine, replaced = added.find("mine"), added.find("ct-punc")
    assert mine is not None
    assert mine.engine == "my_engine.asr"
    assert replaced is not None
    assert replaced.path == "/models/other"
    monkeypatch.setenv("MODELS_FILE", str(file))
    assert load_catalogue().find("/models/mine") == mine


def test_one_directory_may_have_several_entries(tmp_path: Path) -> None:
    again = {**MINE, "name": "again", "modelscope": ["iic/SenseVoiceSmall"]}
    added = load_catalogue(write(tmp_path / "models.yaml", MINE, again))
    for reference, name in (
        ("again", "again"),
        ("/models/mine", "mine"),
        ("iic/SenseVoiceSmall", "sensevoice-small"),
    ):
        found = added.find(reference)
        assert found is not None
        assert found.name == name


def test_delivered_ids_are_those_of_one_model_each(catalogue: Catalogue) -> None:
    for entry in catalogue:
        assert all(catalogue.find(place) is entry for place in (*entry.ids, entry.path) if place), entry.name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "asrr"}, r"entry 1 \(mine\): task: .*'asr'"),
        ({"licence": "MIT"}, r"entry 1 \(mine\): licence: .*not permitted"),
        ({"languages": "zh"}, r"languages: .*tuple"),
        ({"sample_rate": -1}, "sample_rate: .*greater than 0"),
        ({"name": "My Model"}, r"entry 1 \(My Model\): name: .*match"),
        ({"engine": None}, "engine: say what runs it"),
        ({"path": None}, "path: say where it is"),
        ({"needs": ["vat"]}, "model mine, needs: 'vat' is neither a task nor a model"),
        ({"aliases": ["FSMN-vad"]}, "'fsmn-vad' means both the model fsmn-vad and mine"),
    ],
)
def test_a_wrong_entry_is_named_with_its_field(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    entry = {key: value for key, value in {**MINE, **fields}.items() if value is not None}
    file = write(tmp_path / "models.yaml", entry)
    with pytest.raises(CatalogueError, match=message) as caught:
        load_catalogue(file)
    assert str(file) in str(caught.value)
    result = runner.invoke(app, ["models", "list", "--models-file", str(file)])
    assert result.exit_code == 1
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("models: [", "is not YAML"),
        (b"\xff\xfe\xff", "is not YAML"),
        ("- name: mine", "has no list of models"),
        ("models: {mine: {}}", "has no list of models"),
        ("models: [mine]", "entry 1 is not a list of fields"),
        ("", "has no list of models"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_is_no_list_of_models_is_named(
    tmp_path: Path, content: str | bytes | None, message: str
) -> None:
    file = tmp_path / "models.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CatalogueError, match=message) as caught:
        load_catalogue(file)
    assert str(file) in str(caught.value)


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="two entries have the name 'mine'"):
        read_entries(write(tmp_path / "models.yaml", MINE, MINE))


def test_entries_cannot_be_changed() -> None:
    entry = ModelEntry.model_validate(MINE)
    with pytest.raises(ValueError, match="frozen"):
        entry.task = "vad"  # type: ignore[misc]  # what a frozen model refuses


def rows(*arguments: str) -> dict[str, list[str]]:
    result = runner.invoke(app, ["models", "list", *arguments])
    assert result.exit_code == 0, result.output
    return {cells[0]: cells[1:] for cells in (line.split("\t") for line in result.stdout.splitlines())}


def test_models_list_needs_no_server(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MODELSCOPE_PATH", str(tmp_path))
    listed = rows()
    assert list(listed) == [entry.name for entry in catalogue]
    assert listed["paraformer-starter"] == [
        "asr",
        "zh en",
        "8 MB",
        "torch, onnx",
        "models/starter/paraformer",
    ]
    assert listed["sensevoice-small"][:4] == ["asr", "zh yue en ja ko", "940 MB", "torch, onnx"]
    assert listed["whisper-large-v3"][-1] == "no engine"
    assert set(rows("--task", "vad")) == {"fsmn-vad", "fsmn-vad-8k", "fsmn-vad-starter"}
    here = rows("--here", "--task", "vad")
    assert list(here) == ["fsmn-vad-starter"]
    downloaded = tmp_path / "iic" / "speech_fsmn_vad_zh-cn-16k-common-pytorch"
    downloaded.parent.mkdir()
    downloaded.symlink_to(ROOT / "models" / "starter" / "fsmn-vad")
    assert rows("--here", "--task", "vad").keys() == {"fsmn-vad", "fsmn-vad-starter"}


class Server(http.server.BaseHTTPRequestHandler):
    """Stands in for a server with two models: one of the catalogue, one that has a name of its own."""

    def do_GET(self) -> None:
        models = [{"id": name, "owned_by": "asr-serve"} for name in ("Paraformer-Large", "ours")]
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.end_headers()
        self.wfile.write(json.dumps({"data": models}).encode())

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def test_models_list_with_a_server_says_what_is_loaded(server: str, catalogue: Catalogue) -> None:
    only = runner.invoke(app, ["models", "list", "--url", server])
    listed = [line.split() for line in only.stdout.splitlines()[1:]]
    assert listed == [["Paraformer-Large", "asr-serve"], ["ours", "asr-serve"]]
    everything = rows("--url", server, "--all")
    assert everything.keys() == {entry.name for entry in catalogue} | {"ours"}
    assert {name for name, cells in everything.items() if cells[-1] == "loaded"} == {
        "paraformer-large",
        "ours",
    }


def test_models_show() -> None:
    result = runner.invoke(app, ["models", "show", "damo/speech_fsmn_vad_zh-cn-16k-common-onnx"])
    assert result.exit_code == 0
    assert "funasr/fsmn-vad" in result.stdout
    unknown = runner.invoke(app, ["models", "show", "nothing"])
    assert unknown.exit_code == 1
    assert "There is no model 'nothing'" in unknown.stderr


def test_the_commands_of_the_document_run_as_they_stand(server: str) -> None:
    document = (ROOT / "docs" / "models.md").read_text("utf-8")
    (block,) = re.findall(r"^```bash\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        program, *arguments = line.replace("http://localhost:8000", server).split()
        assert program == ".venv/bin/asr-serve"
        result = runner.invoke(app, arguments)
        assert result.exit_code == 0, line
        assert len(result.stdout.splitlines()) >= 2


def test_the_document_shows_the_catalogue() -> None:
    document = (ROOT / "docs" / "models.md").read_text("utf-8")
    assert runner.invoke(app, ["models", "table"]).stdout in document


def test_a_wheel_holds_the_catalogue(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("configs", "deployments"):
        (tmp_path / name).symlink_to(ROOT / name)
    code = "from setuptools.build_meta import build_wheel; print(build_wheel('dist'))"
    (tmp_path / "dist").mkdir()
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    show = "from deployments import catalogue; print(catalogue.CATALOGUE, len(catalogue.load_catalogue()))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    environment.pop("MODELS_FILE", None)
    result = subprocess.run(
        [sys.executable, "-c", show],
        cwd=tmp_path / "dist",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    path, count = result.stdout.split()
    assert Path(path) == tmp_path / "installed" / "configs" / CATALOGUE.name
    assert int(count) == len(load_catalogue())
