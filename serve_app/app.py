"""The whole graph on one screen."""

import logging
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from ray.serve import Application

from deployments.engines.backends import choose_backend
from deployments.model_store import find_model, present
from deployments.paraformer_streaming import ParaformerStreaming
from deployments.punctuation import Punctuation
from deployments.qwen3_aligner import Qwen3Aligner
from deployments.qwen3_asr import Qwen3ASR, Qwen3Options, choose_engine
from deployments.qwen3_store import find_qwen3
from deployments.recognizer import OF_ITS_OWN, Recognizer, RecognizerOptions
from deployments.speaker_embedding import SpeakerEmbedding
from deployments.vad import Vad
from serve_app.enabled_models import FORMER, choose_models
from serve_app.handles import ModelHandles
from serve_app.ingress import Ingress
from serve_app.jobs.deployment import Jobs
from serve_app.model_hub.needs import ensure_present
from serve_app.models import ServedModel, ServedModels, has_aligner
from serve_app.settings import Settings
from serve_app.speaker_tuning import has_speaker_model, speaker_tuning
from serve_app.tracing import observability_of
from serve_app.unmet_settings import unmet_settings

logger = logging.getLogger("ray.serve")

_SURGE_PERCENT = 25
"""Replicas of a new version that start before old ones end, as a share of all, one at least. Serve would end
old ones first: with one replica, everybody waits for its model to load."""

Node = Callable[..., Application]


def build(args: dict[str, Any]) -> Application:
    """Build the graph; ``serve_config.yaml`` names this function as its ``import_path``.

    Args:
        args: settings, as in :class:`serve_app.settings.Settings`; the environment wins over them. What is
            under ``FORMER`` are those of before: deployments that only they ask for stay in the graph,
            where nobody new is sent to them, for ingress replicas of before that still have sessions.

    Raises:
        pydantic.ValidationError: a setting is unknown or out of range.
        ModelMissing: a model directory is not there or not whole, or what runs it is not installed. Checked
            here, before any replica starts, because Serve would restart a replica that fails on it many
            times over.
        ModelFilesError: it does not hold the form that ``FUNASR_ENGINE`` asks for.
        CatalogueError: ``MODELS_FILE`` is wrong.
        ModelNotFound: ``ENABLED_MODELS`` names what is no recognizer, or the default model is not served.
        ModelRefused: ``ENABLED_MODELS`` names a model that cannot be used yet.
    """
    asked = dict(args)
    former = asked.pop(FORMER, None)
    settings = _chosen(asked)
    node = _Nodes(settings)
    models = _models(settings, node)
    if former is not None:
        models = replace(models, former=_left_over(former, node.by_name))
    tuning = speaker_tuning(settings)
    jobs = node(Jobs, settings, models, tuning)
    return node(Ingress, settings, models, jobs, tuning)


def _left_over(former: dict[str, Any], there: Container[str]) -> tuple[Application, ...]:
    """The models of a graph of before, but for those whose deployment is ``there`` again."""
    settings = _chosen(former)
    node = _Nodes(settings)
    _models(settings, node)
    return tuple(model for name, model in node.by_name.items() if name not in there)


def _chosen(args: dict[str, Any]) -> Settings:
    asked = Settings(**args)
    choice = choose_models(asked)
    for note in (*choice.notes, *unmet_settings(asked)):
        logger.warning(note)
    return choice.settings


class _Nodes:
    """Makes deployments of classes, with what all have in common; keeps them by name."""

    def __init__(self, settings: Settings) -> None:
        self._level = "DEBUG" if settings.debug else settings.log_level
        self._observability = observability_of(settings)
        self.by_name: dict[str, Application] = {}

    def __call__(self, deployment: Any, *init_args: Any) -> Application:
        # One line per request is the ingress's; its calls to the models would add a dozen more.
        told = self._observability
        logs = {
            "log_level": self._level,
            "enable_access_log": deployment is Ingress and not told.json_logs,
            "encoding": "JSON" if told.json_logs else "TEXT",
        }
        made = deployment.options(logging_config=logs, max_surge_percent=_SURGE_PERCENT)
        self.by_name[made.name] = cast(Application, made.bind(*init_args, observability=told))
        return self.by_name[made.name]


