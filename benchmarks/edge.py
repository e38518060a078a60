"""What each way into a Serve application costs a WebSocket: messages a second, and time per message.

::

    python -m benchmarks.edge --connections 16 --seconds 5 --rounds 3

Live clients send small messages at a steady pace, and all that stands between them and the ingress handles
each one. Compared are Serve's own proxy, this project's edge before it, and Ray's own HAProxy mode
(``RAY_SERVE_ENABLE_HA_PROXY``), each with and without ``RAY_SERVE_THROUGHPUT_OPTIMIZED`` and with one or more
replicas; and, as the yardstick, the same application in a bare uvicorn. The application only echoes.

Every line is measured in the same run, in rounds, of which the median counts. *Messages* are as many as go
through with eight under way on each connection; *time* is from sending a message to its echo while each
connection sends one every 60 ms, as a microphone does. Take the ratios, not the figures: they depend on the
machine, and client and server share it.
"""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated

import httpx
import typer
import yaml
from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.live_server import live_server

_HOST = "127.0.0.1"
_PACKET = bytes(1920)
"""60 ms of 16-bit audio at 16 kHz."""
_PACKET_SEC = 0.06
_UNDER_WAY = 8
_START_SEC = 30.0


@dataclass(frozen=True, slots=True)
class Way:
    """One way in: to Serve's proxy or to Ray's own HAProxy mode, straight or through this project's edge."""

    replicas: int
    throughput: bool
    edge: bool = False
    haproxy: bool = False

    @property
    def name(self) -> str:
        own = "Ray's HAProxy mode" if self.haproxy else "Serve's proxy"
        return f"edge, {own}" if self.edge else own


@dataclass(slots=True)
class Figures:
    """What the rounds of one way gave: messages per second, and milliseconds to the echo."""

    rates: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p95: list[float] = field(default_factory=list)

    @property
    def row(self) -> tuple[float, float, float]:
        return median(self.rates), median(self.p50), median(self.p95)


async def measure(url: str, connections: int, seconds: float) -> tuple[float, list[float]]:
    """Messages per second of all connections together, and the times of paced messages in milliseconds."""
    sockets = [await connect(url, proxy=None, compression=None) for _ in range(connections)]
    try:
        await asyncio.gather(*(_echo(socket) for socket in sockets))
        stop = time.monotonic() + seconds
        counts = await asyncio.gather(*(_flood(socket, stop) for socket in sockets))
        stop = time.monotonic() + seconds
        times = await asyncio.gather(*(_paced(socket, stop) for socket in sockets))
    finally:
        await asyncio.gather(*(socket.close() for socket in sockets))
    return sum(counts) / seconds, [value for each in times for value in each]


async def _echo(socket: ClientConnection) -> None:
    await socket.send(_PACKET)
    await socket.recv()


async def _flood(socket: ClientConnection, stop: float) -> int:
    """How many messages came back until ``stop``."""
    for _ in range(_UNDER_WAY):
        await socket.send(_PACKET)
    count = 0
    while time.monotonic() < stop:
        await socket.recv()
        count += 1
        await socket.send(_PACKET)
    for _ in range(_UNDER_WAY):
        await socket.recv()
    return count


async def _paced(socket: ClientConnection, stop: float) -> list[float]:
    times = []
    while (start := time.monotonic()) < stop:
        await _echo(socket)
        taken = time.monotonic() - start
        times.append(taken * 1000)
        await asyncio.sleep(max(0, _PACKET_SEC - taken))
    return times


def run(url: str, figures: Figures, connections: int, seconds: float) -> None:
    """Measure once and add what came out."""
    rate, times = asyncio.run(measure(url, connections, seconds))
    cuts = quantiles(times, n=20)
    figures.rates.append(rate)
    figures.p50.append(cuts[9])
    figures.p95.append(cuts[18])


@contextmanager
def bare_server() -> Iterator[str]:
    """The application without Serve; its WebSocket URL."""
    from serve_app.cli.ports import free_port

    port = free_port(_HOST)
    options = ["--factory", "benchmarks.edge_echo:echo_app", "--port", str(port), "--log-level", "error"]
    with _process([sys.executable, "-m", "uvicorn", *options], f"http://{_HOST}:{port}"):
        yield f"ws://{_HOST}:{port}/"


