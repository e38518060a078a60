"""What runs in pods of ``k8s/``: the hook of one that ends, and Ray itself with a pod's few rights."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.ray_nodes import Machine, RayNodes, ray_nodes
from serve_app.cli.ports import free_port
from tests.confined import confined, why_not
from tests.conftest import Sample
from tests.manifest_rules import settings_of
from tests.manifests import K8S, kustomize, of_kind, ray_groups, ray_service, render

HEAD, LEAVING, STAYING = (Machine(f"127.0.0.{number}") for number in (61, 62, 63))
CLIENTS = 4


@contextmanager
def clients(url: str) -> Iterator[list[str]]:
    """Clients that ask over and over; what they were told, or what went wrong."""
    told: list[str] = []
    over = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=60, trust_env=False) as client:
            while not over.is_set():
                try:
                    answer = client.get(url)
                    told.append(answer.text if answer.is_success else f"status {answer.status_code}")
                except httpx.TransportError as error:
                    told.append(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield told
    finally:
        over.set()
        for thread in threads:
            thread.join()


def drain(cluster: RayNodes, ip: str, seconds: float) -> str:
    """Run the hook as the pod at ``ip`` does; what it says."""
    command = [sys.executable, str(K8S / "base" / "drain.py"), "--seconds", str(seconds), "--ip", ip]
    env = {**cluster.env, "RAY_ADDRESS": cluster.address}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=120)
    return done.stderr


def places(cluster: RayNodes) -> list[str | None]:
    return [replica.ip for replica in cluster.replicas() if replica.state == "RUNNING"]


@pytest.mark.own_server
@pytest.mark.long
def test_a_pod_that_ends_loses_no_answer() -> None:
    # Sockets lie in there, whose paths must be short.
    with (
        TemporaryDirectory(dir="/tmp", prefix="k8s-") as directory,
        ray_nodes(Path(directory), HEAD) as cluster,
    ):
        cluster.start("head", HEAD, "--num-cpus", "0")
        cluster.start("leaving", LEAVING, "--num-cpus", "2")
        port = free_port("127.0.0.1")
        slow = {"name": "Slow", "num_replicas": 2, "ray_actor_options": {"num_cpus": 1}}
        application = {"name": "asr", "import_path": "tests.slow_answers:build", "deployments": [slow]}
        http = {"host": "127.0.0.1", "port": port}
        cluster.deploy({"proxy_location": "HeadOnly", "http_options": http, "applications": [application]})
        assert places(cluster) == [LEAVING.ip, LEAVING.ip]
        cluster.start("staying", STAYING, "--num-cpus", "2")
        with clients(f"http://127.0.0.1:{port}/") as told:
            before = {replica.pid for replica in cluster.replicas()}
            assert "No replica is on this node any more." in drain(cluster, LEAVING.ip, 60)
            # Kubernetes ends it now.
            cluster.kill("leaving")
            count = len(told)
        assert len(told) > count
        assert places(cluster) == [STAYING.ip, STAYING.ip]
        after = {replica.pid for replica in cluster.replicas()}
        assert set(told) <= {str(pid) for pid in before | after}
        assert "knows no node at 127.0.0.99" in drain(cluster, "127.0.0.99", 5)


@pytest.fixture(scope="module")
def starter() -> list[dict[str, Any]]:
    if kustomize() is None:
        pytest.skip("neither kubectl nor kustomize is installed, which render the manifests")
    if (reason := why_not()) is not None:
        pytest.skip(f"this machine does not let a program be confined as in a pod: {reason}")
    return render(K8S / "overlays" / "starter")


@pytest.mark.own_server
def test_the_graph_runs_with_what_a_pod_has(starter: list[dict[str, Any]], samples: list[Sample]) -> None:
    service = ray_service(starter)
    settings = settings_of(starter, ray_groups(service)[0][1]["template"]["spec"]["containers"][0])
    # Where the volume of a pod would be.
    env = {**settings, "DATA_DIR": "/tmp/data", "SPEAKER_MODEL": "none"}
    given = json.dumps({"env": env, "config": yaml.safe_load(service["spec"]["serveConfigV2"])})
    done = subprocess.run(
        confined([sys.executable, "-m", "tests.confined"]),
        input=given,
        capture_output=True,
        text=True,
        check=True,
        timeout=400,
    )
    seen = json.loads(done.stdout.splitlines()[-1])
    assert (seen["status"], seen["message"]) == ("RUNNING", "")
    assert (seen["alive"], seen["ready"], seen["metrics"]) == (200, 200, [200, 200, 200])
    assert (seen["without the key"], seen["with the key"]) == (401, 200)
    assert {"Ingress", "Jobs", "Vad", "Paraformer"} <= set(seen["deployments"])
    (home,) = (sample for sample in samples if sample.path.name == "home.wav")
    assert seen["text"] == home.written


_EDGE_AND_PROBE = """
"$1" "$2" &
until "$3" -c 'from urllib.request import urlopen; print(urlopen("http://127.0.0.1:8405/metrics").status)'
do sleep 0.3
done 2>/dev/null
kill $!
wait $!
"""


def test_the_edge_runs_with_what_a_pod_has(starter: list[dict[str, Any]]) -> None:
    (edge,) = of_kind(starter, "Deployment")
    (container,) = edge["spec"]["template"]["spec"]["containers"]
    program, *arguments = container["command"]
    words = [str(Path(sys.executable).parent / program), *arguments, sys.executable]
    done = subprocess.run(
        confined(["sh", "-c", _EDGE_AND_PROBE, "sh", *words]),
        env={**os.environ, **settings_of(starter, container)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert re.search(r"Ready on http://\S+:8000 ", done.stdout)
    assert "200" in done.stdout.splitlines()
    assert "Stopping" in done.stdout
