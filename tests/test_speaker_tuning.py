"""What the speaker model and the settings say of comparing voices."""

from pathlib import Path

import pytest

from deployments.model_store import ModelMissing
from serve_app.app import build
from serve_app.handles import ModelHandles
from serve_app.settings import Settings
from serve_app.speaker_tuning import has_speaker_model, speaker_tuning
from tests.whole_models import write_checkpoint


def model(directory: Path, config: str) -> str:
    (directory / "config.yaml").write_text(config)
    write_checkpoint(directory / "model.pt")
    return str(directory)


@pytest.mark.parametrize(
    ("config", "setting", "similarity"),
    [
        ("model: CAMPPlus\n", None, 0.5),
        ("model: CAMPPlus\nsame_speaker_threshold: 0.62\n", None, 0.62),
        ("model: CAMPPlus\nsame_speaker_threshold: 0.62\n", 0.7, 0.7),
    ],
)
def test_the_setting_wins_over_the_model_over_the_default(
    tmp_path: Path, config: str, setting: float | None, similarity: float
) -> None:
    settings = Settings(
        speaker_model=model(tmp_path, config), speaker_similarity=setting, speaker_labels="en"
    )
    tuning = speaker_tuning(settings)
    assert (tuning.similarity, tuning.labels) == (similarity, "en")


@pytest.mark.parametrize("name", ["none", " None "])
def test_without_a_model_there_is_no_directory_to_read(name: str) -> None:
    settings = Settings(speaker_model=name, speaker_similarity=0.4)
    assert not has_speaker_model(settings)
    assert speaker_tuning(settings).similarity == 0.4


@pytest.mark.parametrize("value", ["high", "1.5", "0", "true", "[0.5]"])
def test_a_threshold_that_is_none_is_named(tmp_path: Path, value: str) -> None:
    settings = Settings(speaker_model=model(tmp_path, f"model: CAMPPlus\nsame_speaker_threshold: {value}\n"))
    with pytest.raises(ModelMissing, match=r"config\.yaml: same_speaker_threshold must be a number"):
        speaker_tuning(settings)


def test_a_missing_speaker_model_stops_the_build_and_is_named() -> None:
    with pytest.raises(ModelMissing, match="no-such-dir"):
        build({"speaker_model": "/no-such-dir/campplus"})


def test_the_graph_has_a_speaker_model_unless_there_shall_be_none() -> None:
    assert handles_of({}).speakers is not None
    assert handles_of({"speaker_model": "none"}).speakers is None


def handles_of(args: dict[str, str]) -> ModelHandles:
    """The models that the ingress of a graph is bound to."""
    bound = build(args)._bound_deployment
    return next(item for item in bound.init_args if isinstance(item, ModelHandles))
