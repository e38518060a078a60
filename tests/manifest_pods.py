"""What must hold of each pod: its variables, images, ports, paths and rights."""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from pydantic import ValidationError

from serve_app.edge.settings import EdgeSettings
from serve_app.settings import Settings
from tests.manifest_rules import Rule, containers, ports_of, settings_of
from tests.manifests import ROOT, Document, pod_templates, ray_service

RAY_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "serve": 8000, "metrics": 8080}
"""Ray's own, by the names that KubeRay gives them."""
METRICS_OF_HEAD = {"as-metrics": 44217, "dash-metrics": 44227}
AGENT_PORT = 52365
"""Where Ray's agent on each node tells whether that lives."""
KNOWN_VARIABLES = (
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "HOME",
    "MODELSCOPE_CACHE",
    "RAY_USAGE_STATS_ENABLED",
    "RAY_health_check_failure_threshold",
    "RAY_health_check_period_ms",
    "RAY_health_check_timeout_ms",
)
"""Of Ray and of libraries, beside the settings of the service and of the edge."""


def pod_faults(documents: Sequence[Document]) -> list[str]:
    """What is wrong with the pods of an overlay, a sentence each."""
    return [fault for rule in RULES for fault in rule(documents)]


def variables(documents: Sequence[Document]) -> Iterator[str]:
    """Every variable is a setting, with a value that it takes, or one of Ray or of a library."""
    settings = {name.upper() for name in Settings.model_fields}
    for whose, template in pod_templates(documents):
        for container in containers(template["spec"]):
            is_edge = container["name"] == "edge"
            own = edge_variables() if is_edge else settings
            given = settings_of(documents, container)
            secret = {item["name"] for item in container.get("env", []) if "valueFrom" in item}
            for name in sorted((given.keys() | secret) - own):
                if name not in KNOWN_VARIABLES and not name.startswith("OTEL_"):
                    yield f"{whose}: nothing reads the variable {name}."
            values = {name: value for name, value in given.items() if name in own}
            yield from (f"{whose}: {fault}" for fault in _values(values, is_edge=is_edge))


def edge_variables() -> set[str]:
    shared = {"TRUSTED_PROXIES", "DATA_DIR"}
    return {
        name.upper() if name.upper() in shared else f"EDGE_{name.upper()}"
        for name in EdgeSettings.model_fields
    }


def _values(given: Mapping[str, str], *, is_edge: bool) -> Iterator[str]:
    try:
        if is_edge:
            edge_settings(given)
        else:
            Settings.model_validate({name.lower(): text for name, text in given.items()})
    except ValidationError as error:
        yield f"a setting has a value that it does not take: {error}"


def edge_settings(given: Mapping[str, str]) -> EdgeSettings:
    """The settings of an edge with these variables.

    Raises:
        ValidationError: there is no such setting, or it does not take its value.
    """
    return EdgeSettings.model_validate(
        {name.removeprefix("EDGE_").lower(): text for name, text in given.items()}
    )


