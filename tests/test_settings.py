"""Settings: where they come from, what is refused, and that a missing model stops the start at once."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from deployments.model_store import ModelMissing, find_model
from serve_app.app import build
from serve_app.settings import Settings
from tests.whole_models import write_funasr


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_the_environment_wins_over_the_config_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_SEGMENT_SEC", "45")
    settings = Settings(max_segment_sec=60, merge_segment_sec=15)
    assert (settings.max_segment_sec, settings.merge_segment_sec) == (45, 15)


def test_an_empty_variable_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "")
    assert Settings().api_key is None


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2048", 2048 * 2**20),
        ("2GB", 2 * 2**30),
        ("1.5 g", 1536 * 2**20),
        ("500mb", 500 * 2**20),
        ("512K", 2**19),
    ],
)
def test_upload_limit_takes_units(monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
    monkeypatch.setenv("MAX_AUDIO_SIZE", text)
    assert Settings().max_audio_bytes == size


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_audio_size", "lots"), ("max_audio_size", "0"), ("max_segment_sec", 0), ("no_such_setting", 1)],
)
def test_bad_values_are_refused_by_name(name: str, value: object) -> None:
    values: dict[str, Any] = {name: value}
    with pytest.raises(ValidationError, match=name):
        Settings(**values)


def test_the_key_is_not_shown() -> None:
    assert "secret-key" not in repr(Settings(api_key="secret-key"))


@pytest.mark.parametrize(
    "name",
    [
        *("ENABLED_MODELS", "DEVICE", "API_KEY", "LOG_LEVEL", "DEBUG", "MAX_AUDIO_SIZE", "MAX_SEGMENT_SEC"),
        *("ASR_BATCH_SIZE", "MODELSCOPE_PATH", "ASR_ENABLE_NEARFIELD_FILTER", "ASR_ENABLE_LM"),
        *("ENABLE_STREAMING_VLLM", "WORKERS"),
        *("HF_HOME", "HOST", "PORT", "CUDA_VISIBLE_DEVICES", "FUNASR_HOST", "FUNASR_PORT"),
        *("--model-dir", "--online-model-dir", "--vad-dir", "--punc-dir", "--itn-dir", "--lm-dir"),
        *("--hotword", "--download-model-dir"),
    ],
)
def test_what_other_servers_are_set_by_is_told(name: str) -> None:
    text = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text(encoding="utf-8")
    section = text.partition("## Coming from other servers\n")[2].partition("\n## ")[0]
    (line,) = [line for line in section.splitlines() if re.match(rf"\|[^|]*`{name}`[^|]*\|", line)]
    settings = {field.upper() for field in Settings.model_fields}
    # What is the same here is a setting, and others say what to set instead, or why there is nothing to set.
    assert "the same" not in line or name in settings | {"HF_HOME", "CUDA_VISIBLE_DEVICES"}
    assert {*re.findall(r"`([A-Z][A-Z_]+_(?:MODEL|PATH|FILE|LM|SIZE))`", line)} <= settings


def test_variables_of_many_programs_keep_no_server_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("DEBUG", "app:*"), ("WORKERS", "auto"), ("HOST", "workstation"), ("PORT", "x")):
        monkeypatch.setenv(name, value)
    assert Settings().debug is False
    monkeypatch.setenv("DEBUG", "1")
    assert Settings().debug is True


def test_a_missing_model_stops_the_build_and_is_named() -> None:
    with pytest.raises(ModelMissing, match="no-such-dir"):
        build({"paraformer_model": "/no-such-dir/paraformer"})


def test_a_directory_without_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: Paraformer\n")
    with pytest.raises(ModelMissing, match=r"model\.pt"):
        find_model(str(tmp_path), tmp_path)


def test_a_model_is_found_by_id_in_the_cache(tmp_path: Path) -> None:
    directory = write_funasr(tmp_path / "iic" / "some-model")
    assert find_model("iic/some-model", tmp_path) == directory
