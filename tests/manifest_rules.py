"""What must hold between the documents of an overlay, and between them, the code and the images."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from tests.manifests import (
    K8S,
    Document,
    name_of,
    of_kind,
    pod_templates,
)

NAMESPACE = "asr-serve"
GATEWAY = "gateway.networking.k8s.io/gateway-name"
MAX_BYTES = 250 * 1024
CLUSTER_WIDE = ("Namespace", "PriorityClass")
Rule = Callable[[Sequence[Document]], Iterator[str]]


def document_faults(documents: Sequence[Document]) -> list[str]:
    """What is wrong between the documents of an overlay, a sentence each."""
    return [fault for rule in RULES for fault in rule(documents)]


def names(documents: Sequence[Document]) -> Iterator[str]:
    """Everything is in one namespace, and called once."""
    seen = set()
    for document in documents:
        name = name_of(document)
        if name in seen:
            yield f"{name} is there twice."
        seen.add(name)
        namespace = document["metadata"].get("namespace")
        if namespace != (None if document["kind"] in CLUSTER_WIDE else NAMESPACE):
            yield f"{name} is in the namespace {namespace}."


def sizes(documents: Sequence[Document]) -> Iterator[str]:
    """``kubectl apply`` keeps what it sent in an annotation, of which Kubernetes takes 256 KiB in all."""
    for document in documents:
        size = len(json.dumps(document).encode())
        if size > MAX_BYTES:
            yield f"{name_of(document)} has {size} bytes, which `kubectl apply` does not send."


def references(documents: Sequence[Document]) -> Iterator[str]:
    """What pods name is there: ConfigMaps, volumes, their claims, accounts, keys of the Secret."""
    there = {(document["kind"], document["metadata"]["name"]) for document in documents}
    for whose, template in pod_templates(documents):
        spec = template["spec"]
        wanted = [
            ("ServiceAccount", spec.get("serviceAccountName")),
            ("PriorityClass", spec.get("priorityClassName")),
        ]
        for volume in spec["volumes"]:
            wanted.append(("PersistentVolumeClaim", volume.get("persistentVolumeClaim", {}).get("claimName")))
            wanted.append(("ConfigMap", volume.get("configMap", {}).get("name")))
        for container in containers(spec):
            wanted += [("ConfigMap", item["configMapRef"]["name"]) for item in container.get("envFrom", [])]
            yield from _mounts(whose, spec, container)
            yield from _secret_keys(whose, container)
        yield from (
            f"{whose} names {kind} {name}, which is not there."
            for kind, name in wanted
            if name and (kind, name) not in there
        )


def containers(spec: Document) -> list[Document]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def _mounts(whose: str, spec: Document, container: Document) -> Iterator[str]:
    volumes = {volume["name"] for volume in spec["volumes"]}
    for mount in container.get("volumeMounts", []):
        if mount["name"] not in volumes:
            yield f"{whose} mounts {mount['name']}, which is no volume of its."


def _secret_keys(whose: str, container: Document) -> Iterator[str]:
    keys = example_keys()
    for variable in container.get("env", []):
        chosen = variable.get("valueFrom", {}).get("secretKeyRef")
        if chosen is None:
            continue
        name, key = chosen["name"], chosen["key"]
        if name != "asr-serve" or key not in keys:
            yield f"{whose} takes {name}/{key}, which secrets.example.env lacks."
        elif not keys[key] and not chosen.get("optional"):
            yield f"{whose} needs {key}, which secrets.example.env has as a comment."


def example_keys() -> dict[str, bool]:
    """The keys of the example of a Secret: whether each is filled in rather than commented out."""
    text = (K8S / "secrets" / "secrets.example.env").read_text(encoding="utf-8")
    return {key: not mark for mark, key in re.findall(r"^(#?)([A-Z_]+)=", text, re.MULTILINE)}


def settings_of(documents: Sequence[Document], container: Document) -> dict[str, str]:
    """A container's variables by name, without those that are secret."""
    data = {document["metadata"]["name"]: document["data"] for document in of_kind(documents, "ConfigMap")}
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= data.get(source["configMapRef"]["name"], {})
    return found | {item["name"]: item["value"] for item in container.get("env", []) if "value" in item}


