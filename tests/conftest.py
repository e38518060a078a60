"""Fixtures that several test modules share: the live server, the samples, a private temp directory."""

import json
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from benchmarks.live_server import LiveServer, live_server

ROOT = Path(__file__).parent.parent
REACHABLE = {"ALLOW_PRIVATE_URLS": "127.0.0.2"}
"""One private address that the live server may fetch from; it stands for the internet."""
SAMPLES = ROOT / "samples"
TOGETHER = ("tests/test_cluster.py", "tests/test_live_faults.py")
RAY_ACCESS = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
"""How the cluster of the live server is reached from outside: by a key of this run, on this machine."""

# What one example takes says more about the machine than about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_runtest_setup() -> None:
    """Libraries of the qwen-asr package turn subnormal numbers off for the thread that loads them, which
    hypothesis cannot work with."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_flush_denormal(False)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with a server of their own come first, so that no worker has two servers in memory at once."""
    items.sort(key=lambda item: item.get_closest_marker("own_server") is None)
    for item in items:
        if item.get_closest_marker("own_server") is not None:
            item.add_marker("slow")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of a file that goes on where the one before ended stay together, in their order.

    (Groups of pytest-xdist 3.8 have no effect with pytest 9.2, whose node ids cannot be changed.)
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    # Not every environment that runs these tests has it.
    scheduling = import_module("xdist.scheduler").LoadGroupScheduling(config, log)
    by_group = scheduling._split_scope

    def split_scope(nodeid: str) -> str:
        path = nodeid.split("::")[0]
        return path if path in TOGETHER else str(by_group(nodeid))

    scheduling._split_scope = split_scope
    return scheduling


@dataclass(frozen=True, slots=True)
class Sample:
    """A recording of ``samples/`` with its transcript: as it was spoken, and with numbers in digits."""

    path: Path
    text: str
    written: str


def load_samples() -> list[Sample]:
    transcripts = json.loads((SAMPLES / "transcripts.json").read_text(encoding="utf-8"))
    written = json.loads((SAMPLES / "written.json").read_text(encoding="utf-8"))
    return [Sample(SAMPLES / name, text, written[name]) for name, text in sorted(transcripts.items())]


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    return load_samples()


@pytest.fixture(scope="session")
def server_temp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the live server keeps its temporary files; empty between requests."""
    return tmp_path_factory.mktemp("server-temp")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, server_temp: Path) -> Iterator[LiveServer]:
    """One real server for the whole run: the whole graph, started as a user starts it."""
    log = tmp_path_factory.mktemp("server") / "server.log"
    with live_server(
        log,
        env={
            "TMPDIR": str(server_temp),
            "RAY_TMPDIR": "/tmp",
            "MAX_AUDIO_SIZE": "20MB",
            # To data/traces.jsonl beside the log: what crosses processes shows in traces of all of them.
            "TRACING": "file",
            "TRACING_SAMPLE": "1",
            **REACHABLE,
            **RAY_ACCESS,
        },
        edge=True,
    ) as running:
        yield running


@pytest.fixture(scope="session")
def server_url(server: LiveServer) -> str:
    return server.url
