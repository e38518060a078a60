"""What is wrong in an overlay is found: fields, values, names, ports, paths, what does not go together."""

import re
from functools import cache
from pathlib import Path

import pytest

from tests.manifest_serve import all_faults
from tests.manifests import (
    CRDS,
    K8S,
    RenderError,
    copy_of_manifests,
    kustomize,
    parse,
    render,
    render_text,
)

pytestmark = pytest.mark.skipif(
    kustomize() is None, reason="neither kubectl nor kustomize is installed, which render the manifests"
)

WRONG = [
    # overlay, what is there, what is put in its place everywhere, what is said of it
    ("cpu", "rayVersion: 2.60.0", "rayVersion: 2.9.0", "have Ray"),
    ("cpu", "asr-serve:0.1.0-cpu", "asr-serve:latest", "none of version"),
    ("gpu", "asr-serve:0.1.0-cpu", "asr-serve:0.1.0-gpu", "needs no GPU"),
    ("cpu", "containerPort: 8000", "containerPort: 8001", "port serve is 8001"),
    ("cpu", "containerPort: 8080", "containerPort: 9090", "port metrics is 9090"),
    ("cpu", "port: serve", "port: grpc", "asks port grpc"),
    ("cpu", "path: /-/healthz", "path: /healthz", "asks /healthz"),
    ("cpu", "port: 52365", "port: 52366", "asks port 52366"),
    ("cpu", "minReplicas: 2", "minReplicas: 9", "above maxReplicas"),
    ("cpu", "maxReplicas: 8", "maxReplicas: 8\n      numOfHost: 1", "numOfHost"),
    ("cpu", "maxReplicas: 8", "maxReplicas: 1", "no room"),
    ("cpu", "version: v2", "version: v3", "'v3'"),
    ("cpu", "readOnly: true", "readonly: true", "'readonly' was"),
    ("cpu", "imagePullPolicy: IfNotPresent", "imagePullPolicy: 1", "not of type 'string'"),
    ("cpu", "claimName: asr-serve-data", "claimName: asr-data", "asr-data, which is not"),
    ("cpu", "key: JOBS_DATABASE_URL", "key: DATABASE_URL", "example.env lacks"),
    ("cpu", "key: ADMIN_KEY", "key: API_KEYS", "API_KEYS, which secrets"),
    ("cpu", "optional: true", "optional: false", "has as a comment"),
    ("cpu", "name: WEBHOOK_SECRET", "name: WEBHOK_SECRET", "nothing reads .*WEBHOK"),
    ("cpu", "serviceAccountName: asr-serve", "serviceAccountName: asr", "ServiceAccount asr, "),
    ("cpu", "priorityClassName: asr-serve", "priorityClassName: high", "PriorityClass high, "),
    ("cpu", "workingDir: /app", "workingDir: /srv", "works in /srv"),
    ("cpu", "mountPath: /data", "mountPath: /jobs", "nothing at /data"),
    ("cpu", "runAsUser: 1000", "runAsUser: 1001", "another user"),
    ("cpu", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "may write"),
    ("cpu", "runAsNonRoot: true", "runAsNonRoot: false", "run as root"),
    ("cpu", 'num-cpus: "0"', 'num-cpus: "4"', "head takes replicas"),
    ("cpu", '- "1200"', '- "600"', "600 s to drain"),
    ("cpu", "rayClusterDeletionDelaySeconds: 3900", "rayClusterDeletionDelaySeconds: 60", "deleted before"),
    ("cpu", "type: NewCluster", "type: RollingUpdate", "no upgradeStrategy"),
    ("cpu", "asr-serve-serve-svc:8000", "asr-serve-svc:8000", "edge's backend"),
    ("cpu", 'value: "10095"', 'value: "10096"', "port funasr is 10095, not 10096"),
    ("cpu", "name: EDGE_METRICS", "name: EDGE_METRIC", "nothing reads .*EDGE_METRIC"),
    ("cpu", "value: 0.0.0.0:8405", "value: everywhere", "does not take"),
    ("cpu", "targetPort: funasr", "targetPort: ws", "no port ws"),
    ("cpu", "terminationGracePeriodSeconds: 3630", "terminationGracePeriodSeconds: 30", "edge is ended"),
    ("cpu", "LIVE_MAX_CONNECTION_SEC", "LIVE_MAX_CONNECTIONS_SEC", "nothing reads"),
    ("cpu", "LOG_LEVEL: INFO", "LOG_LEVEL: LOUD", "does not take"),
    ("cpu", "HF_HOME: /models/huggingface", "HF_HOME: /models/hf", "in the image"),
    ("cpu", "port: funasr", "port: 10096", "10096, which no pod"),
    ("cpu", "port: 8265", "port: 8256", "8256, which no pod"),
    ("cpu", "policyTypes:", "policyType:", "policyType"),
    ("cpu", "minAvailable: 1", "maxUnavailable: 1", "must have a number"),
    ("gpu", "minAvailable: 3", "minAvailable: 4", "keeps 4 of at least 4"),
    ("cpu", "namespace: asr-serve", "namespace: default", "is in the namespace default"),
    ("cpu", "mode: token", "mode: password", "'password'"),
    ("gpu", "port: as-metrics", "port: autoscaler", "no pod has a port"),
    ("gpu", "podMetricsEndpoints", "podMetricEndpoints", "podMetricEndpoints"),
    ("ha", "key: REDIS_PASSWORD", "key: PASSWORD", "password of Redis"),
    ("ha", "redisAddress:", "address:", "'address' was"),
    ("ha", "containerPort: 8443", "containerPort: 443", "port https is 443"),
    ("gpu", 'num-cpus: "2"', 'num-cpus: "0"', "no room .* Qwen3ASR"),
    ("gpu", "nvidia.com/gpu: 1", "nvidia.com/gpus: 1", "no room"),
    ("gpu", "max_replicas: 4", "max_replicas: 9", "no room for the largest"),
    ("incremental-upgrade", "stepSizePercent: 10", "stepSizePercent: 60", "maxSurgePercent"),
    ("incremental-upgrade", "gatewayClassName: istio", "gatewayClass: istio", "gatewayClass"),
    ("incremental-upgrade", "asr-serve-gateway-istio:80", "asr-serve-gateway:80", "edge's backend"),
    ("gpu-80g", "ENABLED_MODELS: paraformer-large,qwen3-asr-1.7b", "ENABLED_MODELS: auto", "is auto"),
    # In the Serve config.
    ("cpu", "name: Paraformer\n", "name: Parafomer\n", "no deployment Parafomer"),
    ("cpu", "max_ongoing_requests:", "max_ongoing_request:", "has no field max_ongoing_request"),
    ("cpu", "max_batch_seconds:", "max_batch_second:", "no max_batch_second in"),
    ("cpu", "max_batch_chunks: 64", "max_batch_chunks: many", "ParaformerStreaming"),
    ("cpu", "target_wait_seconds:", "target_wait:", "no target_wait\\b"),
    ("cpu", "max_live_sessions:", "max_live_session:", "max_live_session"),
    ("cpu", "speaker_model: cam++", "speaker_model: none", "no deployment SpeakerEmbedding"),
    ("cpu", "host: 0.0.0.0", "host: 127.0.0.1", "no other pod"),
    ("cpu", "proxy_location: EveryNode", "proxy_location: HeadOnly", "on the head only"),
    ("cpu", "num_cpus: 0.1", "num_cpus: 0", "reserves nothing"),
    ("cpu", "num_cpus: 4", "num_cpus: 16", "no room .* ParaformerStreaming"),
    ("cpu", "      port: 8000\n", "      port: 8008\n", "listens on port 8008"),
    ("cpu", "upscale_delay_s:", "upscale_delay:", "autoscaling_config has no field upscale_delay"),
    ("cpu", "min_replicas: 2", "min_replicas: -2", "autoscaling_config is wrong"),
    ("cpu", "serve_app.app:build", "app:build", "one application"),
    ("gpu", "num_gpus: 0.", "num_gpus: 1.", "no room"),
    ("gpu", "qwen3_memory: ", "qwen3_memory: 1", "Qwen3ASR"),
    ("gpu", "gpu_memory: 24GB", "gpu_memory: 8GB", "GPU of .* GB|GB"),
    ("gpu-80g", "GPU_MEMORY: 80GB", "LOG_TRANSCRIPTS: 'false'", "GPU_MEMORY is not set"),
    ("gpu", "qwen3-asr-0.6b", "qwen3-asr-0.7b", "cannot be used"),
]  # fmt: skip
ONLY_KUBERAY_KNOWS = ("numOfHost", "'v3'", "'password'", "'address' was", "gatewayClass")


