"""What ``asr-serve doctor`` finds out about Qwen3-ASR: its models, what runs them, and the default model."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from serve_app.errors import ModelNotFound
from serve_app.models import ServedModels, has_aligner, has_qwen3
from serve_app.settings import Settings


class Level(StrEnum):
    """How bad a finding is."""

    FINE = "ok"
    NOTE = "note"
    BLOCKS = "PROBLEM"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check; ``advice`` says what to do, and is empty where nothing is to be done."""

    name: str
    level: Level
    found: str
    advice: str = ""


def qwen3_models(settings: Settings) -> Iterator[Finding]:
    """Look for the directories, and for what is to run them."""
    try:
        ServedModels(settings)
    except ModelNotFound as error:
        yield Finding("default model", Level.BLOCKS, error.message, "set DEFAULT_MODEL to one of them")
    if not has_qwen3(settings):
        yield Finding("qwen3 model", Level.FINE, "none: Qwen3-ASR is not served")
        return
    yield _engine(settings)
    yield _model("qwen3_model", settings.qwen3_model, settings, aligner=False)
    if has_aligner(settings):
        yield _model("qwen3_aligner_model", settings.qwen3_aligner_model, settings, aligner=True)
    else:
        yield Finding("qwen3 aligner", Level.FINE, "none: times of Qwen3-ASR's words are estimated")


def _engine(settings: Settings) -> Finding:
    from deployments.model_store import ModelMissing
    from deployments.qwen3_asr import choose_engine

    try:
        kind = choose_engine(settings.qwen3_engine, settings.device)
    except ModelMissing as error:
        return Finding("qwen3 engine", Level.BLOCKS, str(error))
    names = {"vllm": "vLLM", "package": "the qwen-asr package"}
    return Finding("qwen3 engine", Level.FINE, names[kind])


def _model(field: str, reference: str, settings: Settings, *, aligner: bool) -> Finding:
    from deployments.model_store import ModelMissing
    from deployments.qwen3_store import find_qwen3

    name = field.replace("_", " ") if not aligner else "qwen3 aligner"
    try:
        directory = find_qwen3(reference, settings.modelscope_path, aligner=aligner)
    except ModelMissing as error:
        return Finding(name, Level.BLOCKS, str(error), f"or set {field.upper()} to another, or to none")
    megabytes = sum(file.stat().st_size for file in directory.glob("*.safetensors")) / 1e6
    return Finding(name, Level.FINE, f"{reference} ({megabytes:.0f} MB)")
