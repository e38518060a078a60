"""What a directory of SenseVoiceSmall has to hold, in either of its forms."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployments.engines.features import Frontend
from deployments.engines.model_files import SAME_MODEL, ModelFiles, ModelFilesError, read_file_names
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


def frontend_of(files: ModelFiles) -> Frontend:
    """What makes the features of a segment; raises :class:`ModelFilesError`."""
    try:
        frontend = Frontend(files.section("frontend_conf"), files.cmvn)
    except ValueError as error:
        raise ModelFilesError(files.directory / "config.yaml", str(error), SAME_MODEL) from error
    if files.cmvn is not None and files.cmvn.shape[1] != frontend.size:
        problem = f"has {files.cmvn.shape[1]} values, the frontend {frontend.size} features"
        raise ModelFilesError(files.directory / "am.mvn", problem, SAME_MODEL)
    return frontend
