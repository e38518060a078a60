"""What must hold of a RayService and of what stands around it, as KubeRay and Ray work."""

import ast
import re
from collections.abc import Iterator, Sequence

from tests.manifest_pods import AGENT_PORT
from tests.manifest_rules import Rule, example_keys, selected, settings_of
from tests.manifests import ROOT, Document, name_of, of_kind, ray_groups, ray_service

NEW_NODE_SECONDS = 300
"""What a node that takes over may need until its replicas are ready."""
MAX_NAME = 47
"""Characters of a RayService's name, to which KubeRay adds what it makes of it."""
OF_KUBERAY = {
    "RAY_REDIS_ADDRESS",
    "REDIS_PASSWORD",
    "REDIS_USERNAME",
    "RAY_enable_autoscaler_v2",
    "RAY_AUTH_TOKEN",
}
"""Variables that KubeRay puts into pods by itself."""


def ray_faults(documents: Sequence[Document]) -> list[str]:
    """What is wrong with an overlay's RayService, a sentence each."""
    return [fault for rule in RULES for fault in rule(documents)]


def ray_version(documents: Sequence[Document]) -> Iterator[str]:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (pinned,) = (pin.partition("==")[2] for pin in pins if pin.startswith("ray=="))
    said = ray_service(documents)["spec"]["rayClusterConfig"].get("rayVersion")
    if said != pinned:
        yield f"rayVersion is {said}, and the images have Ray {pinned}."


def probes_of_ray(documents: Sequence[Document]) -> Iterator[str]:
    """Ray's probes ask what Ray answers."""
    for name, group in ray_groups(ray_service(documents)):
        container = group["template"]["spec"]["containers"][0]
        alive, ready = (container[probe]["httpGet"] for probe in ("livenessProbe", "readinessProbe"))
        if (alive["path"], alive["port"]) != ("/api/healthz", AGENT_PORT):
            yield f"Ray's {name}: its livenessProbe asks {alive['path']} on {alive['port']}."
        wanted = ("/api/healthz", AGENT_PORT) if name == "head" else ("/-/healthz", "serve")
        if (ready["path"], ready["port"]) != wanted:
            yield f"Ray's {name}: its readinessProbe asks {ready['path']} on {ready['port']}."


def edge_backend(documents: Sequence[Document]) -> Iterator[str]:
    """The edge goes where KubeRay lets requests in."""
    service = ray_service(documents)
    name, options = (
        service["metadata"]["name"],
        service["spec"]["upgradeStrategy"].get("clusterUpgradeOptions"),
    )
    expected = f"{name}-gateway-{options['gatewayClassName']}:80" if options else f"{name}-serve-svc:8000"
    for edge in of_kind(documents, "Deployment"):
        for container in edge["spec"]["template"]["spec"]["containers"]:
            said = settings_of(documents, container).get("EDGE_BACKENDS")
            if said != expected:
                yield f"The edge's backend is {said}, and KubeRay's Service is {expected}."


def budgets(documents: Sequence[Document]) -> Iterator[str]:
    """For pods of a custom resource, Kubernetes takes ``minAvailable`` as a number only."""
    groups = {f"Ray's {name}": group for name, group in ray_groups(ray_service(documents))}
    for budget in of_kind(documents, "PodDisruptionBudget"):
        pods = [whose for whose, _ in selected(documents, budget["spec"]["selector"])]
        of_ray = [groups[whose] for whose in pods if whose in groups]
        least = budget["spec"].get("minAvailable")
        if of_ray and (not isinstance(least, int) or "maxUnavailable" in budget["spec"]):
            yield f"{name_of(budget)} must have a number as minAvailable."
        elif "Ray's head" not in pods and of_ray:
            pods_at_least = sum(group["minReplicas"] for group in of_ray)
            if not isinstance(least, int) or least != max(1, pods_at_least - 1):
                yield f"{name_of(budget)} keeps {least} of at least {pods_at_least} workers."