def _models(settings: Settings, node: Node) -> ModelHandles:
    served = ServedModels(settings)
    ensure_present(settings)

    def model(reference: str) -> str:
        return str(_directory(reference, settings))

    vad = node(Vad, model(settings.vad_model), settings.device, settings.funasr_engine)
    streaming = punctuation = speakers = None
    if served.needs_streaming:
        streaming = node(
            ParaformerStreaming,
            model(settings.paraformer_streaming_model),
            settings.device,
            settings.precision,
            settings.paraformer_streaming_threads,
            settings.funasr_engine,
        )
        punctuation = node(
            Punctuation,
            model(settings.punctuation_model),
            model(settings.punctuation_realtime_model),
            settings.device,
            settings.funasr_engine,
        )
    if has_speaker_model(settings):
        speakers = node(
            SpeakerEmbedding,
            model(settings.speaker_model),
            settings.device,
            settings.precision,
            settings.funasr_engine,
        )
    recognizers = _recognizers(served, settings, node)
    return ModelHandles(vad, recognizers, punctuation, streaming, speakers, _aligner(settings, node))


def _recognizers(served: ServedModels, settings: Settings, node: Node) -> Mapping[str, Application]:
    """A deployment for each recognizer, by the id of its model."""
    offline = partial(
        RecognizerOptions,
        device=settings.device,
        precision=settings.precision,
        backend=settings.funasr_engine,
        max_batch_segments=settings.asr_batch_size,
    )
    if served.generative:
        # Which device a replica gets is not known here, but what is missing for each is.
        choose_engine(settings.qwen3_engine, settings.device)
    memory = settings.qwen3_memory
    generative = Qwen3Options(
        settings.qwen3_engine,
        settings.device,
        settings.precision,
        settings.qwen3_threads,
        None if memory is None else int(memory * 1024 * 1024),
        settings.qwen3_max_model_len,
    )

    def bound(model: ServedModel) -> Application:
        # Serve's decorator makes deployments of classes, which type checkers do not know.
        deployment: Any = Qwen3ASR if model.is_generative else Recognizer
        if model.is_generative:
            directory = find_qwen3(_place(model, settings), settings.modelscope_path, aligner=False)
            return node(deployment.options(name=model.deployment), str(directory), generative)
        directory = _directory(_place(model, settings), settings)
        options = {} if model.deployment == deployment.name else OF_ITS_OWN
        named = deployment.options(name=model.deployment, **options)
        return node(named, str(directory), offline(model.engine))

    return {model.id: bound(model) for model in served}


def _aligner(settings: Settings, node: Node) -> Application | None:
    """What tells when the words of Qwen3-ASR were said."""
    if not has_aligner(settings):
        return None
    directory = find_qwen3(settings.qwen3_aligner_model, settings.modelscope_path, aligner=True)
    return node(Qwen3Aligner, str(directory), settings.device, settings.precision, settings.qwen3_threads)


def _place(model: ServedModel, settings: Settings) -> str:
    """The reference of a recognizer, or its directory: a file of models that only ``args`` name has names
    that nobody else looks up."""
    if model.entry is None or model.reference != model.entry.name:
        return model.reference
    found = present(model.entry, settings.modelscope_path, prefer_onnx=_prefers_onnx(settings))
    return model.reference if found is None else str(found)


def _directory(reference: str, settings: Settings) -> Path:
    directory = find_model(reference, settings.modelscope_path, prefer_onnx=_prefers_onnx(settings))
    if settings.funasr_engine != "auto":
        choose_backend(settings.funasr_engine, directory, settings.device)
    return directory


def _prefers_onnx(settings: Settings) -> bool:
    return settings.funasr_engine == "onnx"
