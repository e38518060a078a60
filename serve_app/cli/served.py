"""Fits a Serve config to the models that are served: which deployments there are, settings decide."""

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from deployments.autoscaling import policy_fault
from deployments.catalogue import CatalogueError, ModelRefused
from serve_app.cli.machine import asks_for_gpus
from serve_app.enabled_models import choose_models
from serve_app.errors import ModelNotFound
from serve_app.models import ServedModels, has_aligner
from serve_app.settings import Settings
from serve_app.speaker_tuning import has_speaker_model

GRAPH = "serve_app.app:build"
_OPTIONAL = (
    "Paraformer",
    "Qwen3ASR",
    "Qwen3Aligner",
    "ParaformerStreaming",
    "Punctuation",
    "SpeakerEmbedding",
)
_OF_MODELS = "Recognizer-"


class NotServable(Exception):
    """The models that the settings ask for cannot be served; the message says why and what to do."""


def fit_to_models(config: ServeDeploySchema) -> list[str]:
    """Take entries out of ``config`` whose deployments its settings leave out, since Serve refuses a config
    that has some; their names.

    A graph none of whose replicas gets a GPU is told so, so that its models are chosen for a CPU.

    Raises:
        NotServable: ``ENABLED_MODELS`` or ``DEFAULT_MODEL`` names what cannot be served, or the policy of a
            deployment's autoscaling has settings that there are not.
    """
    left_out: list[str] = []
    for application in config.applications:
        if application.import_path != GRAPH:
            continue
        _check_policies(application)
        if not asks_for_gpus(application.model_dump(exclude_unset=True)):
            application.args = {"device": "cpu", **application.args}
        left_out += _fit(application)
    return left_out


def _check_policies(application: ServeApplicationSchema) -> None:
    for entry in application.deployments:
        fault = policy_fault(entry.model_dump(exclude_unset=True).get("autoscaling_config"))
        if fault is not None:
            raise NotServable(f"The autoscaling of {entry.name} cannot work. {fault}")


def _fit(application: ServeApplicationSchema) -> Iterator[str]:
    try:
        there = set(optional_deployments(application.args))
    except ValidationError:
        # The graph itself says best which setting is wrong.
        return
    except (CatalogueError, ModelNotFound, ModelRefused) as error:
        raise NotServable(str(error)) from error
    kept = []
    for entry in application.deployments:
        is_optional = entry.name in _OPTIONAL or entry.name.startswith(_OF_MODELS)
        if is_optional and entry.name not in there:
            yield entry.name
        else:
            kept.append(entry)
    application.deployments = kept


def optional_deployments(args: dict[str, Any]) -> Iterable[str]:
    """Names of the deployments of models that not every graph has. Raises what the choice of models does."""
    settings = choose_models(Settings(**args)).settings
    served = ServedModels(settings)
    yield from (model.deployment for model in served)
    if served.needs_streaming:
        yield from ("ParaformerStreaming", "Punctuation")
    if has_speaker_model(settings):
        yield "SpeakerEmbedding"
    if has_aligner(settings):
        yield "Qwen3Aligner"