def grace(documents: Sequence[Document]) -> Iterator[str]:
    """What ends has the time that it takes."""
    service = ray_service(documents)["spec"]
    groups = ray_groups({"spec": service})
    settings = settings_of(documents, groups[0][1]["template"]["spec"]["containers"][0])
    session = float(settings.get("LIVE_MAX_CONNECTION_SEC", "inf"))
    if service["rayClusterDeletionDelaySeconds"] <= session:
        yield "An old cluster is deleted before its live sessions are over."
    for name, group in groups[1:]:
        pod = group["template"]["spec"]
        command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        drain = float(command[command.index("--seconds") + 1])
        if not ingress_grace() + NEW_NODE_SECONDS <= drain < pod["terminationGracePeriodSeconds"]:
            yield f"Ray's {name}: {drain:g} s to drain do not go with what its pod and the ingress have."
    for edge in of_kind(documents, "Deployment"):
        pod = edge["spec"]["template"]["spec"]
        sleep = float(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
        open_for = float(settings_of(documents, pod["containers"][0]).get("EDGE_GRACE_SEC", "30"))
        if not sleep + open_for < pod["terminationGracePeriodSeconds"] or open_for < session:
            yield "The edge is ended before its live sessions are over."


def ingress_grace() -> float:
    """``graceful_shutdown_timeout_s`` of the ingress, as its source says."""
    tree = ast.parse((ROOT / "serve_app" / "ingress.py").read_text(encoding="utf-8"))
    (value,) = (
        keyword.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "graceful_shutdown_timeout_s"
    )
    assert isinstance(value, ast.Constant)
    return float(str(value.value))


def kuberay(documents: Sequence[Document]) -> Iterator[str]:
    """What KubeRay refuses although its schema has it."""
    service = ray_service(documents)
    if len(service["metadata"]["name"]) > MAX_NAME:
        yield "The RayService's name is too long for what KubeRay makes of it."
    for name, group in ray_groups(service):
        pod = group["template"]["spec"]
        if pod.get("restartPolicy", "Never") != "Never":
            yield f"Ray's {name}: the autoscaler wants restartPolicy Never."
        variables = {item["name"] for item in pod["containers"][0].get("env", [])}
        yield from (f"Ray's {name}: KubeRay sets {found} itself." for found in variables & OF_KUBERAY)
        if name != "head" and group["minReplicas"] > group["maxReplicas"]:
            yield f"Ray's {name}: minReplicas is above maxReplicas."
    cluster = service["spec"]["rayClusterConfig"]
    yield from _head(cluster)
    yield from _upgrade(service["spec"]["upgradeStrategy"])
    yield from _redis(cluster.get("gcsFaultToleranceOptions"))


def _head(cluster: Document) -> Iterator[str]:
    head, options = cluster["headGroupSpec"], cluster.get("autoscalerOptions", {})
    if head["rayStartParams"].get("num-cpus") != "0":
        yield "The head takes replicas."
    if not cluster.get("enableInTreeAutoscaling") or options.get("version") != "v2":
        yield "Ray's autoscaler v2 is off."
    pod = head["template"]["spec"]
    if "serviceAccountName" in pod or pod.get("automountServiceAccountToken") is False:
        yield "Ray's autoscaler needs the ServiceAccount that KubeRay makes."


def _redis(options: Document | None) -> Iterator[str]:
    if options is None:
        return
    chosen = options.get("redisPassword", {}).get("valueFrom", {}).get("secretKeyRef", {})
    if chosen.get("key") not in example_keys() or chosen.get("name") != "asr-serve":
        yield f"The password of Redis is taken from {chosen}, which secrets.example.env lacks."
    if not re.fullmatch(r"rediss?://[\w.-]+:\d+", options.get("redisAddress", "")):
        yield f"{options.get('redisAddress')} is no address of a Redis."


def _upgrade(strategy: Document) -> Iterator[str]:
    kind, options = strategy["type"], strategy.get("clusterUpgradeOptions")
    if kind not in ("NewCluster", "NewClusterWithIncrementalUpgrade", "None"):
        yield f"KubeRay knows no upgradeStrategy {kind}."
    if (kind == "NewClusterWithIncrementalUpgrade") != (options is not None):
        yield "clusterUpgradeOptions go with NewClusterWithIncrementalUpgrade."
    if options and not 0 < options["stepSizePercent"] <= options.get("maxSurgePercent", 100) <= 100:
        yield "stepSizePercent must be no more than maxSurgePercent."


RULES: tuple[Rule, ...] = (ray_version, probes_of_ray, edge_backend, budgets, grace, kuberay)
