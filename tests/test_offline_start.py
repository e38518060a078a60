"""The way of models to a site without a network, and a server there that reaches for nothing outside."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from benchmarks.live_server import LiveServer, live_server
from serve_app.cli.main import app
from tests.conftest import Sample
from tests.hub_models import PARAFORMER, VAD, isolate, starter_files
from tests.stub_hubs import stub_hubs

GUARD = Path(__file__).parent / "network_guard"
QWEN3 = "Qwen/Qwen3-ASR-0.6B"
runner = CliRunner()


def guarded(log: Path) -> dict[str, str]:
    """Variables of a process that may reach this machine only, and all that it starts."""
    own = {address.address for each in psutil.net_if_addrs().values() for address in each}
    # Nothing that a library might read keeps it from trying.
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK")
    return {
        **{name: value for name, value in os.environ.items() if name not in names},
        "PYTHONPATH": str(GUARD),
        "NETWORK_GUARD": str(log),
        "NETWORK_GUARD_OWN": ",".join(sorted(own)),
    }


@pytest.mark.parametrize(
    ("code", "tried"),
    [
        ("import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)", "192.0.2.1"),
        ("import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))", "192.0.2.1"),
        ("import httpx; httpx.get('https://huggingface.co')", "huggingface.co"),
    ],
)
def test_the_guard_sees_what_is_tried(tmp_path: Path, code: str, tried: str) -> None:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=guarded(tmp_path / "log"), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "the network is forbidden here" in done.stderr
    assert tried in (tmp_path / "log").read_text().splitlines()[0]


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """Models are pulled on one machine, and unpacked on another one; the variables that name them there."""
    tar = str(tmp_path / "models.tar.zst")
    names = ["fsmn-vad", PARAFORMER]
    with stub_hubs() as hubs, monkeypatch.context() as outside:
        isolate(outside, tmp_path / "outside", hubs)
        hubs.models[VAD] = starter_files("fsmn-vad")
        hubs.models[PARAFORMER] = starter_files("paraformer")
        hubs.models[QWEN3] = starter_files("qwen3-asr")
        # The connection ends in the middle, and goes on.
        hubs.faults.cut["model.pt"] = [200_000, 300_000]
        for command in (
            ["pull", *names],
            ["pull", QWEN3, "--hub", "huggingface"],
            ["pack", *names, QWEN3, "-o", tar],
        ):
            result = runner.invoke(app, ["models", *command])
            assert result.exit_code == 0, result.output
    caches = {"MODELSCOPE_PATH": str(tmp_path / "modelscope"), "HF_HOME": str(tmp_path / "huggingface")}
    with monkeypatch.context() as inside:
        isolate(inside, tmp_path / "inside")
        for name, value in caches.items():
            inside.setenv(name, value)
        result = runner.invoke(app, ["models", "unpack", tar])
        assert result.exit_code == 0, result.output
    chosen = {"VAD_MODEL": "fsmn-vad", "PARAFORMER_MODEL": "paraformer", "QWEN3_MODEL": QWEN3}
    return {**caches, **chosen, "QWEN3_ALIGNER_MODEL": "none"}


def recognized(server: LiveServer, sample: Sample, model: str) -> str:
    with sample.path.open("rb") as file, httpx.Client(trust_env=False, timeout=120) as client:
        answer = client.post(
            f"{server.url}/v1/audio/transcriptions", files={"file": file}, data={"model": model}
        )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["text"])


def guarded_pids(log: Path) -> set[int]:
    return {int(line) for line in Path(f"{log}.processes").read_text().split()}


@pytest.mark.own_server
def test_a_server_with_models_from_a_tar_reaches_for_nothing_outside(
    carried: dict[str, str], tmp_path: Path, samples: list[Sample]
) -> None:
    log = tmp_path / "reached"
    environment = {**guarded(log), **carried, "RAY_TMPDIR": "/tmp"}
    with live_server(tmp_path / "server.log", env=environment) as server:
        sample = samples[0]
        for model in ("paraformer", "qwen3-asr-0.6b"):
            assert recognized(server, sample, model) == sample.written
        pythons = [each for each in server.processes() if Path(each.exe()).name.startswith("python")]
        workers = [each for each in pythons if "ray::" in " ".join(each.cmdline())]
        assert len(workers) > 5
        assert {each.pid for each in pythons} <= guarded_pids(log)
    assert not log.exists(), log.read_text()
