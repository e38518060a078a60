"""Where models are found, in every layout of the hubs' caches, and how broken ones are told."""

import json
import struct
from pathlib import Path

import pytest

from deployments.catalogue import load_catalogue
from deployments.model_integrity import damage
from deployments.model_layout import is_whole
from deployments.model_record import FileRecord, ModelRecord, write_record
from deployments.model_store import ModelMissing, directories, find_model, present
from serve_app.app import build
from tests.whole_models import write_checkpoint, write_funasr, write_onnx, write_qwen3, write_safetensors

VAD = "iic/speech_fsmn_vad_zh-cn-16k-common-pytorch"
VAD_ONNX = "iic/speech_fsmn_vad_zh-cn-16k-common-onnx"
VAD_DIRECTORY = VAD.partition("/")[2]


@pytest.fixture(autouse=True)
def caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MODELSCOPE_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "place",
    [
        f"home/.cache/modelscope/hub/models/{VAD}",
        f"home/.cache/modelscope/hub/models/damo/{VAD_DIRECTORY}",
        f"home/.cache/modelscope/hub/{VAD}",
        f"home/.cache/modelscope/models/iic--{VAD_DIRECTORY}/snapshots/master",
        f"home/.cache/modelscope/models/damo--{VAD_DIRECTORY}/snapshots/v2.0.4",
        f"cache/models/{VAD}",
        f"cache/{VAD}",
        f"root/{VAD}",
        f"root/hub/models/{VAD}",
        f"home/.cache/huggingface/hub/models--{VAD.replace('/', '--')}/snapshots/abc",
    ],
)
def test_an_id_is_found_in_all_layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    directory = write_funasr(tmp_path / place)
    default = Path("~/.cache/modelscope/hub/models")
    root = tmp_path / "root" if place.startswith("root") else default
    if place.startswith("cache"):
        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    for reference in (VAD, VAD.replace("iic", "damo"), "fsmn-vad", "FSMN-VAD"):
        assert find_model(reference, root) == directory


@pytest.mark.parametrize("name", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_the_variables_of_hugging_face_are_heeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    below = {"HF_HOME": "hub", "XDG_CACHE_HOME": "huggingface/hub"}.get(name, ".")
    directory = write_funasr(tmp_path / "x" / below / "models--funasr--fsmn-vad" / "snapshots" / "abc")
    monkeypatch.setenv(name, str(tmp_path / "x"))
    assert find_model("funasr/fsmn-vad", tmp_path) == directory
    assert find_model("fsmn-vad", tmp_path) == directory


def test_a_dot_in_a_name_is_masked(tmp_path: Path) -> None:
    directory = write_qwen3(tmp_path / "Qwen" / "Qwen3-ASR-0___6B")
    assert find_model("qwen3-asr-0.6b", tmp_path) == directory


def test_a_whole_copy_is_taken_before_a_broken_one(tmp_path: Path) -> None:
    broken = write_funasr(tmp_path / VAD)
    (broken / "model.pt").unlink()
    whole = write_funasr(tmp_path / "hub" / VAD)
    assert find_model("fsmn-vad", tmp_path) == whole
    with pytest.raises(ModelMissing, match=r"has no model\.pt"):
        find_model(str(broken), tmp_path)


def test_an_old_revision_is_taken_while_the_new_one_is_not_whole(tmp_path: Path) -> None:
    repository = tmp_path / "home/.cache/huggingface/hub/models--funasr--fsmn-vad"
    old = write_funasr(repository / "snapshots" / "old")
    new = write_funasr(repository / "snapshots" / "new")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("new")
    assert find_model("funasr/fsmn-vad", tmp_path) == new
    (new / "model.pt").unlink()
    assert find_model("funasr/fsmn-vad", tmp_path) == old


def test_onnx_directories_are_whole_models(tmp_path: Path) -> None:
    onnx = tmp_path / VAD_ONNX
    onnx.mkdir(parents=True)
    (onnx / "vad.yaml").write_text("model: E2EVadModel\n")
    write_onnx(onnx / "model_quant.onnx")
    assert find_model(VAD_ONNX, tmp_path) == find_model("fsmn-vad", tmp_path) == onnx
    write_onnx(onnx / "decoder.onnx", b"x" * 100)
    cut(onnx / "decoder.onnx")
    with pytest.raises(ModelMissing, match=r"decoder\.onnx is damaged: it is cut off"):
        find_model("fsmn-vad", tmp_path)
    (onnx / "decoder.onnx").unlink()
    torch = write_funasr(tmp_path / VAD)
    assert find_model("fsmn-vad", tmp_path) == torch
    assert find_model("fsmn-vad", tmp_path, prefer_onnx=True) == onnx


def test_an_entry_tells_whether_it_is_here(tmp_path: Path) -> None:
    entry = load_catalogue().find("fsmn-vad")
    assert entry is not None
    assert present(entry, tmp_path) is None
    directory = write_funasr(tmp_path / VAD)
    (tmp_path / "damo").symlink_to(tmp_path / "iic")
    assert present(entry, tmp_path) == directory
    assert directories(entry, tmp_path) == [directory]
    (directory / "model.pt").write_bytes(b"")
    assert present(entry, tmp_path) is None


def test_starter_models_have_names(tmp_path: Path) -> None:
    for entry in load_catalogue():
        if entry.path is not None and (Path(__file__).parents[1] / entry.path).is_dir():
            assert find_model(entry.name, tmp_path) == Path(__file__).parents[1] / entry.path


@pytest.mark.parametrize("reference", ["fsmn-vad", VAD, "somebody/some-model"])
def test_a_model_that_is_missing_is_told_with_how_to_get_it(tmp_path: Path, reference: str) -> None:
    with pytest.raises(ModelMissing, match=f"no model {reference} under .*asr-serve models pull {reference}"):
        find_model(reference, tmp_path)


def test_a_listed_directory_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = "{name: mine, title: Mine, task: vad, engine: vad, path: weights/mine, languages: [zh]}"
    (tmp_path / "models.yaml").write_text(f"models:\n  - {entry}\n")
    monkeypatch.setenv("MODELS_FILE", str(tmp_path / "models.yaml"))
    with pytest.raises(ModelMissing, match=rf"Its directory is {tmp_path}/weights/mine: "):
        find_model("mine", tmp_path / "root")


def test_a_directory_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=r"no model at /no/where\. Give the path of a model directory"):
        find_model("/no/where", tmp_path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def test_cut_off_files_are_recognized(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("a.pt", "b.safetensors", "c.onnx", "d.json", "e.yaml")}
    write_checkpoint(files["a.pt"], b"x" * 1000)
    write_safetensors(files["b.safetensors"], b"x" * 1000)
    write_onnx(files["c.onnx"], b"x" * 100)
    files["d.json"].write_text('{"a": [1, 2]}')
    files["e.yaml"].write_text("a: [1, 2]")
    assert [damage(path) for path in files.values()] == [None] * 5
    for path in files.values():
        cut(path)
    problems = [str(damage(path)) for path in files.values()]
    assert problems[0] == problems[2] == "it is cut off"
    assert "bytes and should have" in problems[1]
    assert problems[3:] == ["it is not JSON", "it is not YAML"]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("model.pt", b"", "it is empty"),
        ("model.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
        ("model.pt", b"<html>404</html>", "not a checkpoint of PyTorch"),
        ("model.onnx", b"<html>404</html>", "not an ONNX model|cut off"),
        ("model.onnx", bytes(100), "not an ONNX model"),
        ("x.safetensors", struct.pack("<Q", 2**40), "not a safetensors file"),
        ("x.safetensors", struct.pack("<Q", 100) + b"{}", "cut off"),
        ("x.safetensors", struct.pack("<Q", 9) + b'{"x": {}}', "not a safetensors file"),
        ("config.json", b"[" * 100_000, "not JSON"),
    ],
)
def test_files_that_are_something_else_are_recognized(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AssertionError, match=problem):
        assert damage(tmp_path / name) is None, damage(tmp_path / name)


