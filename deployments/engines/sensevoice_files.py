"""What a directory of SenseVoiceSmall has to hold, in either of its forms."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployments.engines.model_files import ModelFilesError, read_file_names
from deployments.engines.model_files import sentencepiece_file as _sentencepiece_file
from deployments.engines.sensevoice_text import Vocabulary

MODEL = "SenseVoiceSmall"


def check_kind(config_file: Path, config: Mapping[str, Any]) -> None:
    """Raise :class:`ModelFilesError` if ``config``, which may leave things out, is another model's."""
    expected = {"model": MODEL, "encoder": "SenseVoiceEncoderSmall", "frontend": "WavFrontend"}
    for key, value in expected.items():
        if config.get(key, value) != value:
            problem = f"{key}: {config[key]} is not supported, only {value}"
            raise ModelFilesError(config_file, problem, "point this engine at a SenseVoiceSmall's directory")


def read_vocabulary(directory: Path) -> Vocabulary:
    """The SentencePiece model of a directory; raises :class:`ModelFilesError`."""
    return Vocabulary(_sentencepiece_file(directory, read_file_names(directory)))
