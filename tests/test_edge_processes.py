"""The life of the edge's processes: they are replaced, lost, stopped, and never left behind."""

import asyncio
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from serve_app.cli.ports import free_port
from serve_app.edge.errors import EdgeError
from serve_app.edge.settings import Address, EdgeSettings
from serve_app.edge.supervisor import Edge
from tests.cli_server import ROOT, processes_with, serve_config, wait_for
from tests.edge_world import (
    HOST,
    PATIENCE,
    Front,
    Node,
    edge_settings,
    eventually,
    running_edge,
    running_node,
)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with running_node() as running:
        yield running


def certificate_of(port: int) -> str:
    return ssl.get_server_certificate((HOST, port), timeout=PATIENCE)


async def test_what_is_open_outlives_a_drain_and_nothing_new_gets_in(node: Node, tmp_path: Path) -> None:
    with running_edge(tmp_path, node) as front:
        urls = [front.ws, f"ws://{HOST}:{front.funasr_port}"]
        held = [await connect(url, proxy=None) for url in urls]
        for socket_ in held:
            await socket_.recv()
        pid = front.edge.pid
        assert pid is not None
        front.edge.drain()
        for port in (front.edge.settings.port, front.funasr_port):
            await refused(port)
        for socket_ in held:
            await socket_.send("the rest")
            assert await socket_.recv() == "the rest"
        assert not front.edge.wait(0)
        for socket_ in held:
            await socket_.close()
        assert await asyncio.to_thread(front.edge.wait, PATIENCE)
        assert not psutil.pid_exists(pid)


async def refused(port: int) -> None:
    """A port that nobody listens on any more; HAProxy takes a moment to let it go."""
    for _ in range(100):
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except ConnectionRefusedError:
            return
        except ConnectionResetError:  # it was closed while this connection waited in it
            continue
        writer.close()
        await asyncio.sleep(0.05)
    raise AssertionError(f"port {port} is still open")


async def test_a_stop_cuts_off_what_is_left(node: Node, tmp_path: Path) -> None:
    with running_edge(tmp_path, node) as front:
        async with connect(front.ws, proxy=None) as socket_:
            await socket_.recv()
            pid = front.edge.pid
            assert pid is not None
            await asyncio.to_thread(front.edge.stop)
            assert not psutil.pid_exists(pid)
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(socket_.recv(), PATIENCE)


def test_a_lost_process_is_replaced_and_the_ports_stay(node: Node, tmp_path: Path) -> None:
    with running_edge(tmp_path, node) as front:
        for _ in range(2):
            assert lose_and_tend(front).status_code == 200
        assert "HAProxy ended and is started again. Its connections are lost." in front.reports


def lose_and_tend(front: Front) -> httpx.Response:
    """Kill HAProxy, ask while there is none, start it again: the answer."""
    lost = front.edge.pid
    assert lost is not None
    os.kill(lost, signal.SIGKILL)
    assert eventually(lambda: not running(lost))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(front.get)
        assert eventually(lambda: tended(front, lost))
        return asked.result()


def running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def tended(front: Front, lost: int) -> bool:
    front.edge.tend()
    return front.edge.pid not in (None, lost)


async def test_a_reload_takes_a_new_certificate_and_loses_nobody(node: Node, tmp_path: Path) -> None:
    with running_edge(tmp_path, node) as front:
        stop = asyncio.Event()

        async def ask() -> list[int]:
            codes = []
            while not stop.is_set():
                codes.append((await asyncio.to_thread(front.get)).status_code)
            return codes

        asking = [asyncio.create_task(ask()) for _ in range(3)]
        before = certificate_of(front.funasr_port)
        async with connect(f"ws://{HOST}:{front.funasr_port}", proxy=None) as socket_:
            await socket_.recv()
            (tmp_path / "edge" / "key.pem").unlink()
            await asyncio.to_thread(front.edge.reload)
            # Until it has seen the signal, the process before may still take a connection.
            for _ in range(100):
                if (now := await asyncio.to_thread(certificate_of, front.funasr_port)) != before:
                    break
                await asyncio.sleep(0.1)
            assert now != before
            await asyncio.sleep(0.5)
            await socket_.send("still here")
            assert await socket_.recv() == "still here"
        stop.set()
        codes = [code for codes in await asyncio.gather(*asking) for code in codes]
        assert len(codes) > 10
        assert set(codes) == {200}


