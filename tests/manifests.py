"""Renders the manifests of ``k8s/`` and checks each document against the schema of its kind."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kubernetes_validate import utils as kubernetes

ROOT = Path(__file__).parents[1]
K8S = ROOT / "k8s"
CRDS = ROOT.parent / "shared" / "data" / "kuberay"
"""KubeRay's CRDs, where they are at hand."""

OLDEST, NEWEST = "1.30", "1.37"
"""Versions of Kubernetes that the manifests are checked against."""

Document = dict[str, Any]


class RenderError(Exception):
    """kustomize refuses a directory; the message is what it says."""


@cache
def kustomize() -> list[str] | None:
    """The command that renders a directory, or ``None`` where neither program is installed."""
    for command in (["kubectl", "kustomize"], ["kustomize", "build"]):
        if shutil.which(command[0]):
            return command
    return None


needs_kustomize = pytest.mark.skipif(
    kustomize() is None, reason="neither kubectl nor kustomize is installed, which render the manifests"
)


def render(directory: Path) -> list[Document]:
    """The documents of an overlay.

    Raises:
        RenderError: it cannot be rendered.
    """
    return parse(render_text(directory))


def render_text(directory: Path) -> str:
    """What ``kubectl apply`` would send, in YAML.

    Raises:
        RenderError: it cannot be rendered.
    """
    command = kustomize()
    assert command is not None, "callers skip where there is none"
    result = subprocess.run([*command, str(directory)], capture_output=True, text=True, check=False)
    if result.returncode:
        raise RenderError(result.stderr.strip())
    return result.stdout


def parse(text: str) -> list[Document]:
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


def copy_of_manifests(directory: Path) -> Path:
    """Another ``k8s/`` in a directory, without anybody's keys."""
    return Path(shutil.copytree(K8S, directory / "k8s", ignore=shutil.ignore_patterns("secrets.env")))


def of_kind(documents: Sequence[Document], kind: str) -> list[Document]:
    return [document for document in documents if document["kind"] == kind]


def name_of(document: Document) -> str:
    return f"{document['kind']} {document['metadata']['name']}"


def ray_service(documents: Sequence[Document]) -> Document:
    (found,) = of_kind(documents, "RayService")
    return found


def ray_groups(service: Document) -> list[tuple[str, Document]]:
    """``(name, group)`` of the head, called ``head``, and of each group of workers."""
    cluster = service["spec"]["rayClusterConfig"]
    workers = [(group["groupName"], group) for group in cluster["workerGroupSpecs"]]
    return [("head", cluster["headGroupSpec"]), *workers]


def pod_templates(documents: Sequence[Document]) -> list[tuple[str, Document]]:
    """``(whose, template)`` of all pods that the documents lead to."""
    found = []
    for document in documents:
        if document["kind"] in ("Deployment", "Job"):
            found.append((name_of(document), document["spec"]["template"]))
        elif document["kind"] == "Pod":
            found.append((name_of(document), document))
        elif document["kind"] == "RayService":
            found += [(f"Ray's {name}", group["template"]) for name, group in ray_groups(document)]
    return found


def schema_faults(documents: Sequence[Document]) -> list[str]:
    """What is wrong with the form of the documents, a sentence each. Unknown fields are wrong."""
    return [fault for document in documents for fault in _faults_in(json.dumps(document))]


@cache
def _faults_in(document: str) -> tuple[str, ...]:
    """Overlays have most documents in common, and a look at one takes a while."""
    return tuple(_faults_of(json.loads(document)))


def _faults_of(document: Document) -> Iterator[str]:
    kind = document["kind"]
    if kind == "RayService":
        if CRDS.is_dir():
            yield from _against(_ray_schema(), document)
        for name, group in ray_groups(document):
            # The same as what a plain pod may have. KubeRay's CRD leaves out what Kubernetes says of values.
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name},
                "spec": group["template"]["spec"],
            }
            yield from (f"{name_of(document)}: {fault}" for fault in _kubernetes_faults(pod))
    elif kind in OTHERS:
        yield from _against(OTHERS[kind], document)
    else:
        yield from _kubernetes_faults(document)