def images(documents: Sequence[Document]) -> Iterator[str]:
    """Each image is this version's, and all pods of Ray have the same."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    pattern = re.compile(rf"(?:[a-z0-9.-]+(?::\d+)?/)?asr-serve:{re.escape(version)}-(cpu|gpu)")
    of_ray = set()
    for whose, template in pod_templates(documents):
        for container in containers(template["spec"]):
            image = container["image"]
            if pattern.fullmatch(image) is None:
                yield f"{whose} has the image {image}, which is none of version {version}."
            if whose.startswith("Ray's") and container["name"] != "models":
                of_ray.add(image)
            elif image.endswith("-gpu"):
                yield f"{whose} needs no GPU, but has {image}."
    if len(of_ray) > 1:
        yield f"Pods of Ray have different images: {', '.join(sorted(of_ray))}."


def ports(documents: Sequence[Document]) -> Iterator[str]:
    """Containers have the ports that the programs in them open, and probes ask one of these."""
    for whose, template in pod_templates(documents):
        for container in template["spec"]["containers"]:
            named = ports_of(container)
            for name, number in _expected_ports(documents, whose, container).items():
                if named.get(name) != number:
                    yield f"{whose}: the port {name} is {named.get(name)}, not {number}."
            for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
                port = container.get(probe, {}).get("httpGet", {}).get("port")
                if port is not None and port not in named and port not in (*named.values(), AGENT_PORT):
                    yield f"{whose}: its {probe} asks port {port}, which nothing listens on."
            if container["name"] != "pull" and not {"livenessProbe", "readinessProbe"} <= container.keys():
                yield f"{whose} lacks a probe."


def _expected_ports(documents: Sequence[Document], whose: str, container: Document) -> dict[str, int]:
    if whose == "Ray's head":
        return RAY_PORTS | METRICS_OF_HEAD
    if whose.startswith("Ray's"):
        return {name: RAY_PORTS[name] for name in ("serve", "metrics")}
    if container["name"] != "edge":
        return {}
    given = settings_of(documents, container)
    try:
        settings = edge_settings({name: given[name] for name in given if name.startswith("EDGE_")})
    except ValidationError:
        return {}  # `variables` tells
    expected = {"http": settings.port, "funasr": settings.funasr_port}
    if settings.metrics is not None:
        expected["metrics"] = settings.metrics.port
    if settings.https_port:
        expected["https"] = settings.https_port
    return expected


def image_paths(documents: Sequence[Document]) -> Iterator[str]:
    """Directories, users and variables are those of the images."""
    for whose, template in pod_templates(documents):
        pod = template["spec"]
        for container in containers(pod):
            kind = container["image"].rpartition("-")[2]
            given, workdir, user = image_facts(kind if kind == "gpu" else "cpu")
            if pod["securityContext"].get("runAsUser") != user:
                yield f"{whose} runs as another user than {user}, who owns the image's files."
            if container.get("workingDir", workdir) != workdir:
                yield f"{whose} works in {container['workingDir']}, and the image in {workdir}."
            if container["name"] != "edge":
                yield from (f"{whose}{fault}" for fault in _paths(documents, container, given))


def _paths(documents: Sequence[Document], container: Document, given: Mapping[str, str]) -> Iterator[str]:
    for name, value in settings_of(documents, container).items():
        if name in given and name != "HOME" and value != given[name]:
            yield f": {name} is {value}, and {given[name]} in the image."
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    only_fetches = container["name"] in ("pull", "models")
    wanted = {"/models"} if only_fetches else {"/models", given["DATA_DIR"]}
    yield from (f" mounts nothing at {path}." for path in sorted(wanted - mounts))


@cache
def image_facts(kind: str) -> tuple[Mapping[str, str], str, int]:
    """``ENV``, ``WORKDIR`` and ``USER`` of an image, ``cpu`` or ``gpu``."""
    text = (ROOT / "docker" / f"{kind}.Dockerfile").read_text(encoding="utf-8")
    given = {
        name: value
        for line in re.findall(r"^ENV (.+)$", text.replace("\\\n", " "), re.MULTILINE)
        for name, value in re.findall(r"([A-Z_]+)=(\S+)", line)
    }
    workdir = re.findall(r"^WORKDIR (\S+)$", text, re.MULTILINE)[-1]
    user = re.findall(r"^USER (\d+)", text, re.MULTILINE)[-1]
    return given, workdir, int(user)


def restricted(documents: Sequence[Document]) -> Iterator[str]:
    """Kubernetes' Pod Security Standard of this name, and a disk that only volumes make writable."""
    for whose, template in pod_templates(documents):
        pod = template["spec"]["securityContext"]
        if not pod.get("runAsNonRoot") or pod.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{whose} may run as root, or without seccomp."
        if any(volume.keys() & {"hostPath", "nfs"} for volume in template["spec"]["volumes"]):
            yield f"{whose} mounts what is not its own."
        for container in containers(template["spec"]):
            yield from (f"{whose}: {fault}" for fault in _unrestricted(container.get("securityContext", {})))
    sidecar = ray_service(documents)["spec"]["rayClusterConfig"]["autoscalerOptions"]
    yield from (f"Ray's autoscaler: {fault}" for fault in _unrestricted(sidecar.get("securityContext", {})))


def _unrestricted(context: Document) -> Iterator[str]:
    if context.get("allowPrivilegeEscalation") is not False:
        yield "it may gain privileges."
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "it has capabilities."
    if context.get("readOnlyRootFilesystem") is not True:
        yield "it may write to its image."


RULES: tuple[Rule, ...] = (variables, images, ports, image_paths, restricted)
