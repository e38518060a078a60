"""What the speaker model of this service, and its settings, say of all recordings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from deployments.model_store import ModelMissing, config_file, find_model, fingerprint
from serve_app.pipeline.speakers.types import SpeakerTuning
from serve_app.settings import Settings

NO_MODEL = "none"
"""The value of ``SPEAKER_MODEL`` with which no speakers are told apart."""

THRESHOLD = "same_speaker_threshold"
"""Where a model's ``config.yaml`` says above which cosine two voices are one person's."""


def has_speaker_model(settings: Settings) -> bool:
    """Whether the graph has a speaker model."""
    return settings.speaker_model.strip().lower() != NO_MODEL


def speaker_tuning(settings: Settings) -> SpeakerTuning:
    """How voices are compared and named: the settings, else what the model directory says, else defaults.

    Raises:
        ModelMissing: the speaker model is not there, or its threshold is not a number between 0 and 1.
    """
    tuning, similarity = SpeakerTuning(labels=settings.speaker_labels), settings.speaker_similarity
    if has_speaker_model(settings):
        directory = find_model(settings.speaker_model, settings.modelscope_path)
        tuning = replace(tuning, model=fingerprint(directory))
        similarity = _threshold(directory) if similarity is None else similarity
    return tuning if similarity is None else replace(tuning, similarity=similarity)


def _threshold(directory: Path) -> float | None:
    config = config_file(directory)
    if not config.is_file():
        return None
    try:
        content: Any = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelMissing(f"{config} cannot be read as YAML ({error}). Copy the model again.") from error
    value = content.get(THRESHOLD) if isinstance(content, dict) else None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ModelMissing(
            f"{config}: {THRESHOLD} must be a number between 0 and 1, not {value!r}. "
            "Copy the model again, or set SPEAKER_SIMILARITY."
        )
    return float(value)