@cache
def text_of(overlay: str) -> str:
    return render_text(K8S / "overlays" / overlay)


@pytest.mark.parametrize(("overlay", "there", "instead", "said"), WRONG)
def test_what_is_wrong_is_found(overlay: str, there: str, instead: str, said: str) -> None:
    if said in ONLY_KUBERAY_KNOWS and not CRDS.is_dir():
        pytest.skip(f"only KubeRay's CRDs tell, which are not in {CRDS}")
    text = text_of(overlay)
    assert there in text
    found = "\n".join(all_faults(parse(text.replace(there, instead))))
    assert re.search(said, found), found


BASE, GPU = "base/rayservice.yaml", "overlays/gpu/workers.yaml"
EMBED = "components/serve-config/kustomization.yaml"
IN_FILES = [
    # file, what is there, what is put in its place, overlay, what is said of it
    (BASE, "name: asr-serve-settings", "name: asr-settings", "cpu", "asr-settings, which is not"),
    (BASE, "labels:\n", "labels:\n\t", "cpu", "yaml"),
    ("base/disruption.yaml", "component: ray-worker", "component: worker", "cpu", "selects no pod"),
    ("base/names.yaml", "volumes/configMap", "volume/configMap", "cpu", "asr-serve-drain, which is not"),
    ("base/kustomization.yaml", "- edge.yaml", "- edges.yaml", "cpu", "edges.yaml"),
    (EMBED, "spec.serveConfigV2", "spec.serveConfig", "cpu", "serveConfig"),
    (GPU, "/workerGroupSpecs/1/groupName", "/workerGroups/1/groupName", "gpu", "missing path"),
    ("overlays/gpu/kustomization.yaml", "containers/0/image", "containers/1/image", "gpu", "image"),
    ("overlays/starter/small.yaml", "value: models", "value: data", "starter", "test"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "there", "instead", "overlay", "said"), IN_FILES)
def test_what_is_wrong_in_a_file_is_found(
    file: str, there: str, instead: str, overlay: str, said: str, tmp_path: Path
) -> None:
    copied = copy_of_manifests(tmp_path)
    text = (copied / file).read_text(encoding="utf-8")
    assert there in text
    (copied / file).write_text(text.replace(there, instead), encoding="utf-8")
    try:
        found = "\n".join(all_faults(render(copied / "overlays" / overlay)))
    except RenderError as error:
        found = str(error)
    assert re.search(said, found), found
