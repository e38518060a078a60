"""What ``asr-serve doctor`` finds out about the models: which are served, where they are, what runs them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from deployments.catalogue import CatalogueError, ModelRefused
from serve_app.cli.machine import asks_for_gpus
from serve_app.enabled_models import choose_models
from serve_app.errors import ModelNotFound
from serve_app.models import ServedModel, ServedModels, has_aligner
from serve_app.pipeline.hotwords_file import read_hotwords
from serve_app.settings import Settings
from serve_app.speaker_tuning import has_speaker_model
from serve_app.unmet_settings import unmet_settings


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


def models(application: Mapping[str, Any]) -> Iterator[Finding]:
    """Look for all models that an application of a Serve config needs, and for what is to run them.

    Raises:
        pydantic.ValidationError: a setting of it is wrong.
    """
    args = dict(application.get("args") or {})
    asked = Settings(**(args if asks_for_gpus(application) else {"device": "cpu", **args}))
    try:
        choice = choose_models(asked)
        served = ServedModels(choice.settings)
    except (CatalogueError, ModelRefused, ModelNotFound) as error:
        advice = "set ENABLED_MODELS and DEFAULT_MODEL to what is there"
        yield Finding("served models", Level.BLOCKS, str(error), advice)
        return
    yield Finding("served models", Level.FINE, ", ".join(model.id for model in served))
    for note in (*choice.notes, *unmet_settings(asked)):
        yield Finding("served models", Level.NOTE, note)
    for model in served:
        yield _recognizer(model, choice.settings)
    yield from _beside(served, choice.settings)
    if asked.hotwords_file is not None:
        yield _hotwords(asked.hotwords_file, served)


def _recognizer(model: ServedModel, settings: Settings) -> Finding:
    if model.is_generative:
        return _qwen3(model.id, model.reference, settings, "ENABLED_MODELS or QWEN3_MODEL", aligner=False)
    return _funasr(model.id, model.reference, settings, "ENABLED_MODELS or PARAFORMER_MODEL")


def _beside(served: ServedModels, settings: Settings) -> Iterator[Finding]:
    """The models beside the recognizers."""
    fields = ["vad_model"]
    if served.needs_streaming:
        fields += ["paraformer_streaming_model", "punctuation_model", "punctuation_realtime_model"]
    for field in fields:
        yield _funasr(field.replace("_", " "), getattr(settings, field), settings, field.upper())
    if has_speaker_model(settings):
        yield _funasr("speaker model", settings.speaker_model, settings, "SPEAKER_MODEL", needs_cmvn=False)
    else:
        yield Finding("speaker model", Level.FINE, "none: no speakers are told apart")
    if not served.generative:
        yield Finding("qwen3 model", Level.FINE, "none: Qwen3-ASR is not served")
        return
    yield _engine(settings)
    if has_aligner(settings):
        reference = settings.qwen3_aligner_model
        yield _qwen3("qwen3 aligner", reference, settings, "QWEN3_ALIGNER_MODEL", aligner=True)
    else:
        yield Finding("qwen3 aligner", Level.FINE, "none: times of Qwen3-ASR's words are estimated")


def _hotwords(path: Path, served: ServedModels) -> Finding:
    # A file that cannot be used is a setting that cannot: it was found out before.
    found = f"{len(read_hotwords(path))} words in {path}"
    if any(model.hears_hotwords or model.reads_context for model in served):
        return Finding("hotwords file", Level.FINE, found)
    return Finding("hotwords file", Level.NOTE, found, "no model that is served listens for hotwords")


def _engine(settings: Settings) -> Finding:
    from deployments.model_store import ModelMissing
    from deployments.qwen3_asr import choose_engine

    try:
        kind = choose_engine(settings.qwen3_engine, settings.device)
    except ModelMissing as error:
        return Finding("qwen3 engine", Level.BLOCKS, str(error))
    names = {"vllm": "vLLM", "package": "the qwen-asr package"}
    return Finding("qwen3 engine", Level.FINE, names[kind])


def _funasr(
    name: str, reference: str, settings: Settings, variable: str, *, needs_cmvn: bool = True
) -> Finding:
    from deployments.engines.model_files import ModelFilesError
    from deployments.model_store import ModelMissing, find_model

    prefer_onnx = settings.funasr_engine == "onnx"
    try:
        directory = find_model(reference, settings.modelscope_path, prefer_onnx=prefer_onnx)
        return Finding(name, Level.FINE, f"{reference} ({_contents(directory, needs_cmvn)})")
    except ModelMissing as error:
        return Finding(name, Level.BLOCKS, str(error), f"or set {variable}")
    except ModelFilesError as error:
        found, _, remedy = str(error).partition(" Remedy: ")
        return Finding(name, Level.BLOCKS, found, remedy)


def _contents(directory: Path, needs_cmvn: bool) -> str:
    """Its kind and size. Raises ModelFilesError if it cannot be read."""
    from deployments.engines.model_files import read_model_files
    from deployments.engines.onnx_files import has_torch, onnx_file
    from deployments.engines.speaker_files import read_speaker_files

    graph = onnx_file(directory)
    if graph is not None and not has_torch(directory):
        return f"{graph.name}, {graph.stat().st_size / 1e6:.1f} MB"
    files = read_model_files(directory) if needs_cmvn else read_speaker_files(directory)
    millions = sum(tensor.numel() for tensor in files.parameters.values()) / 1e6
    kind = re.sub(r"[^\w.-]", "", str(files.config["model"]))
    return f"{kind}, {millions:.1f} M parameters"


def _qwen3(name: str, reference: str, settings: Settings, variable: str, *, aligner: bool) -> Finding:
    from deployments.model_store import ModelMissing
    from deployments.qwen3_store import find_qwen3

    try:
        directory = find_qwen3(reference, settings.modelscope_path, aligner=aligner)
    except ModelMissing as error:
        return Finding(name, Level.BLOCKS, str(error), f"or set {variable} to another, or to none")
    megabytes = sum(file.stat().st_size for file in directory.glob("*.safetensors")) / 1e6
    return Finding(name, Level.FINE, f"{reference} ({megabytes:.0f} MB)")
