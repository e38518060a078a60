"""The edge in front of the real graph, as ``make serve`` starts both."""

import os
import re
import signal
import subprocess
import sys
import uuid
import wave
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from benchmarks.live_server import LiveServer
from serve_app.cli.ports import free_port
from tests import funasr_clients as clients
from tests.cli_server import ROOT, processes_with, serve_config, wait_for
from tests.conftest import Sample
from tests.edge_world import HOST, PATIENCE, accept_hash, eventually, raw, trusting
from tests.test_docs import blocks
from tests.test_edge import FIRST_KEY, twice_keyed
from tests.test_funasr_clients import OWN_CLIENTS


def pcm(sample: Sample) -> bytes:
    with wave.open(str(sample.path)) as file:
        return bytes(file.readframes(file.getnframes()))


def plain(text: str) -> str:
    return re.sub("[，。？！、,.?! ]", "", text)


@pytest.mark.server
@pytest.mark.parametrize("scheme", ["wss", "ws"])
async def test_item_23_funasr_clients_find_tls_and_plain_on_one_port(
    server: LiveServer, samples: list[Sample], scheme: str
) -> None:
    sample = next(sample for sample in samples if sample.path.stem == "home")
    tls = {"ssl": trusting()} if scheme == "wss" else {}
    url = f"{scheme}://{HOST}:{server.funasr_port}/whatever"
    async with clients.connected(url, binary=True, **tls) as socket:
        await clients.send_json(socket, mode="offline", wav_name="a", is_speaking=True)
        await clients.send_audio(socket, pcm(sample), 102_400)
        await clients.send_json(socket, is_speaking=False, is_end=True)
        messages = [await clients.receive(socket) for _ in range(2)]
    assert plain(messages[0]["text"]) == plain(sample.written)
    assert messages[1]["is_end"] is True


@pytest.mark.server
@pytest.mark.skipif(not OWN_CLIENTS, reason="FUNASR_CLIENT names no copy of funasr_wss_client.py")
@pytest.mark.parametrize("client", OWN_CLIENTS, ids=str)
def test_funasrs_own_client_needs_no_options(
    server: LiveServer, samples: list[Sample], client: Path, tmp_path: Path
) -> None:
    """``--ssl 1`` is its default: a self-signed certificate that it does not verify."""
    sample = next(sample for sample in samples if sample.path.stem == "home")
    options = ["--host", HOST, "--port", server.funasr_port, "--mode", "offline"]
    written = tmp_path / "written"
    written.mkdir()
    result = subprocess.run(
        [sys.executable, client, *map(str, options), "--audio_in", sample.path, "--output_dir", written],
        cwd=tmp_path,  # where it leaves a log
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    lines = "".join(path.read_text(encoding="utf-8") for path in written.iterdir())
    assert plain(sample.written) in plain(lines)


@pytest.mark.server
def test_item_1_the_handshake_with_two_keys(server: LiveServer) -> None:
    port = int(server.url.rpartition(":")[2])
    # The path is one that exists already; what is repaired is below all paths.
    request = twice_keyed(port).replace(b"/ws/v1?token=default", b"/ws/v1/asr/funasr")
    answer = raw(port, request, until=b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 101")
    assert accept_hash(FIRST_KEY).encode() in answer


@pytest.mark.server
def test_an_absolute_target_reaches_the_graph(server: LiveServer) -> None:
    host = server.url.removeprefix("http://")
    request = f"GET http://{host}/v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    answer = raw(int(host.rpartition(":")[2]), request.encode())
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"object"' in answer


@pytest.mark.server
def test_haproxy_is_replaced_when_it_dies(server: LiveServer) -> None:
    def haproxy() -> psutil.Process | None:
        found = [process for process in server.process.children() if process.name() == "haproxy"]
        return next((process for process in found if process.status() != psutil.STATUS_ZOMBIE), None)

    lost = haproxy()
    assert lost is not None
    lost.kill()
    assert httpx.get(server.url + "/healthz", trust_env=False, timeout=PATIENCE).status_code == 200
    replacement = haproxy()
    assert replacement is not None
    assert replacement.pid != lost.pid
    assert "HAProxy ended and is started again." in server.log.read_text()


@pytest.mark.own_server
def test_make_serve_starts_the_edge_too(tmp_path: Path) -> None:
    """It tells its ports, answers while the graph starts, and stops without a trace."""
    mark, port, funasr_port, metrics = uuid.uuid4().hex, *(free_port(HOST) for _ in range(3))
    config = serve_config(tmp_path, "app", "build", "hello")
    document = yaml.safe_load(config.read_text())
    document["applications"][0]["args"]["data_dir"] = str(tmp_path / "data")
    config.write_text(yaml.safe_dump(document))
    environment = {name: value for name, value in os.environ.items() if name != "DATA_DIR"}
    environment |= {"EDGE_FUNASR_PORT": str(funasr_port), "EDGE_METRICS": f"{HOST}:{metrics}"}
    # The set-up is taken as done: the tests already run in it.
    done = [f"--old-file=.venv/.installed-{part}" for part in ("torch", "run", "dev")]
    server = subprocess.Popen(
        ["make", *done, "serve", f"CONFIG={config}", f"PORT={port}", "HOST=127.0.0.1"],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT), "ASR_SERVE_TEST_MARK": mark, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert eventually(lambda: status(f"http://{HOST}:{port}") == 503, 60)
        told = wait_for(server, "FunASR's clients find it on")
        assert f"wss://{HOST}:{funasr_port}" in told
        assert f"http://{HOST}:{port}" in wait_for(server, "Ready on ")
        for url in (f"http://{HOST}:{port}", f"https://{HOST}:{funasr_port}"):
            assert httpx.get(url, verify=trusting(), trust_env=False).text == "hello"
        assert (tmp_path / "data" / "edge" / "key.pem").exists()
        run_documented_commands(port, funasr_port, metrics)
        os.killpg(server.pid, signal.SIGINT)  # what a terminal does at Ctrl-C
        output, _ = server.communicate(timeout=60)
        assert "Traceback" not in output
        assert eventually(lambda: processes_with(mark) == [])
    finally:
        server.kill()


def status(url: str) -> int | None:
    try:
        return httpx.get(url, trust_env=False).status_code
    except httpx.TransportError:
        return None


def run_documented_commands(port: int, funasr_port: int, metrics: int) -> None:
    """Those of docs/edge.md that ask a running service."""
    ports = {"10095": funasr_port, "8405": metrics, "8000": port}
    commands = [
        line
        for language, content in blocks(ROOT / "docs" / "edge.md")
        for line in content.splitlines()
        if language == "bash" and line.startswith("curl")
    ]
    assert len(commands) == 2
    for command in commands:
        for documented, real in ports.items():
            command = command.replace(f"localhost:{documented}", f"{HOST}:{real}")
        answer = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command], capture_output=True, text=True, check=True
        )
        assert "hello" in answer.stdout or "haproxy_server_status" in answer.stdout
