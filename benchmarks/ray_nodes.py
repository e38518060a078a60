"""A Ray cluster of one's own, each node a process tree of ``ray start`` that can be killed as a machine is.

Nodes of one machine have different addresses of its loopback interface, or live in network namespaces.
"""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

ROOT = Path(__file__).parents[1]

_START_SECONDS = 60
_DEPLOY_SECONDS = 150
_STOP_SECONDS = 20
_STORE_BYTES = 120_000_000


class ClusterFailed(Exception):
    """The cluster, or what was deployed, did not get ready; the message says what is known of it."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a node runs: its address, and what is put before a command so that it runs there."""

    ip: str
    enter: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Placed:
    """A replica as Serve's controller knows it. ``ip`` is that of its node; both are none while it waits."""

    deployment: str
    state: str
    ip: str | None
    pid: int | None


@dataclass(frozen=True, slots=True)
class Node:
    """A running node."""

    machine: Machine
    process: psutil.Process
    log: Path

    def runs(self) -> bool:
        """Whether its command has not ended."""
        return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE

    def kill(self) -> None:
        """End all of its processes at once, as a power failure does."""
        for process in _tree(self.process):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(_STOP_SECONDS)


@dataclass(slots=True)
class RayNodes:
    """The nodes of one cluster, by name, the head among them as ``head``.

    ``dashboard`` and ``gcs`` are ports of the head. ``env``: of all nodes and commands.
    """

    directory: Path
    head: Machine
    gcs: int
    dashboard: int
    env: Mapping[str, str]
    nodes: dict[str, Node] = field(default_factory=dict)
    _starts: int = 0

    @property
    def address(self) -> str:
        """By which nodes and drivers join."""
        return f"{self.head.ip}:{self.gcs}"

    def start(self, name: str, machine: Machine, *options: str, env: Mapping[str, str] | None = None) -> Node:
        """Start a node; ``options`` go to ``ray start``. It runs when the head lists it.

        Raises:
            ClusterFailed: it ended, or is not listed in time.
        """
        from serve_app.cli.ports import free_port

        command = [*machine.enter, str(_bin("ray")), "start", "--block", "--disable-usage-stats"]
        # A new place for each start: of a head that was killed, Ray finds the address there, and the nodes of
        # other machines in the list of processes, and takes it to be running.
        self._starts += 1
        command += ["--node-ip-address", machine.ip, "--temp-dir", str(self.directory / f"{self._starts}")]
        command += ["--object-store-memory", str(_STORE_BYTES)]
        # Nodes of one machine must not meet on the ports that each machine has once.
        for port in ("--dashboard-agent-listen-port", "--metrics-export-port"):
            command += [port, str(free_port("127.0.0.1"))]
        if name == "head":
            command += ["--head", "--port", str(self.gcs)]
            command += ["--ray-client-server-port", str(free_port("127.0.0.1"))]
            command += ["--dashboard-host", machine.ip, "--dashboard-port", str(self.dashboard)]
        else:
            command += ["--address", self.address]
        log = self.directory / f"{name}.log"
        with log.open("ab") as output:
            child = subprocess.Popen(
                [*command, *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**self.env, **(env or {})},
                cwd=ROOT,
                start_new_session=True,
            )
        node = self.nodes[name] = Node(machine, psutil.Process(child.pid), log)
        self._wait(f"the node {name}", lambda: machine.ip in self.alive(), _START_SECONDS, (child, log))
        return node

    def kill(self, name: str) -> None:
        """End a node as a power failure does."""
        self.nodes.pop(name).kill()

    def alive(self) -> list[str]:
        """Addresses of the nodes that the head counts as alive; none if it cannot be asked."""
        answer = self._ask("/nodes?view=summary")
        summary = answer.get("data", {}).get("summary", [])
        return [each.get("ip", "") for each in summary if each.get("raylet", {}).get("state") == "ALIVE"]

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment on the head's machine; raises ``ClusterFailed`` if it fails."""
        done = subprocess.run(
            [*self.head.enter, str(_bin(command[0])), *command[1:]],
            env={**self.env, "RAY_ADDRESS": self.address, "RAY_DASHBOARD_ADDRESS": self._api()},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=_DEPLOY_SECONDS,
        )
        if check and done.returncode:
            said = done.stdout + done.stderr
            raise ClusterFailed(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
        return done

    def deploy(self, config: Mapping[str, Any], *, wait: bool = True) -> None:
        """``serve deploy`` it, and wait until each deployment has all of its replicas.

        Raises:
            ClusterFailed: it was refused, or did not get there in time.
        """
        path = self.directory / "deployed.yaml"
        path.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
        self.run("serve", "deploy", str(path))
        if wait:
            self.until_running()

    def until_running(self, seconds: float = _DEPLOY_SECONDS) -> None:
        """Wait until all applications run and each deployment is healthy; raises ``ClusterFailed``."""

        def run() -> bool:
            states = {application["status"] for application in self.applications().values()}
            if "DEPLOY_FAILED" in states:
                raise ClusterFailed(self.told())
            return states == {"RUNNING"}

        self._wait("what was deployed", run, seconds)

    def told(self) -> str:
        """What Serve tells of the applications and of each deployment."""
        lines: list[str] = []
        for application in self.applications().values():
            lines.append(f"{application['status']}: {application['message']}")
            for name, deployment in application["deployments"].items():
                states = sorted(replica["state"] for replica in deployment["replicas"])
                lines.append(f"{name} {deployment['status']} {states}: {deployment['message']}")
        return "\n".join(lines)

    def applications(self) -> dict[str, dict[str, Any]]:
        """The applications by name, as Serve's REST API describes them."""
        return dict(self._ask("/api/serve/applications/").get("applications", {}))

    def replicas(self) -> list[Placed]:
        """All replicas."""
        return [
            Placed(name, replica["state"], replica.get("node_ip"), replica.get("pid"))
            for application in self.applications().values()
            for name, deployment in application["deployments"].items()
            for replica in deployment["replicas"]
        ]

    def stop(self) -> None:
        """End all nodes, the head last."""
        for name in sorted(self.nodes, key=lambda name: name == "head"):
            node = self.nodes.pop(name)
            # Nobody waits for the replicas' last words.
            node.kill()

    def _api(self) -> str:
        return f"http://{self.head.ip}:{self.dashboard}"

    def _ask(self, path: str) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.env['RAY_AUTH_TOKEN']}"}
        try:
            answer = httpx.get(self._api() + path, headers=headers, timeout=10, trust_env=False)
        except httpx.TransportError:
            return {}
        return dict(answer.json()) if answer.is_success else {}

    def _wait(self, what: str, condition: Any, seconds: float, child: Any = None) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            ended = child is not None and child[0].poll() is not None
            if ended or time.monotonic() > deadline:
                told = child[1].read_text()[-2000:] if child else self.told()
                raise ClusterFailed(f"{what} is not there after {seconds:g} s: {told}")
            time.sleep(0.3)


@contextmanager
def ray_nodes(directory: Path, head: Machine, env: Mapping[str, str] | None = None) -> Iterator[RayNodes]:
    """A cluster without nodes yet; whatever was started is ended with it.

    Args:
        directory: for logs and Ray's own files; its path must be short, since sockets lie in it.
        head: the machine of the head.
        env: variables of all nodes, besides those of this process.
    """
    from serve_app.cli.ports import free_port

    directory.mkdir(parents=True, exist_ok=True)
    variables = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "DATA_DIR": str(directory / "data"),
        **(env or {}),
    }
    cluster = RayNodes(directory, head, free_port("127.0.0.1"), free_port("127.0.0.1"), variables)
    try:
        yield cluster
    finally:
        cluster.stop()


def _bin(name: str) -> Path:
    return Path(sys.executable).parent / name


def _tree(process: psutil.Process) -> Sequence[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