def test_checkpoints_of_old_versions_pass(tmp_path: Path) -> None:
    import torch

    for zipped in (True, False):
        torch.save({"x": torch.zeros(3)}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
        assert damage(tmp_path / "x.pt") is None


def test_a_broken_model_stops_the_start_at_once_with_file_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    monkeypatch.setenv("MODELSCOPE_PATH", str(tmp_path))
    directory = write_funasr(tmp_path / VAD)
    cut(directory / "model.pt")
    with pytest.raises(
        ModelMissing, match=r"model\.pt is damaged: it is cut off\. Run `asr-serve models pull"
    ):
        build({"vad_model": "fsmn-vad"})
    (directory / "model.pt").rename(directory / "model.pt.incomplete")
    with pytest.raises(
        ModelMissing, match=r"no model\.pt: its download was interrupted\. Run `asr-serve mod"
    ):
        build({"vad_model": VAD})


def test_what_configuration_json_names_must_be_there(tmp_path: Path) -> None:
    directory = write_funasr(tmp_path / "x")
    metas = {"init_param": "model.pt", "frontend_conf": {"cmvn_file": "am.mvn"}}
    (directory / "configuration.json").write_text(json.dumps({"file_path_metas": metas}))
    with pytest.raises(ModelMissing, match=r"has no am\.mvn"):
        find_model(str(directory), tmp_path)
    (directory / "am.mvn").write_text("<Nnet>")
    assert find_model(str(directory), tmp_path) == directory


def test_sizes_are_compared_with_those_of_the_download(tmp_path: Path) -> None:
    directory = write_funasr(tmp_path / VAD)
    (directory / "am.mvn").write_text("12345")
    files = {"am.mvn": FileRecord(5, "0" * 64), "tokens.json": FileRecord(1, "0" * 64)}
    write_record(directory, ModelRecord("modelscope", VAD, "master", files))
    with pytest.raises(ModelMissing, match=r"has no tokens\.json"):
        find_model(VAD, tmp_path)
    (directory / "tokens.json").write_text("1")
    assert is_whole(directory)
    (directory / "am.mvn").write_text("1234")
    with pytest.raises(ModelMissing, match=r"am\.mvn has 4 bytes, and had 5 when it was downloaded"):
        find_model(VAD, tmp_path)
