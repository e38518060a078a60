"""A cluster with several machines, and clients that go on while nodes die."""

import asyncio
import copy
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.machines import NotAllowed, network_machines
from benchmarks.ray_nodes import ROOT, Machine, Node, RayNodes, ray_nodes
from tests.conftest import Sample
from tests.database_servers import postgres_server, redis_server
from tests.live_speech import converse, recording, spoken

PORT = 8000
PORTS = [
    *("--node-manager-port", "6380", "--object-manager-port", "6381", "--metrics-export-port", "8080"),
    *("--min-worker-port", "20000", "--max-worker-port", "20999", "--dashboard-agent-listen-port", "52365"),
]
"""As docs/cluster.md has them."""

CARD = 1.0
"""What the shares of one GPU come to, at most."""

_PATIENCE = 120


def _entry(name: str, gpus: float = 0.0, cpus: float = 0.0, **more: Any) -> dict[str, Any]:
    options = {"num_cpus": cpus, "num_gpus": gpus, **more.pop("options", {})}
    return {
        "name": name,
        "num_replicas": 2,
        "max_replicas_per_node": 1,
        "max_ongoing_requests": 256,
        "ray_actor_options": options,
        **more,
    }


_GRAPH: dict[str, Any] = {
    "proxy_location": "EveryNode",
    "http_options": {"host": "0.0.0.0", "port": PORT, "request_timeout_s": None},
    "applications": [
        {
            "name": "asr",
            "route_prefix": "/",
            "import_path": "serve_app.app:build",
            "args": {"device": "cpu", "precision": "fp32", "qwen3_model": "none", "speaker_model": "none"},
            "deployments": [
                _entry("Ingress", options={"resources": {"front": 0.001}}),
                _entry("Jobs", options={"resources": {"models": 0.001}}),
                _entry("Vad", 0.1),
                _entry("Paraformer", 0.4, 1.0),
                _entry("ParaformerStreaming", 0.3, max_ongoing_requests=1024),
                _entry("Punctuation", 0.2),
            ],
        }
    ],
}
"""A share of each card for every model. Nodes say by resources of their own what they are for."""


def graph(args: Mapping[str, Any] | None = None, **deployments: Mapping[str, Any]) -> dict[str, Any]:
    """A config for the cluster, with other ``args``, or with other values of some deployments."""
    config = copy.deepcopy(_GRAPH)
    config["applications"][0]["args"] |= args or {}
    for entry in config["applications"][0]["deployments"]:
        entry |= deployments.get(entry["name"], {})
    return config


