"""A server of one's own: the real graph in a process tree that can be watched, wounded and stopped."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

_NICENESS = "0"
"""Ray gives its workers, so the whole graph, a low priority; what is measured beside a server has none."""

_START_SECONDS = 180
_STOP_SECONDS = 60


class ServerFailed(Exception):
    """The server did not get ready; the message ends with its output."""


@dataclass(frozen=True, slots=True)
class LiveServer:
    """A running server. ``url`` has no trailing slash.

    ``funasr_port`` is that of the edge for FunASR's clients, TLS and plain; 0 if the server has no edge.
    ``metrics_url`` is where Prometheus would find it, and ``edge_metrics_url`` its edge, if it has one.
    """

    url: str
    process: psutil.Process
    log: Path
    funasr_port: int = 0
    metrics_url: str = ""
    edge_metrics_url: str = ""

    def processes(self) -> list[psutil.Process]:
        """The server and all of its descendants, Ray's among them."""
        return [self.process, *self.process.children(recursive=True)]

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The replica processes of a deployment."""
        # Some names begin with another one; behind a name, the title may go on with the call that runs.
        mark = re.compile(rf"ServeReplica:asr:{deployment}\b")
        return [process for process in self.processes() if mark.search(_title(process))]

    def memory(self) -> int:
        """Bytes of memory of all processes, shared pages counted once (proportional set size)."""
        total = 0
        for process in self.processes():
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
        return total


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextmanager
def live_server(
    log: Path,
    *,
    config: Path = Path("serve_config.yaml"),
    env: Mapping[str, str] | None = None,
    edge: bool = False,
    start_seconds: float = _START_SECONDS,
    ready: str = "/readyz",
) -> Iterator[LiveServer]:
    """Start ``asr-serve serve`` on a free port, wait until it is ready, stop it at the end.

    Args:
        log: file that takes the server's output.
        config: Serve config to run.
        env: variables to set besides those of this process. Jobs are kept beside ``log``, unless told
            otherwise.
        edge: whether the edge stands in front, as it does for users. Its certificate is kept as jobs are.
        start_seconds: how long it may take to get ready.
        ready: path that answers with 200 once it is.

    Raises:
        ServerFailed: it ended, or was not ready in time.
    """
    from serve_app.cli.ports import free_port

    port = free_port("127.0.0.1")
    funasr_port = free_port("127.0.0.1") if edge else 0
    metrics_port = free_port("127.0.0.1")
    edge_metrics = f"127.0.0.1:{free_port('127.0.0.1')}" if edge else "off"
    command = [sys.executable, "-m", "serve_app.cli.main", "serve", "--config", str(config)]
    command += ["--edge", "--funasr-port", str(funasr_port)] if edge else ["--no-edge"]
    with log.open("wb") as output:
        child = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={
                "DATA_DIR": str(log.parent / "data"),
                "RAY_worker_niceness": _NICENESS,
                **os.environ,
                "EDGE_METRICS": edge_metrics,
                "METRICS_PORT": str(metrics_port),
                **(env or {}),
            },
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(child, url + ready, log, start_seconds)
        metrics_url = f"http://127.0.0.1:{metrics_port}/metrics"
        edge_url = f"http://{edge_metrics}/metrics" if edge else ""
        yield LiveServer(url, psutil.Process(child.pid), log, funasr_port, metrics_url, edge_url)
    finally:
        _stop(child)


def _wait_until_ready(child: subprocess.Popen[bytes], url: str, log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise ServerFailed(f"The server ended with {child.returncode}:\n{log.read_text()[-4000:]}")
        try:
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    raise ServerFailed(f"The server was not ready in {seconds:g} s:\n{log.read_text()[-4000:]}")


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Stop as Ctrl-C does; whatever is left after that is killed, by its own id."""
    family = psutil.Process(child.pid).children(recursive=True) if child.poll() is None else []
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    for process in alive:
        process.kill()
