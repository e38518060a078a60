"""Where Qwen3 models are found, what is refused before anything starts, and what runs them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ray.serve import Application

from deployments import qwen3_asr
from deployments.model_store import ModelMissing
from deployments.qwen3_asr import choose_engine
from deployments.qwen3_store import find_qwen3
from serve_app.app import build
from serve_app.errors import ModelNotFound
from serve_app.settings import Settings
from tests.whole_models import write_qwen3, write_safetensors

ID = "Qwen/Qwen3-ASR-0.6B"
FILES = ("preprocessor_config.json", "tokenizer_config.json", "vocab.json", "merges.txt")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*(field.upper() for field in Settings.model_fields), "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hugging-face"))


def write(directory: Path, kind: str = "qwen3_asr", *, weights: bool = True) -> Path:
    write_qwen3(directory, kind)
    if not weights:
        (directory / "model.safetensors").unlink()
    return directory


def found(reference: Path | str, cache: Path, *, aligner: bool = False) -> Path:
    return find_qwen3(str(reference), cache, aligner=aligner)


def test_a_directory_is_found(tmp_path: Path) -> None:
    assert found(write(tmp_path / "a"), tmp_path) == tmp_path / "a"
    align = write(tmp_path / "b", "qwen3_forced_aligner")
    assert found(align, tmp_path, aligner=True) == align


@pytest.mark.parametrize("name", ["Qwen3-ASR-0.6B", "Qwen3-ASR-0___6B"])
def test_an_id_is_found_in_the_cache_of_modelscope(tmp_path: Path, name: str) -> None:
    directory = write(tmp_path / "Qwen" / name)
    assert found(ID, tmp_path) == directory


def test_an_id_is_found_in_the_cache_of_hugging_face(tmp_path: Path) -> None:
    model = tmp_path / "hugging-face" / "hub" / "models--Qwen--Qwen3-ASR-0.6B"
    write(model / "snapshots" / "old")
    wanted = write(model / "snapshots" / "wanted")
    write(model / "snapshots" / "other")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("wanted")
    assert found(ID, tmp_path / "modelscope") == wanted


def test_weights_in_several_files_must_all_be_there(tmp_path: Path) -> None:
    directory = write(tmp_path / "a", weights=False)
    with pytest.raises(ModelMissing, match=r"has no model\.safetensors"):
        found(directory, tmp_path)
    index = {"weight_map": {"x": "model-1.safetensors", "y": "model-2.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    write_safetensors(directory / "model-1.safetensors")
    with pytest.raises(ModelMissing, match=r"has no model-2\.safetensors"):
        found(directory, tmp_path)
    write_safetensors(directory / "model-2.safetensors")
    assert found(directory, tmp_path) == directory


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    (write(tmp_path / "a") / name).unlink()
    with pytest.raises(ModelMissing, match=f"has no {name}"):
        found(tmp_path / "a", tmp_path)


@pytest.mark.parametrize(
    ("config", "aligner", "message"),
    [
        ({"model_type": "qwen3_asr", "audio_config": {}}, False, "in the layout of transformers"),
        ({"model_type": "qwen2"}, False, "a model of the type qwen2; one such as Qwen/Qwen3-ASR-0.6B"),
        ({"thinker_config": {"model_type": "qwen3_asr"}}, True, "aligns nothing; one such as .*Aligner"),
        ({"thinker_config": {"model_type": "qwen3_forced_aligner"}}, False, "is a forced aligner"),
        ([], False, "is not a JSON object"),
        (None, False, r"has no config\.json"),
    ],
)
def test_models_of_another_kind_are_refused(tmp_path: Path, config: Any, aligner: bool, message: str) -> None:
    file = write(tmp_path / "a") / "config.json"
    file.unlink() if config is None else file.write_text(json.dumps(config))
    with pytest.raises(ModelMissing, match=message):
        found(tmp_path / "a", tmp_path, aligner=aligner)


def test_a_model_that_is_nowhere_is_told_with_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="models pull Qwen/Qwen3-ASR-7B"):
        found("Qwen/Qwen3-ASR-7B", tmp_path)


@pytest.mark.parametrize(
    ("wanted", "device", "installed", "chosen"),
    [
        ("auto", "cpu", {"vllm", "qwen_asr"}, "package"),
        ("auto", "cuda", {"vllm", "qwen_asr"}, "vllm"),
        ("auto", "cpu", {"vllm"}, "vllm"),
        ("auto", "cuda", {"qwen_asr"}, "package"),
        ("vllm", "cpu", {"vllm", "qwen_asr"}, "vllm"),
        ("package", "cuda", {"vllm", "qwen_asr"}, "package"),
        ("vllm", "cuda", {"qwen_asr"}, None),
        ("auto", "cpu", set(), None),
    ],
)
def test_what_runs_it_is_chosen_by_device_and_by_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, wanted: Any, device: str, installed: set[str], chosen: str | None
) -> None:
    monkeypatch.setattr(qwen3_asr, "find_spec", lambda name: name if name in installed else None)
    if chosen is not None:
        assert choose_engine(wanted, device) == chosen
        return
    with pytest.raises(ModelMissing, match=r"pip install .*QWEN3_MODEL=none"):
        choose_engine(wanted, device)


def names(application: Application) -> set[str]:
    """The deployments of a graph that was built."""
    seen: set[str] = set()

    def walk(node: Application) -> None:
        deployment: Any = node._bound_deployment
        seen.add(deployment.name)
        for argument in deployment.init_args:
            for child in _applications(argument):
                walk(child)

    walk(application)
    return seen


def _applications(argument: Any) -> list[Application]:
    if isinstance(argument, Application):
        return [argument]
    if isinstance(argument, Mapping):
        return [each for part in argument.values() for each in _applications(part)]
    parts = getattr(argument, "__dataclass_fields__", {})
    return [each for name in parts for each in _applications(getattr(argument, name))]


def test_what_is_not_served_is_not_there() -> None:
    both = {"Qwen3ASR", "Qwen3Aligner"}
    assert names(build({"qwen3_model": "None"})).isdisjoint(both)
    assert both & names(build({"qwen3_aligner_model": "none"})) == {"Qwen3ASR"}
    assert both < names(build({}))


def test_the_build_refuses_what_could_not_start(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="no-such-dir"):
        build({"qwen3_model": "/no-such-dir/qwen3"})
    with pytest.raises(ModelMissing, match="recognizes speech and aligns nothing"):
        build({"qwen3_aligner_model": str(write(tmp_path / "a"))})
    with pytest.raises(ModelNotFound, match="whisper"):
        build({"default_model": "whisper"})