def ports_of(container: Document) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container.get("ports", [])}


def services(documents: Sequence[Document]) -> Iterator[str]:
    """Services and Ingresses lead to ports that are there."""
    by_name = {}
    for service in of_kind(documents, "Service"):
        by_name[service["metadata"]["name"]] = {port["name"] for port in service["spec"]["ports"]}
        found = list(selected(documents, {"matchLabels": service["spec"]["selector"]}))
        if not found:
            yield f"{name_of(service)} selects no pod."
        for port, (whose, template) in ((port, pod) for port in service["spec"]["ports"] for pod in found):
            if port["targetPort"] not in _all_ports(template):
                yield f"{name_of(service)}: {whose} has no port {port['targetPort']}."
    for ingress in of_kind(documents, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                service = path["backend"]["service"]
                if service["port"]["name"] not in by_name.get(service["name"], ()):
                    yield f"{name_of(ingress)} leads to {service}, which is not there."


def _all_ports(template: Document) -> dict[str, int]:
    return {
        name: port
        for container in template["spec"]["containers"]
        for name, port in ports_of(container).items()
    }


def selected(documents: Sequence[Document], selector: Document) -> Iterator[tuple[str, Document]]:
    """The pods that a label selector means."""
    for whose, template in pod_templates(documents):
        labels = template["metadata"].get("labels", {})
        plain = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
        if plain and all(_matches(labels, item) for item in selector.get("matchExpressions", [])):
            yield whose, template


def _matches(labels: Mapping[str, str], requirement: Document) -> bool:
    assert requirement["operator"] == "In", "the only one in use"
    return labels.get(requirement["key"]) in requirement["values"]


def selectors(documents: Sequence[Document]) -> Iterator[str]:
    """What is meant for pods meets some."""
    for document in documents:
        spec, kind = document.get("spec", {}), document["kind"]
        if kind == "Deployment":
            labels = spec["template"]["metadata"]["labels"]
            if not spec["selector"]["matchLabels"].items() <= labels.items():
                yield f"{name_of(document)} does not select its own pods."
        elif kind in ("PodDisruptionBudget", "PodMonitor") and not list(
            selected(documents, spec["selector"])
        ):
            yield f"{name_of(document)} selects no pod."
        elif kind == "NetworkPolicy":
            yield from _policy(documents, document)
        if kind == "PodMonitor":
            pods = list(selected(documents, spec["selector"]))
            for endpoint in spec.get("podMetricsEndpoints", []):
                if not any(endpoint["port"] in _all_ports(template) for _, template in pods):
                    yield f"{name_of(document)}: no pod has a port {endpoint['port']}."


def _policy(documents: Sequence[Document], policy: Document) -> Iterator[str]:
    """A policy is for pods that are there, and names ports that those have who are to be reached."""
    if GATEWAY in policy["spec"]["podSelector"].get("matchLabels", {}):
        return  # its pods are those of whoever implements it
    pods = list(selected(documents, policy["spec"]["podSelector"]))
    if not pods:
        yield f"{name_of(policy)} is for no pod."
    for rule in policy["spec"].get("ingress", []):
        yield from (
            f"{name_of(policy)} opens the port {port['port']}, which no pod has."
            for port in rule.get("ports", [])
            if not any(_has(template, port["port"]) for _, template in pods)
        )
        for peer in rule.get("from", []):
            yield from _peer(documents, policy, peer)
    for rule in policy["spec"].get("egress", []):
        for peer in rule.get("to", []):
            yield from _peer(documents, policy, peer)


def _has(template: Document, port: str | int) -> bool:
    there = _all_ports(template)
    return port in there or port in there.values()


def _peer(documents: Sequence[Document], policy: Document, peer: Document) -> Iterator[str]:
    chosen = peer.get("podSelector")
    if chosen is None or "namespaceSelector" in peer:
        return
    of_gateway = GATEWAY in chosen.get("matchLabels", {})
    if not of_gateway and not list(selected(documents, chosen)):
        yield f"{name_of(policy)} names pods that are not there: {chosen}."


RULES: tuple[Rule, ...] = (names, sizes, references, services, selectors)
