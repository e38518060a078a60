"""What must hold of the Serve config in a RayService: by Ray's schema, by the graph, by the workers."""

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args
from unittest.mock import patch

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from deployments.autoscaling import policy_fault
from deployments.catalogue import CatalogueError, ModelRefused
from serve_app.capacity.checking import CannotCheck, check_file
from serve_app.cli.served import GRAPH
from serve_app.enabled_models import choose_models
from serve_app.errors import ModelNotFound
from serve_app.models import ServedModels, has_aligner
from serve_app.settings import Megabytes, Settings
from serve_app.speaker_tuning import has_speaker_model
from tests.manifest_pods import RAY_PORTS, pod_faults
from tests.manifest_ray import ray_faults
from tests.manifest_rules import document_faults, settings_of
from tests.manifests import Document, ray_groups, ray_service, schema_faults

ALWAYS = ("Ingress", "Jobs", "Vad")
CONFIGS = {
    "Jobs": "serve_app.jobs.deployment:JobsConfig",
    "Vad": "deployments.vad:VadConfig",
    "Punctuation": "deployments.punctuation:PunctuationConfig",
    "ParaformerStreaming": "deployments.paraformer_streaming:ParaformerStreamingConfig",
    "SpeakerEmbedding": "deployments.speaker_embedding:SpeakerEmbeddingConfig",
    "Qwen3Aligner": "deployments.qwen3_aligner:Qwen3AlignerConfig",
    "Paraformer": "deployments.recognizer:RecognizerConfig",
    "Recognizer-": "deployments.recognizer:RecognizerConfig",
}
"""What may be in the ``user_config`` of a deployment, by its name or by how that begins."""


def all_faults(documents: Sequence[Document]) -> list[str]:
    """What is wrong with an overlay, a sentence each: with its form, its documents, and its Serve config."""
    # What has not the right form cannot be looked at any further.
    return schema_faults(documents) or [
        *document_faults(documents),
        *pod_faults(documents),
        *ray_faults(documents),
        *serve_faults(documents),
    ]


def serve_faults(documents: Sequence[Document]) -> list[str]:
    """What is wrong with the Serve config of an overlay, a sentence each."""
    service = ray_service(documents)
    try:
        raw = yaml.safe_load(service["spec"]["serveConfigV2"])
        config = ServeDeploySchema.model_validate(raw)
    except (yaml.YAMLError, ValidationError) as error:
        return [f"serveConfigV2 is no Serve config: {error}"]
    found = [*_unknown(raw, ServeDeploySchema, "serveConfigV2"), *_http(config)]
    if len(config.applications) != 1 or config.applications[0].import_path != GRAPH:
        return [*found, f"serveConfigV2 must have one application, {GRAPH}."]
    (application,) = config.applications
    head = ray_groups(service)[0][1]["template"]["spec"]["containers"][0]
    variables = settings_of(documents, head)
    (written,) = raw["applications"]
    entries = written["deployments"]
    found += _names(application, variables)
    found += [fault for entry in entries for fault in _entry(entry)]
    found += _room(entries, service)
    found += _budget(raw, variables, service)
    return found


def _budget(raw: dict[str, Any], variables: Mapping[str, str], service: Document) -> Iterator[str]:
    """What shares a GPU fits the smallest that there may be, as ``asr-serve plan --check`` says."""
    own = {name.lower(): value for name, value in variables.items() if name.lower() in Settings.model_fields}
    args = raw["applications"][0]["args"] = {**raw["applications"][0].get("args", {}), **own}
    gpus = {_gpus_of(group) for _, group in ray_groups(service)[1:]} - {0}
    if not gpus:
        return
    if "gpu_memory" not in args:
        yield "GPU_MEMORY is not set: the graph may be built on the head, which has no GPU to ask."
        return
    megabytes = TypeAdapter[float](Megabytes).validate_python(args["gpu_memory"])
    with TemporaryDirectory() as directory:
        file = Path(directory) / "serve_config.yaml"
        file.write_text(yaml.safe_dump(raw), encoding="utf-8")
        try:
            finding = check_file(file, int(megabytes * 2**20), int(min(gpus)))
        except CannotCheck as error:
            yield str(error)
            return
    if not finding.fits:
        yield finding.text


def _unknown(given: object, model: type[BaseModel], where: str) -> Iterator[str]:
    """Fields that Ray's schema does not have, of which it says nothing and which do nothing."""
    if not isinstance(given, Mapping):
        return
    for name, value in given.items():
        known = model.model_fields.get(name)
        if known is None:
            yield f"{where} has no field {name}."
        for inner in _models(known.annotation if known else None):
            for item in value if isinstance(value, list) else [value]:
                yield from _unknown(item, inner, f"{where}.{name}")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The model, if there is only one, in a type such as ``list[Model] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        found = [model for part in get_args(annotation) for model in _models(part)]
        yield from found if len(found) == 1 else []


def _http(config: ServeDeploySchema) -> Iterator[str]:
    """Serve answers on the port that pods have, at an address that others reach, on every node."""
    if config.http_options.host != "0.0.0.0":
        yield f"Serve listens on {config.http_options.host}, where no other pod reaches it."
    if config.http_options.port != RAY_PORTS["serve"]:
        yield f"Serve listens on port {config.http_options.port}, and pods have {RAY_PORTS['serve']}."
    if str(config.proxy_location.value) != "EveryNode":
        yield "Serve's proxy is on the head only, which gets no requests."