def _kubernetes_faults(document: Document) -> Iterator[str]:
    for version in (OLDEST, NEWEST):
        try:
            kubernetes.validate(document, version, strict=True)
        except kubernetes.ValidationError as error:
            yield _fault(document, error)
            return
        except kubernetes.SchemaNotFoundError:
            yield f"{name_of(document)}: {document['apiVersion']} is no kind of Kubernetes {version}."


def _against(schema: dict[str, Any], document: Document) -> Iterator[str]:
    for error in jsonschema.Draft202012Validator(schema).iter_errors(document):
        yield _fault(document, error)


def _fault(document: Document, error: jsonschema.ValidationError) -> str:
    return f"{name_of(document)}: {'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"


@cache
def _ray_schema() -> dict[str, Any]:
    """The schema of RayService ``v1``."""
    text = (CRDS / "ray.io_rayservices.yaml").read_text(encoding="utf-8")
    crd = yaml.load(text, Loader=yaml.CSafeLoader)
    (version,) = (version for version in crd["spec"]["versions"] if version["name"] == "v1")
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    return {**closed(schema)}


def closed(schema: Any) -> Any:
    """A schema of a CRD, such that fields that it does not know are refused instead of dropped."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: closed(value) for key, value in schema.items()}
    if changed.pop("x-kubernetes-int-or-string", False):
        changed = {"type": ["integer", "string"]} | {
            key: changed[key] for key in ("pattern",) if key in changed
        }
    open_ended = "additionalProperties" in changed or "x-kubernetes-preserve-unknown-fields" in changed
    if isinstance(changed.get("properties"), dict) and changed.get("type") == "object" and not open_ended:
        changed["additionalProperties"] = False
    return changed


def _object(required: Sequence[str] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


_TEXTS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}
_DURATION = {"type": "string", "pattern": r"^([0-9]+(ms|s|m|h|d))+$"}
_METADATA = _object(
    ["name"], name={"type": "string"}, namespace={"type": "string"}, labels=_TEXTS, annotations=_TEXTS
)
_REQUIREMENT = _object(
    ["key", "operator"],
    key={"type": "string"},
    operator={"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
    values={"type": "array", "items": {"type": "string"}},
)
_RELABELING = _object(
    ["sourceLabels", "regex", "action"],
    sourceLabels={"type": "array", "items": {"type": "string"}},
    regex={"type": "string", "format": "regex"},
    action={"enum": ["drop", "keep"]},
)
_ENDPOINT = _object(
    ["port"],
    port={"type": "string"},
    path={"type": "string"},
    interval=_DURATION,
    metricRelabelings={"type": "array", "items": _RELABELING},
)
_RULE = _object(
    ["expr"],
    alert={"type": "string"},
    record={"type": "string"},
    expr={"type": "string", "minLength": 1},
    labels=_TEXTS,
    annotations=_TEXTS,
) | {"oneOf": [{"required": ["alert"]}, {"required": ["record"]}]}
_RULE["properties"]["for"] = _DURATION
_RULE["properties"]["keep_firing_for"] = _DURATION
_SELECTOR = _object(matchLabels=_TEXTS, matchExpressions={"type": "array", "items": _REQUIREMENT})
_POD_MONITOR = _object(
    ["selector", "podMetricsEndpoints"],
    jobLabel={"type": "string"},
    selector=_SELECTOR,
    podTargetLabels={"type": "array", "items": {"type": "string"}},
    podMetricsEndpoints={"type": "array", "items": _ENDPOINT, "minItems": 1},
)
_GROUP = _object(
    ["name", "rules"],
    name={"type": "string"},
    interval=_DURATION,
    rules={"type": "array", "items": _RULE, "minItems": 1},
)

_RULES = _object(["groups"], groups={"type": "array", "items": _GROUP, "minItems": 1})


def _monitoring(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    version = {"const": "monitoring.coreos.com/v1"}
    fields = {"kind": {"const": kind}, "metadata": _METADATA, "spec": spec}
    return _object(["apiVersion", "kind", "metadata", "spec"], apiVersion=version, **fields)


OTHERS = {
    "PodMonitor": _monitoring("PodMonitor", _POD_MONITOR),
    "PrometheusRule": _monitoring(
        "PrometheusRule", _object(["groups"], groups={"type": "array", "items": _GROUP})
    ),
}
"""By kind: the part of it that the manifests use, of CRDs of which no schema is at hand."""