def test_a_reload_that_fails_changes_nothing(node: Node, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    with running_edge(tmp_path / "data", node, certfile=bundle) as front:
        before = certificate_of(front.funasr_port)
        bundle.write_text("nothing")
        with pytest.raises(EdgeError, match="holds no PEM certificate"):
            front.edge.reload()
        assert certificate_of(front.funasr_port) == before
        assert front.get().status_code == 200


def make_bundle(tmp_path: Path) -> Path:
    from serve_app.edge.certificates import own_bundle

    path = tmp_path / "bundle.pem"
    path.write_bytes(own_bundle(tmp_path / "made", []))
    return path


def open_edge(tmp_path: Path, reports: list[str], **values: Any) -> Edge:
    backends = (Address(HOST, 1),)
    values = {"backends": backends, "data_dir": tmp_path, **values}
    return Edge(EdgeSettings(**values), access_log=False, report=reports.append)


def test_a_port_that_was_asked_for_must_be_free(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        for values in (
            {"port": port, "funasr_port": free_port(HOST)},
            {"port": free_port(HOST), "funasr_port": port},
            {"port": free_port(HOST), "funasr_port": 0, "https_port": port},
            {"port": free_port(HOST), "funasr_port": 0, "metrics": Address(HOST, port)},
        ):
            with pytest.raises(EdgeError, match=f"Port {port} is in use. Choose another one"):
                open_edge(tmp_path, [], **values)
    with pytest.raises(EdgeError, match=r"Cannot listen on 203\.0\.113\.1:"):
        open_edge(tmp_path, [], host="203.0.113.1", funasr_port=0)


def test_a_default_port_that_is_taken_is_left_out_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[str] = []
    with socket.create_server((HOST, 0)) as taken, socket.create_server((HOST, 0)) as other:
        port, metrics = taken.getsockname()[1], Address(HOST, other.getsockname()[1])
        monkeypatch.setattr(EdgeSettings.model_fields["funasr_port"], "default", port)
        monkeypatch.setattr(EdgeSettings.model_fields["metrics"], "default", metrics)
        EdgeSettings.model_rebuild(force=True)
        try:
            edge = open_edge(tmp_path, reports, port=free_port(HOST))
        finally:
            monkeypatch.undo()
            EdgeSettings.model_rebuild(force=True)
    try:
        assert (edge.settings.funasr_port, edge.settings.metrics) == (0, None)
        assert f"Port {port} is in use, so FunASR's clients do not find this server there." in reports[0]
        assert "no metrics" in reports[1]
        edge.start()
        assert httpx.get(f"http://{HOST}:{edge.settings.port}", trust_env=False).status_code == 503
    finally:
        edge.stop()


def test_more_connections_than_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=r"EDGE_MAX_CONNECTIONS=200000 needs \d+ open files"):
        open_edge(tmp_path, [], max_connections=200_000, port=free_port(HOST))


def test_nothing_is_left_when_the_edge_cannot_start(tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    with (
        pytest.raises(EdgeError, match="EDGE_CERTFILE"),
        running_edge(tmp_path, Address(HOST, 1), certfile=tmp_path / "missing.pem"),
    ):
        pass
    assert set(psutil.Process().children()) == before


class Command:
    """``asr-serve edge`` as a user runs it."""

    def __init__(self, settings: EdgeSettings, **environment: str) -> None:
        self.settings = settings
        self.mark = uuid.uuid4().hex
        options = {
            "--backends": ",".join(map(str, settings.backends)),
            "--port": settings.port,
            "--funasr-port": settings.funasr_port,
            "--metrics": settings.metrics or "off",
        }
        command = [sys.executable, "-m", "serve_app.cli.main", "edge"]
        self.process = subprocess.Popen(
            [*command, *(str(word) for option in options.items() for word in option)],
            cwd=ROOT,
            env={
                **os.environ,
                "DATA_DIR": str(settings.data_dir),
                "ASR_SERVE_TEST_MARK": self.mark,
                "NO_COLOR": "1",
                # A connection that a client broke off may be open for a while.
                "EDGE_GRACE_SEC": "3",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.communicate(timeout=PATIENCE)
        finally:
            self.process.kill()

    def gone(self) -> bool:
        return processes_with(self.mark) == []


def test_the_command_logs_requests_without_keys_and_stops_cleanly(node: Node, tmp_path: Path) -> None:
    settings = edge_settings(tmp_path, node.address)
    with Command(settings) as command:
        line = wait_for(command.process, "FunASR's clients find it on")
        assert f"wss://{HOST}:{settings.funasr_port}" in line
        ready = wait_for(command.process, "Ready on ")
        assert ready.split()[2] == f"http://{HOST}:{settings.port}"
        answer = httpx.get(
            f"http://{HOST}:{settings.port}/v1/models?token=sesame",
            headers={"authorization": "Bearer sesame", "cookie": "sesame", "referer": "http://a/?sesame"},
            trust_env=False,
        )
        assert answer.status_code == 200
        command.process.send_signal(signal.SIGTERM)
        output, _ = command.process.communicate(timeout=PATIENCE)
        assert command.process.returncode == 0, output
        logged = next(line for line in output.splitlines() if "/v1/models" in line)
        assert re.search(rf"{HOST} GET /v1/models 200 .* id={answer.headers['x-request-id']} ", logged)
        assert "sesame" not in output
        assert "Traceback" not in output
        assert eventually(command.gone)


async def test_the_command_gives_what_is_open_its_time(node: Node, tmp_path: Path) -> None:
    with Command(edge_settings(tmp_path, node.address), EDGE_GRACE_SEC="2") as command:
        await asyncio.to_thread(wait_for, command.process, "Ready on ")
        async with connect(f"ws://{HOST}:{command.settings.port}", proxy=None) as socket_:
            await socket_.recv()
            command.process.send_signal(signal.SIGINT)
            await asyncio.to_thread(wait_for, command.process, "Stopping.")
            await socket_.send("the rest")
            assert await socket_.recv() == "the rest"
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(socket_.recv(), PATIENCE)
        assert await asyncio.to_thread(command.process.wait, PATIENCE) == 0
        assert eventually(command.gone)


def test_haproxy_ends_with_a_command_that_is_killed(node: Node, tmp_path: Path) -> None:
    with Command(edge_settings(tmp_path, node.address)) as command:
        wait_for(command.process, "Ready on ")
        assert len(processes_with(command.mark)) == 2
        command.process.kill()
        assert eventually(command.gone)


def test_the_command_reads_its_certificate_again(node: Node, tmp_path: Path) -> None:
    with Command(edge_settings(tmp_path, node.address)) as command:
        wait_for(command.process, "Ready on ")
        before = certificate_of(command.settings.funasr_port)
        (tmp_path / "edge" / "cert.pem").unlink()
        command.process.send_signal(signal.SIGHUP)
        wait_for(command.process, "The certificate was read again.")
        assert certificate_of(command.settings.funasr_port) != before


@pytest.mark.parametrize(
    ("options", "environment", "reason"),
    [
        ([], {}, "Which Serve nodes is the edge for?"),
        (["--backends", "nowhere"], {}, "EDGE_BACKENDS: 'nowhere' is not a host and a port"),
        ([], {"EDGE_BACKENDS": "a:1", "EDGE_PORT": "many"}, "EDGE_PORT: "),
        ([], {"EDGE_BACKENDS": "a:1", "EDGE_METRICS": "x"}, "EDGE_METRICS: 'x' is not a host and a port"),
        (
            [],
            {"EDGE_BACKENDS": "a:1", "EDGE_KEYFILE": "k.pem"},
            "EDGE_KEYFILE is given without EDGE_CERTFILE",
        ),
        ([], {"EDGE_BACKENDS": "a:1", "EDGE_HTTPS_PORT": "10095"}, "EDGE_HTTPS_PORT must be another port"),
        ([], {"EDGE_BACKENDS": "a:1", "TRUSTED_PROXIES": "lb"}, "TRUSTED_PROXIES: 'lb' is not an address"),
    ],
)
def test_wrong_settings_are_named(options: list[str], environment: dict[str, str], reason: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "serve_app.cli.main", "edge", *options],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert reason in result.stderr
    assert "Traceback" not in result.stderr


def test_serve_names_a_wrong_setting_of_the_edge_before_it_starts_anything(tmp_path: Path) -> None:
    config = serve_config(tmp_path, "app", "build", "hello")
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "serve_app.cli.main",
            "serve",
            "--config",
            config,
            "--port",
            str(free_port(HOST)),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "EDGE_CERTFILE": str(tmp_path / "missing.pem"),
            "EDGE_FUNASR_PORT": str(free_port(HOST)),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert f"EDGE_CERTFILE {tmp_path / 'missing.pem'} cannot be read" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Stopping" not in result.stdout