@contextmanager
def edge_before(url: str) -> Iterator[str]:
    """This project's edge, before the server at ``url``; its WebSocket URL."""
    from serve_app.cli.ports import free_port

    port = free_port(_HOST)
    backend = url.removeprefix("http://")
    options = ["--backends", backend, "--port", str(port), "--funasr-port", "0", "--metrics", "off"]
    command = [sys.executable, "-m", "serve_app.cli.main", "edge", *options]
    with _process(command, f"http://{_HOST}:{port}"):
        yield f"ws://{_HOST}:{port}/"


@contextmanager
def _process(command: Sequence[str], url: str) -> Iterator[None]:
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_SEC
        while not _ready(url):
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(command)} does not run.")
            time.sleep(0.1)
        yield
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(60)


def _ready(url: str) -> bool:
    try:
        return httpx.get(url + "/readyz", trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def serve_server(way: Way) -> Iterator[str]:
    """The application in Serve, as ``way`` has it, but without an edge; its HTTP URL."""
    application = {
        "name": "asr",
        "route_prefix": "/",
        "import_path": "benchmarks.edge_echo:build",
        "deployments": [
            {"name": "Ingress", "num_replicas": way.replicas, "ray_actor_options": {"num_cpus": 0}}
        ],
    }
    environment = {
        "RAY_SERVE_ENABLE_HA_PROXY": str(int(way.haproxy)),
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": str(int(way.throughput)),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")])),
    }
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(yaml.safe_dump({"http_options": {"host": _HOST}, "applications": [application]}))
        with live_server(Path(folder) / "server.log", config=config, env=environment) as server:
            yield server.url


def measure_all(
    replicas: Sequence[int], connections: int, seconds: float, rounds: int, throughput: Sequence[bool]
) -> tuple[Figures, dict[Way, Figures]]:
    """The yardstick, and all ways in. Those that share a server take turns."""
    bare, found = Figures(), dict[Way, Figures]()
    for count in replicas:
        for optimized in throughput:
            for haproxy in (False, True):
                with ExitStack() as stack:
                    way = Way(count, optimized, haproxy=haproxy)
                    url = stack.enter_context(serve_server(way))
                    turns = {
                        way: url.replace("http", "ws", 1) + "/",
                        replace(way, edge=True): stack.enter_context(edge_before(url)),
                    }
                    yardstick = stack.enter_context(bare_server())
                    for _ in range(rounds):
                        run(yardstick, bare, connections, seconds)
                        for way, target in turns.items():
                            run(target, found.setdefault(way, Figures()), connections, seconds)
    return bare, found


def table(bare: Figures, found: dict[Way, Figures]) -> Table:
    """A line for each way; ratios and added times are to Serve's proxy with one replica and no options."""
    shown = Table(
        "way in", "replicas", "throughput options", "messages/s", "ratio", "p50 ms", "p95 ms", "added p50"
    )
    first = next(iter(found.values())).row
    rate, p50, p95 = bare.row
    shown.add_row(
        "bare uvicorn", "–", "–", f"{rate:.0f}", f"{rate / first[0]:.2f}", f"{p50:.2f}", f"{p95:.2f}", "–"
    )
    for way, figures in found.items():
        rate, middle, high = figures.row
        shown.add_row(
            way.name,
            str(way.replicas),
            "on" if way.throughput else "off",
            f"{rate:.0f}",
            f"{rate / first[0]:.2f}",
            f"{middle:.2f}",
            f"{high:.2f}",
            f"{middle - p50:+.2f}",
        )
    return shown


def main(
    connections: Annotated[int, typer.Option(help="WebSockets at once.")] = 16,
    seconds: Annotated[float, typer.Option(help="For each of the two figures of a round.")] = 5,
    rounds: Annotated[int, typer.Option(help="How often each way is measured.")] = 3,
    replicas: Annotated[str, typer.Option(help="Numbers of ingress replicas.")] = "1,2",
    throughput: Annotated[str, typer.Option(help="Serve's throughput options: off, on, or both.")] = "off,on",
) -> None:
    """Compare the ways in."""
    counts = [int(count) for count in replicas.split(",")]
    options = [word == "on" for word in throughput.split(",")]
    Console(width=120).print(table(*measure_all(counts, connections, seconds, rounds, options)))


if __name__ == "__main__":
    typer.run(main)
