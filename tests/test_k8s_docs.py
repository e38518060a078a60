"""The commands in docs/kubernetes.md: as far as they can be followed without a cluster."""

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.manifest_rules import example_keys
from tests.manifest_serve import all_faults
from tests.manifests import (
    K8S,
    ROOT,
    Document,
    copy_of_manifests,
    needs_kustomize,
    of_kind,
    pod_templates,
    ray_service,
    render,
)

DOCUMENT = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
OF_KUBERAY = {"service/asr-serve-head-svc", "service/asr-serve-serve-svc"}
"""What KubeRay makes of a RayService of this name."""
KINDS = {
    "configmap",
    "deployment",
    "gateway",
    "httproute",
    "job",
    "namespace",
    "pod",
    "pods",
    "raycluster",
    "rayservice",
    "secret",
    "service",
}


def commands() -> list[list[str]]:
    """The words of each command."""
    fences = re.findall(r"^```bash\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for fence in fences for line in fence.strip().splitlines()]


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``k8s`` and ``my-cluster`` side by side, as who reads the page has them."""
    root = tmp_path_factory.mktemp("docs")
    copied = copy_of_manifests(root)
    shutil.copy(copied / "secrets" / "secrets.example.env", copied / "secrets" / "secrets.env")
    (root / "my-cluster").mkdir()
    (shown,) = re.findall(r"^```yaml\n(# my-cluster/.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    (root / "my-cluster" / "kustomization.yaml").write_text(shown, encoding="utf-8")
    return root


@needs_kustomize
def test_the_overlay_of_the_document(manifests: Path) -> None:
    documents = render(manifests / "my-cluster")
    assert all_faults(documents) == []
    images = {each["image"] for _, pod in pod_templates(documents) for each in pod["spec"]["containers"]}
    assert {image.rpartition(":")[0] for image in images} == {"registry.example.com/asr-serve"}
    groups = ray_service(documents)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert (groups[1]["groupName"], groups[1]["maxReplicas"]) == ("gpu-24g", 8)
    claims = of_kind(documents, "PersistentVolumeClaim")
    assert {claim["spec"]["storageClassName"] for claim in claims} == {"nfs"}


@needs_kustomize
def test_commands_lead_to_what_is_there(manifests: Path) -> None:
    there = set(OF_KUBERAY)
    for words in commands():
        if words[:3] == ["kubectl", "apply", "-k"] or words[:2] == ["kubectl", "kustomize"]:
            there |= {
                f"{document['kind'].lower()}/{document['metadata']['name']}"
                for document in render(manifests / words[-1])
            }
    for words in commands():
        check = CHECKS.get(words[0])
        assert check is not None, words
        missing = [name for name in check(words) if name not in there]
        assert missing == [], words


def _kubectl(words: list[str]) -> Iterator[str]:
    """What a command names, as ``kind/name``."""
    if words[1] == "-n":
        assert words[2] == "asr-serve"
    verb, *rest = [word for word in words[1:] if word not in ("-n", "asr-serve")] or [""]
    if verb in ("apply", "kustomize"):
        return
    if verb == "create":
        created = {"namespace": "namespace", "secret": "secret"}
        assert rest[0] in created
        for key in re.findall(r"--from-literal=(\w+)=", " ".join(words)):
            assert key in example_keys()
        return
    yield from (
        word for word in rest if re.fullmatch(r"(rayservice|job|pod|service|deployment)/[\w-]+", word)
    )
    if verb == "get" and not rest[0].startswith("-"):
        assert set(rest[0].split(",")) <= KINDS
    if verb in ("exec", "delete"):
        yield f"pod/{next(word for word in rest if word.startswith('asr-serve-'))}"
    for selector in re.findall(r"component=(\w+)", " ".join(rest)):
        assert selector in ("edge", "models", "ray-head", "ray-worker")


def _helm(words: list[str]) -> Iterator[str]:
    """The operator is where the NetworkPolicies look for it."""
    if words[1] == "install":
        namespace = words[words.index("--namespace") + 1]
        text = (K8S / "base" / "network.yaml").read_text(encoding="utf-8")
        assert f"kubernetes.io/metadata.name: {namespace}" in text
        assert f"app.kubernetes.io/name: {words[2]}" in text
    return iter(())


def _docker(words: list[str]) -> Iterator[str]:
    if "-f" in words:
        assert (ROOT / words[words.index("-f") + 1]).is_file()
    _is_image(words)
    return iter(())


def _is_image(words: list[str]) -> Iterator[str]:
    """The image of which the starter overlay makes its pods."""
    used = {
        container["image"]
        for _, pod in pod_templates(render(K8S / "overlays" / "starter"))
        for container in pod["spec"]["containers"]
    }
    assert used & set(words) == used
    return iter(())


def _copy(words: list[str]) -> Iterator[str]:
    assert (ROOT / words[1]).is_file()
    assert words[2].removeprefix("k8s") in (K8S / ".gitignore").read_text(encoding="utf-8").splitlines()
    return iter(())


def _none(words: list[str]) -> Iterator[str]:
    """Run by tests of other documents, or by hand."""
    known = (["make", "manifests"], ["curl", "-H"], ["${EDITOR:-vi}", "k8s/secrets/secrets.env"])
    assert words[:2] in known
    return iter(())


CHECKS: dict[str, Callable[[list[str]], Iterator[str]]] = {
    "kubectl": _kubectl,
    "helm": _helm,
    "docker": _docker,
    "kind": _is_image,
    "cp": _copy,
    "make": _none,
    "curl": _none,
    "${EDITOR:-vi}": _none,
}


def table(header: str) -> list[list[str]]:
    """The cells of the table below a header."""
    rows = DOCUMENT.partition(f"{header}\n")[2].partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def test_every_overlay_and_component_is_listed() -> None:
    from_file = {path.name for path in (K8S / "overlays").iterdir()}
    assert {cells[0].strip("`") for cells in table("| overlay | Serve config | for |")} == from_file
    components = {path.name for path in (K8S / "components").iterdir()} - {"serve-config"}
    assert {cells[0].strip("`") for cells in table("| component | |")} == components


def test_profiles_are_those_of_the_overlays() -> None:
    for overlay, profile, _ in table("| overlay | Serve config | for |"):
        if profile.startswith("`"):
            made = K8S / "overlays" / overlay.strip("`") / "serve_config.yaml"
            assert made.read_text(encoding="utf-8").startswith(f"# From {profile.strip('`')}, ")


def test_keys_are_those_of_the_example() -> None:
    shown = {key for cells in table("| key | |") for key in re.findall(r"`([A-Z_]+)`", cells[0])}
    assert shown == set(example_keys())


@needs_kustomize
def test_figures_are_those_of_the_manifests() -> None:
    documents: list[Document] = render(K8S / "overlays" / "incremental-upgrade")
    service = ray_service(documents)["spec"]
    assert f"for {service['rayClusterDeletionDelaySeconds'] // 60} minutes" in DOCUMENT
    assert service["upgradeStrategy"]["clusterUpgradeOptions"]["stepSizePercent"] == 10
    assert service["rayClusterConfig"]["autoscalerOptions"]["idleTimeoutSeconds"] == 300
    ports = set(re.findall(r"\b(?:80|443|8\d{3}|10095|44\d{3}|5432|6379)\b", yaml.safe_dump_all(documents)))
    (rows,) = re.findall(r"^\| to \| from \| ports \|\n.*?\n\n", DOCUMENT, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"\b\d{4,5}\b", rows)) - {"8443"}
    assert named <= ports