@dataclass(slots=True)
class World:
    """The head and two workers run, and nothing is deployed.

    Clients go to the ``front``: the head and the first worker, whose ingress replicas nobody kills.
    """

    cluster: RayNodes
    machines: Sequence[Machine]
    database: str

    @property
    def front(self) -> list[str]:
        return [machine.ip for machine in self.machines[:2]]

    def head(self) -> Node:
        resources = ["--num-cpus", "0", "--resources", '{"front": 1}']
        return self.cluster.start("head", self.machines[0], *PORTS, *resources)

    def worker(self, name: str, machine: Machine, resources: str = '{"models": 1}') -> Node:
        """Start a node with a pretended GPU."""
        has = ["--num-cpus", "2", "--num-gpus", "1", "--resources", resources]
        return self.cluster.start(name, machine, *PORTS, *has)

    def until(self, what: str, condition: Callable[[], object], seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not after {seconds:g} s\n{self.cluster.told()}"
            time.sleep(0.3)

    def everywhere(self) -> set[str]:
        """All nodes on which replicas run."""
        return {ip for ips in self.running().values() for ip in ips}

    def of(self, ip: str) -> set[str]:
        """The deployments of which a replica runs on a node."""
        return {name for name, ips in self.running().items() if ip in ips}

    def running(self) -> dict[str, set[str]]:
        """On which nodes replicas run, by deployment."""
        found: dict[str, set[str]] = {}
        for replica in self.cluster.replicas():
            if replica.state == "RUNNING" and replica.ip is not None:
                found.setdefault(replica.deployment, set()).add(replica.ip)
        return found


@contextmanager
def cluster_world(directory: Path) -> Iterator[World]:
    """Four machines with addresses of their own, PostgreSQL and Redis, and Ray on three of them.

    Skips the test where network namespaces are not allowed, or one of the two is not installed.
    """
    with ExitStack() as stack:
        try:
            here, machines = stack.enter_context(network_machines(4))
        except NotAllowed as error:
            pytest.skip(f"network namespaces cannot be made here: {error}")
        redis = stack.enter_context(redis_server(directory / "redis", here))
        postgres = stack.enter_context(postgres_server(directory / "pg", here))
        database = postgres.create("asr")
        env = {
            "RAY_REDIS_ADDRESS": redis,
            "RAY_external_storage_namespace": "asr",
            # As docs/cluster.md has it, so that a machine that nobody hears of is missed in seconds.
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "2000",
            "RAY_health_check_failure_threshold": "3",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
            "RAY_SERVE_SLOW_STARTUP_WARNING_S": "5",
            "RAY_SERVE_SLOW_STARTUP_WARNING_PERIOD_S": "5",
            "JOBS_DATABASE_URL": database,
            "OMP_NUM_THREADS": "1",
        }
        cluster = stack.enter_context(ray_nodes(directory, machines[0], env))
        world = World(cluster, machines, database)
        world.head()
        with ThreadPoolExecutor(2) as both:
            first = both.submit(world.worker, "one", machines[1], '{"front": 1, "models": 1}')
            second = both.submit(world.worker, "two", machines[2])
        first.result()
        second.result()
        yield world


def without_models(machine: Machine, directory: Path) -> Machine:
    """The same machine, where the directory of the models is empty."""
    directory.mkdir(exist_ok=True)
    hide = f'mount --bind {directory} {ROOT}/models/starter && exec "$@"'
    return replace(machine, enter=(*machine.enter, "sh", "-c", hide, "sh"))


def transcribe(node: str, sample: Sample) -> str:
    """What a node (its address, or a URL) says of a recording: its text, or what it said instead."""
    url = node if "://" in node else f"http://{node}:{PORT}"
    answer = httpx.post(
        f"{url}/v1/audio/transcriptions",
        files={"file": sample.path.read_bytes()},
        timeout=_PATIENCE,
        trust_env=False,
    )
    return str(answer.json()["text"]) if answer.is_success else f"{answer.status_code} {answer.text}"


def get(ip: str, path: str) -> httpx.Response:
    return httpx.get(f"http://{ip}:{PORT}{path}", timeout=_PATIENCE, trust_env=False)


@dataclass(slots=True)
class Clients:
    """Who sends one recording after the other, and who speaks; all of them until they are told to stop.

    ``done`` counts the files that were answered, ``wrong`` holds each answer that was not the right text.
    """

    addresses: Sequence[str]
    samples: Sequence[Sample]
    done: int = 0
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)

    def until_more(self, files: int, seconds: float = 90) -> None:
        """Wait until so many more files were answered."""
        wanted, deadline = self.done + files, time.monotonic() + seconds
        while self.done < wanted:
            assert time.monotonic() < deadline, f"{self.done} of {wanted} files; {self.wrong}"
            time.sleep(0.05)

    def send(self, index: int) -> None:
        while not self._stop.is_set():
            sample = self.samples[index % len(self.samples)]
            began = time.monotonic()
            try:
                told = transcribe(self.addresses[index % len(self.addresses)], sample)
            except httpx.HTTPError as error:
                told = repr(error)
            self.slowest = max(self.slowest, time.monotonic() - began)
            if told != sample.written:
                self.wrong.append(told)
            self.done += 1
            index += len(self.samples) + 1

    def speak(self, index: int) -> None:
        """Speak in a session until told to stop; it must be heard as if nothing had happened."""
        address, mode = self.addresses[index % len(self.addresses)], ("2pass", "online")[index // 2 % 2]
        said = [self.samples[at % len(self.samples)].path for at in (index, index + 1)]
        audio, rounds = recording(said), 0

        async def packets() -> Any:
            nonlocal rounds
            while not self._stop.is_set():
                rounds += 1
                async for packet in spoken(audio):
                    yield packet

        async def hear() -> tuple[str, str]:
            url = f"ws://{address}:{PORT}/"
            heard = (await converse(url, packets(), mode)).text
            whole = np.tile(audio, rounds)
            return heard, (await converse(url, spoken(whole, speed=0), mode)).text

        heard, alone = asyncio.run(hear())
        if heard != alone or not heard:
            self.wrong.append(f"{mode}: {heard!r} is not {alone!r}")


@contextmanager
def clients(
    addresses: Sequence[str], samples: Sequence[Sample], *, files: int = 4, sessions: int = 4
) -> Iterator[Clients]:
    """Clients that are at work while the block runs; at its end, all that they asked has been answered."""
    crowd = Clients(addresses, samples)
    with ThreadPoolExecutor(files + sessions) as pool:
        works: list[Future[None]] = [pool.submit(crowd.send, index) for index in range(files)]
        works += [pool.submit(crowd.speak, index) for index in range(sessions)]
        try:
            crowd.until_more(2 * files)
            yield crowd
        finally:
            crowd._stop.set()
    for work in works:
        work.result()
