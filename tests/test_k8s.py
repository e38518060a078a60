"""The manifests in ``k8s/``: each overlay renders, has the form it must have, and agrees with the code."""

import importlib.util
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
from ray.autoscaler._private.constants import AUTOSCALER_METRIC_PORT
from ray.dashboard.consts import DASHBOARD_METRIC_PORT

from serve_app.model_hub.selection import profile
from tests.manifest_pods import AGENT_PORT, METRICS_OF_HEAD, image_paths, images, variables
from tests.manifest_rules import example_keys, names, references, selectors
from tests.manifest_serve import all_faults
from tests.manifests import (
    CRDS,
    K8S,
    ROOT,
    Document,
    RenderError,
    copy_of_manifests,
    name_of,
    needs_kustomize,
    of_kind,
    ray_service,
    render,
    schema_faults,
)

OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())


@cache
def rendered(overlay: str) -> list[Document]:
    return render(K8S / "overlays" / overlay)


def faults_of(directory: Path) -> list[str]:
    return all_faults(render(directory))


def load_embed() -> ModuleType:
    spec = importlib.util.spec_from_file_location("embed", K8S / "embed.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_have_no_fault(overlay: str) -> None:
    assert all_faults(rendered(overlay)) == []


def test_kuberays_own_schema_is_at_hand() -> None:
    """Without it, RayServices are checked as pods and by the rules only; this says so in the report."""
    if not CRDS.is_dir():
        pytest.skip(f"KubeRay's CRDs are not in {CRDS}: fields of RayService itself were not checked")
    assert (CRDS / "ray.io_rayservices.yaml").is_file()


@needs_kustomize
@pytest.mark.parametrize("component", ["ingress", "models-init"])
def test_components_that_no_overlay_has(component: str, tmp_path: Path) -> None:
    copied = copy_of_manifests(tmp_path)
    kustomization = copied / "overlays" / "cpu" / "kustomization.yaml"
    text = kustomization.read_text(encoding="utf-8")
    added = text.replace("components:\n", f"components:\n  - ../../components/{component}\n", 1)
    kustomization.write_text(added, encoding="utf-8")
    assert faults_of(kustomization.parent) == []
    if component == "models-init":
        # Every pod of Ray has them on a disk of its own, so none needs the volume.
        claims = [
            name_of(document) for document in of_kind(render(kustomization.parent), "PersistentVolumeClaim")
        ]
        assert claims == ["PersistentVolumeClaim asr-serve-data"]


def test_every_component_is_tested() -> None:
    there = {path.name for path in (K8S / "components").iterdir()}
    texts = [path.read_text(encoding="utf-8") for path in (K8S / "overlays").glob("*/kustomization.yaml")]
    used = {name for text in texts for name in re.findall(r"components/([\w-]+)$", text, re.MULTILINE)}
    assert there - used == {"ingress", "models-init"}


@needs_kustomize
@pytest.mark.parametrize("directory", ["models", "unpack"])
def test_what_fills_the_volume_of_models(directory: str) -> None:
    documents = render(K8S / directory)
    assert schema_faults(documents) == []
    rules = (names, references, selectors, variables, images, image_paths)
    assert [fault for rule in rules for fault in rule(documents)] == []


@needs_kustomize
def test_the_job_fetches_what_the_overlay_for_gpus_serves() -> None:
    (job,) = of_kind(render(K8S / "models"), "Job")
    command = job["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[:-1] == ["asr-serve", "models", "pull", "--profile"]
    fetched = set(profile(command[-1]))
    config = yaml.safe_load(ray_service(rendered("gpu"))["spec"]["serveConfigV2"])
    args = config["applications"][0]["args"]
    named = {args[key] for key in args if key.endswith("_model")} | {*args["enabled_models"].split(",")}
    assert named <= fetched


@needs_kustomize
def test_the_secret_is_made_of_the_example(tmp_path: Path) -> None:
    copied = copy_of_manifests(tmp_path) / "secrets"
    # Nobody gets the placeholders as keys by accident.
    with pytest.raises(RenderError, match=r"secrets\.env"):
        render(copied)
    shutil.copy(copied / "secrets.example.env", copied / "secrets.env")
    (secret,) = render(copied)
    assert (secret["metadata"]["name"], secret["metadata"]["namespace"]) == ("asr-serve", "asr-serve")
    assert secret["data"].keys() == {key for key, is_filled in example_keys().items() if is_filled}
    assert schema_faults([secret]) == []


def test_keys_are_not_committed() -> None:
    assert "/secrets/secrets.env" in (K8S / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_serve_configs_are_the_profiles() -> None:
    """After a change of a profile: ``make manifests``."""
    embed = load_embed()
    for overlay, source in embed.PROFILES.items():
        expected = embed.for_cluster((ROOT / source).read_text(encoding="utf-8"), source)
        file = K8S / "overlays" / overlay / "serve_config.yaml"
        assert file.read_text(encoding="utf-8") == expected, f"{overlay}: run `make manifests`"
    there = {path.parent.name for path in (K8S / "overlays").glob("*/serve_config.yaml")}
    assert there == embed.PROFILES.keys()


def test_a_profile_for_a_cluster_changes_nothing_else() -> None:
    embed = load_embed()
    source = "configs/gpu-80g.yaml"
    before = yaml.safe_load((ROOT / source).read_text(encoding="utf-8"))
    after = yaml.safe_load(embed.for_cluster((ROOT / source).read_text(encoding="utf-8"), source))
    assert after.pop("proxy_location") == "EveryNode"
    assert after["http_options"].pop("host") == "0.0.0.0"
    before.pop("proxy_location")
    before["http_options"].pop("host")
    for old, new in zip(entries(before), entries(after), strict=True):
        options = new["ray_actor_options"]
        assert options["num_cpus"] or options["num_gpus"]
        if not old["ray_actor_options"]["num_cpus"] and "num_gpus" not in options:
            options["num_cpus"] = 0
    assert after == before
    # What is for a cluster already stays as it is.
    own = (ROOT / "configs" / "multi-node.yaml").read_text(encoding="utf-8")
    assert embed.for_cluster(own, "x").endswith(own)


def entries(config: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = config["applications"][0]["deployments"]
    return found


@needs_kustomize
@pytest.mark.parametrize("overlay", sorted(load_embed().PROFILES))
def test_the_ray_service_has_the_profile_word_for_word(overlay: str) -> None:
    text = (K8S / "overlays" / overlay / "serve_config.yaml").read_text(encoding="utf-8")
    assert ray_service(rendered(overlay))["spec"]["serveConfigV2"] == text


@needs_kustomize
def test_a_changed_setting_starts_a_new_cluster(tmp_path: Path) -> None:
    """KubeRay looks at the pods' templates only, so the ConfigMap's name must change with its content."""
    copied = copy_of_manifests(tmp_path)
    before = ray_service(render(copied / "overlays" / "cpu"))["spec"]["rayClusterConfig"]
    settings = copied / "base" / "settings.env"
    settings.write_text(settings.read_text(encoding="utf-8") + "VAD_END_SILENCE_MS=600\n", encoding="utf-8")
    after = ray_service(render(copied / "overlays" / "cpu"))["spec"]["rayClusterConfig"]
    for group in (before, after):
        (name,) = {found["configMapRef"]["name"] for found in sources(group)}
        group["its name"] = name
    assert before["its name"] != after["its name"]


def sources(cluster: Document) -> Iterator[Document]:
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield from group["template"]["spec"]["containers"][0]["envFrom"]


@needs_kustomize
def test_nothing_leaves_an_air_gapped_site() -> None:
    documents = rendered("air-gapped")
    text = yaml.safe_dump_all(documents)
    assert "0.0.0.0/0" not in text
    assert set(re.findall(r"image: (\S+)", text)) == {
        "registry.example.internal/asr-serve:0.1.0-cpu",
        "registry.example.internal/asr-serve:0.1.0-gpu",
    }


@needs_kustomize
def test_the_highly_available_overlay() -> None:
    documents = rendered("ha")
    cluster = ray_service(documents)["spec"]["rayClusterConfig"]
    assert cluster["gcsFaultToleranceOptions"]["redisAddress"].startswith("redis://")
    (edge,) = of_kind(documents, "Deployment")
    assert edge["spec"]["replicas"] >= 3
    kept = [name_of(document) for document in of_kind(documents, "PodDisruptionBudget")]
    assert kept == ["PodDisruptionBudget asr-serve-edge", "PodDisruptionBudget asr-serve-workers"]
    config = yaml.safe_load(ray_service(documents)["spec"]["serveConfigV2"])
    (ingress,) = (entry for entry in entries(config) if entry["name"] == "Ingress")
    assert ingress["autoscaling_config"]["min_replicas"] >= 2


def test_rays_ports_are_those_of_its_code() -> None:
    assert METRICS_OF_HEAD == {"as-metrics": AUTOSCALER_METRIC_PORT, "dash-metrics": DASHBOARD_METRIC_PORT}
    assert AGENT_PORT == DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