def _names(application: ServeApplicationSchema, variables: Mapping[str, str]) -> Iterator[str]:
    """Serve refuses entries of deployments that the graph does not have, so no name may be too many."""
    own = {name: value for name, value in variables.items() if name.lower() in Settings.model_fields}
    others = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    try:
        with patch.dict(os.environ, others | own, clear=True):
            settings = Settings(**application.args)
            there = set(graph(choose_models(settings).settings))
    except (ValidationError, CatalogueError, ModelNotFound, ModelRefused) as error:
        yield f"The settings cannot be used: {error}"
        return
    if settings.enabled_models == "auto" and any(_gpus(entry) for entry in _plain(application)):
        yield "ENABLED_MODELS is auto, which would look for a GPU where the graph is built: on the head."
    listed = {entry.name for entry in application.deployments}
    yield from (f"There is no deployment {name} in the graph." for name in sorted(listed - there))
    # What the config does not list may reserve nothing, and so come to lie on the head.
    if settings.enabled_models != "auto":
        yield from (f"The deployment {name} is not listed." for name in sorted(there - listed))


def graph(settings: Settings) -> Iterator[str]:
    """Names of the deployments that a graph with these settings has; models are chosen already."""
    served = ServedModels(settings)
    yield from ALWAYS
    yield from (model.deployment for model in served)
    if served.needs_streaming:
        yield from ("ParaformerStreaming", "Punctuation")
    if has_speaker_model(settings):
        yield "SpeakerEmbedding"
    if has_aligner(settings):
        yield "Qwen3Aligner"


def _plain(application: ServeApplicationSchema) -> list[dict[str, Any]]:
    return [entry.model_dump(exclude_unset=True) for entry in application.deployments]


def _entry(entry: Mapping[str, Any]) -> Iterator[str]:
    name = str(entry["name"])
    options = entry.get("ray_actor_options") or {}
    if not any(options.get(kind) for kind in ("num_cpus", "num_gpus", "resources")):
        yield f"{name} reserves nothing, so that Ray may put it on the head."
    try:
        AutoscalingConfig.model_validate(entry.get("autoscaling_config") or {})
    except ValidationError as error:
        yield f"{name}: its autoscaling_config is wrong: {error}"
    fault = policy_fault(entry.get("autoscaling_config"))
    if fault is not None:
        yield f"{name}: {fault}"
    place = CONFIGS.get(name) or next((CONFIGS[key] for key in CONFIGS if name.startswith(key)), None)
    given = entry.get("user_config") or {}
    if place is None and given:
        yield f"{name} takes no user_config."
    elif place is not None:
        module, _, config = place.partition(":")
        model = getattr(importlib.import_module(module), config)
        yield from (
            f"{name} has no {key} in its user_config." for key in given.keys() - model.model_fields.keys()
        )
        try:
            model(**given)
        except ValidationError as error:
            yield f"{name}: {error}"


@dataclass(slots=True)
class _Worker:
    """A pod that could be there, and what of it is left."""

    group: str
    cpus: float
    gpus: float
    holds: dict[str, int] = field(default_factory=dict)

    def takes(self, entry: Mapping[str, Any]) -> bool:
        """Put a replica here, if there is room."""
        name, cpus, gpus = str(entry["name"]), _cpus(entry), _gpus(entry)
        has_most = self.holds.get(name, 0) >= entry.get("max_replicas_per_node", 1000)
        if has_most or cpus > self.cpus + 1e-9 or gpus > self.gpus + 1e-9:
            return False
        self.cpus, self.gpus = self.cpus - cpus, self.gpus - gpus
        self.holds[name] = self.holds.get(name, 0) + 1
        return True


def _cpus(entry: Mapping[str, Any]) -> float:
    return float((entry.get("ray_actor_options") or {}).get("num_cpus", 1))


def _gpus(entry: Mapping[str, Any]) -> float:
    return float((entry.get("ray_actor_options") or {}).get("num_gpus") or 0)


def _room(entries: Sequence[Mapping[str, Any]], service: Document) -> Iterator[str]:
    """The smallest number of replicas finds room on all workers that there may be, and so does the largest
    number of those that need a GPU: they are the ones that would wait for a node for ever."""
    for which in ("smallest", "largest"):
        workers = [worker for name, group in ray_groups(service)[1:] for worker in _workers(name, group)]
        wanted = [entry for entry in entries if which == "smallest" or _gpus(entry)]
        # What needs the scarcest goes first; within that, whole nodes are spared for nobody.
        for entry in sorted(wanted, key=lambda item: (_gpus(item), _cpus(item)), reverse=True):
            room = [worker for worker in workers if _gpus(entry) or not worker.gpus] or workers
            for _ in range(_replicas(entry, which)):
                if not any(worker.takes(entry) for worker in room):
                    yield f"There is no room for the {which} number of replicas of {entry['name']}."
                    break


def _replicas(entry: Mapping[str, Any], which: str) -> int:
    scaling = entry.get("autoscaling_config") or {}
    key = "min_replicas" if which == "smallest" else "max_replicas"
    return int(scaling.get(key, 1) if scaling else entry.get("num_replicas", 1))


def _workers(name: str, group: Document) -> list[_Worker]:
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    cpus = float(group["rayStartParams"].get("num-cpus", limits["cpu"]))
    return [_Worker(name, cpus, _gpus_of(group)) for _ in range(group["maxReplicas"])]


def _gpus_of(group: Document) -> float:
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return float(limits.get("nvidia.com/gpu", 0))
