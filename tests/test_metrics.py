"""Metrics: what the live server exports is what the list says, and what dashboards and alerts ask for."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from ray.exceptions import RayActorError
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect
from websockets.sync.client import connect

from benchmarks.live_server import LiveServer
from deployments.messages import StreamStep, Token
from deployments.metrics import METRICS, PROTOCOLS
from serve_app import errors
from serve_app.activity import Activity, active
from serve_app.api.nls.errors import InvalidMessage
from serve_app.calls import call_pure
from serve_app.cli.metrics import MetricsExport
from serve_app.cli.ports import free_port
from serve_app.following import Followed, protocol_of
from serve_app.http import create_app
from serve_app.observability.meter import NoMeter, error_name
from serve_app.observability.settings import MetricsError, MetricsSettings, read_metrics_settings
from serve_app.pipeline.graph import StreamLost
from serve_app.settings import Settings
from serve_app.tracing import Tracing, trace_options
from tests.conftest import ROOT, SAMPLES, Sample
from tests.live_graph import ToneGraph
from tests.live_sessions import TWO_PASS, cut, hear, tones
from tests.test_dashboards import QUERIES, TEXT

EXPORT_SECONDS = 40
"""Ray exports each 10 s."""

ELSEWHERE = {
    "ray_component_gpu_memory_mb": "machines with a GPU",
    "ray_node_gpus_utilization": "machines with a GPU",
    "ray_node_gram_available": "machines with a GPU",
    "ray_node_gram_used": "machines with a GPU",
    "certmanager_certificate_expiration_timestamp_seconds": "Kubernetes with cert-manager",
}
"""What dashboards or alerts ask for and no server of these tests has."""


def series(text: str) -> set[str]:
    """The names of all series of a scrape."""
    return set(re.findall(r"^([a-zA-Z_:][\w:]*)[{ ]", text, re.MULTILINE))


def value(text: str, name: str, **tags: str) -> float:
    """The sum of the series of a name that have these tags."""
    found = 0.0
    for line in text.splitlines():
        if line.startswith(name + "{") and all(f'{tag}="{wanted}"' in line for tag, wanted in tags.items()):
            found += float(line.rsplit(" ", 1)[1])
    return found


def recognize_live(url: str, path: Path) -> None:
    with connect(url.replace("http", "ws") + "/ws/v1/asr/funasr", proxy=None) as socket_:
        start = {"mode": "2pass", "chunk_size": [5, 10, 5], "wav_name": "m", "is_speaking": True}
        socket_.send(json.dumps({**start, "wav_format": "wav"}))
        socket_.send(path.read_bytes())
        socket_.send(json.dumps({"is_speaking": False}))
        while not json.loads(socket_.recv(timeout=60)).get("is_final"):
            pass


def run_job(url: str, path: Path) -> None:
    job = httpx.post(url + "/v1/jobs", files={"file": path.read_bytes()}).raise_for_status().json()
    deadline = time.monotonic() + 60
    while httpx.get(f"{url}/v1/jobs/{job['id']}").json()["status"] != "completed":
        assert time.monotonic() < deadline
        time.sleep(0.2)


def scrape(server: LiveServer, name: str, at_least: float, **tags: str) -> str:
    """A scrape with all that was counted up to now: what was counted last has come to its value."""
    deadline = time.monotonic() + EXPORT_SECONDS
    while True:
        text = httpx.get(server.metrics_url, timeout=30).text
        if value(text, name, **tags) >= at_least:
            return text
        assert time.monotonic() < deadline, f"{name} has not come"
        time.sleep(1)


@pytest.mark.server
def test_everything_listed_is_exported(server: LiveServer, samples: list[Sample]) -> None:
    """And everything that is asked for is there."""
    shortest = min((sample.path for sample in samples), key=lambda path: path.stat().st_size)
    wrong, ok = {"protocol": "openai", "error": "invalid_parameter"}, {"protocol": "openai", "outcome": "ok"}
    # Replicas that were lost by other tests are told of until the end of the server.
    before = httpx.get(server.metrics_url, timeout=30).text
    recognize_live(server.url, shortest)
    run_job(server.url, shortest)
    for format_, status in (("json", 200), ("no-such-format", 400)):
        answer = httpx.post(
            server.url + "/v1/audio/transcriptions",
            files={"file": (SAMPLES / "home.wav").read_bytes()},
            data={"response_format": format_},
            timeout=60,
        )
        assert answer.status_code == status, answer.text
    counted = value(before, "ray_asr_errors_total", **wrong)
    text = scrape(server, "ray_asr_errors_total", counted + 1, **wrong)

    exported = {re.sub(r"_(bucket|count|sum)$", "", name) for name in series(text)} | series(text)
    assert {metric.exported for metric in METRICS} - exported == set()
    # Names by which the README or a dashboard of somebody else knows them do not change by accident.
    assert {name for name in exported if name.startswith("ray_asr_")} == {
        name for metric in METRICS for name in _names(metric.exported, metric.kind)
    }
    edge = httpx.get(server.edge_metrics_url).text
    asked = {name for query in QUERIES for name in re.findall(r"\b(?:ray|haproxy|certmanager)_\w+", query)}
    assert asked - series(text) - series(edge) == ELSEWHERE.keys()

    assert value(text, "ray_asr_requests_total", **ok) > value(before, "ray_asr_requests_total", **ok)
    live = {"protocol": "funasr", "kind": "live"}
    heard = value(text, "ray_asr_received_audio_seconds_total", **live)
    assert heard > value(before, "ray_asr_received_audio_seconds_total", **live)
    assert value(text, "ray_asr_jobs_ended_total", status="completed") >= 1
    assert value(text, "ray_asr_model_load_seconds", deployment="Vad") > 0
    assert value(text, "ray_asr_max_live_sessions") >= Settings().max_live_sessions
    assert value(text, "ray_asr_certificate_expiry_timestamp_seconds") > time.time()


def _names(exported: str, kind: str) -> set[str]:
    if kind != "histogram":
        return {exported}
    return {exported, *(f"{exported}_{part}" for part in ("bucket", "count", "sum"))}


@pytest.mark.server
def test_ray_is_not_reached_from_outside(server: LiveServer) -> None:
    """What has no key can be reached on this machine only."""
    port = int(server.metrics_url.split(":")[2].partition("/")[0])
    own = {process.pid for process in server.processes()}
    listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    agents = [line.split()[3] for line in listening.splitlines() if f":{port} " in line]
    assert agents == [f"127.0.0.1:{port}"]
    for name in ("gcs_server", "raylet", "DashboardA"):
        lines = [line for line in listening.splitlines() if name in line and _pid(line) in own]
        assert lines
        assert [line for line in lines if "127.0.0.1" not in line.split()[3]] == []


def _pid(line: str) -> int:
    found = re.search(r"pid=(\d+)", line)
    return int(found[1]) if found else 0


def test_classes_of_errors_have_names() -> None:
    assert error_name(errors.RateLimited("", 1)) == "rate_limited"
    assert error_name(errors.NoAudioTrack("")) == "no_audio_track"
    # A protocol's own.
    assert error_name(InvalidMessage("")) == "protocol_error"


def test_protocols_are_those_of_the_list() -> None:
    """Whatever a request names: no client makes new series."""
    paths = ["/", "/v1/models", "/v1/jobs/x", "/v1/realtime", "/v1/speakers", "/stream/v1/asr", "/ws/v1"]
    paths += ["/ws/v1/asr/qwen", "/ws/v1/asr/funasr", "/api/v1/tasks/x", "/api-ws/v1/inference", "/\0", "/x"]
    for path in paths:
        for kind in ("http", "websocket"):
            assert protocol_of({"type": kind, "path": path, "query_string": b""}) in PROTOCOLS


class Counts(NoMeter):
    """Keeps what is counted."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, str, bool]] = []
        self.errors: list[tuple[str, str]] = []
        self.lost: list[str] = []
        self.replays: list[str] = []

    def request(self, protocol: str, outcome: str, seconds: float | None) -> None:
        self.outcomes.append((protocol, outcome, seconds is None))

    def error(self, protocol: str, name: str) -> None:
        self.errors.append((protocol, name))

    def lost_call(self, stage: str) -> None:
        self.lost.append(stage)

    def replay(self, protocol: str) -> None:
        self.replays.append(protocol)


async def ready() -> dict[str, str]:
    return {}


@pytest.mark.parametrize(
    ("path", "protocol"),
    [
        ("/v1/realtime", "realtime"),
        ("/", "funasr"),
        ("/ws/v1/asr/funasr", "funasr"),
        ("/ws/v1", "nls"),
        ("/ws/v1/asr", "nls"),
        ("/ws/v1/asr/qwen", "qwen"),
        ("/api-ws/v1/inference", "dashscope"),
        ("/api-ws/v1/realtime", "dashscope"),
    ],
)
def test_live_protocols_count_whom_they_refuse(path: str, protocol: str, tmp_path: Path) -> None:
    counts = Counts()
    settings = Settings(api_key=SecretStr("right"), data_dir=tmp_path)
    client = TestClient(create_app(settings, ToneGraph(), ready, counts))
    try:
        with client.websocket_connect(path) as socket_:
            while True:
                if socket_.receive()["type"] == "websocket.close":
                    break
    except (WebSocketDisconnect, WebSocketDenialResponse):
        pass
    assert counts.errors == [(protocol, "unauthenticated")]
    assert counts.outcomes == [(protocol, "refused", True)]


@pytest.mark.parametrize(
    ("method", "path", "protocol"),
    [
        ("POST", "/v1/audio/transcriptions", "openai"),
        ("GET", "/v1/jobs", "jobs"),
        ("GET", "/v1/speakers", "speakers"),
        ("POST", "/stream/v1/asr", "aliyun"),
        ("POST", "/api/v1/services/audio/asr/transcription", "dashscope"),
        ("POST", "/recognition", "funasr"),
    ],
)
def test_protocols_count_errors(method: str, path: str, protocol: str, tmp_path: Path) -> None:
    counts = Counts()
    settings = Settings(api_key=SecretStr("right"), data_dir=tmp_path)
    client = TestClient(create_app(settings, ToneGraph(), ready, counts))
    assert client.request(method, path).status_code >= 400
    assert counts.errors == [(protocol, "unauthenticated")]
    assert counts.outcomes == [(protocol, "refused", False)]


def test_questions_about_health_are_not_counted(tmp_path: Path) -> None:
    counts = Counts()
    client = TestClient(create_app(Settings(data_dir=tmp_path), ToneGraph(), ready, counts))
    assert client.get("/readyz").status_code == 503
    assert counts.outcomes == []


async def test_lost_replicas_are_counted() -> None:
    """Calls that are made again, and streams that are begun again."""
    counts = Counts()
    answers: list[Exception | str] = [RayActorError(), "answer"]

    async def send() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    class Forgetful(ToneGraph):
        losses = 1

        async def stream(self, step: StreamStep) -> tuple[Token, ...]:
            if step.number and self.losses:
                self.losses -= 1
                raise StreamLost("gone")
            return await super().stream(step)

    with active(Activity("1", "nls", meter=counts)):
        assert await call_pure("Vad", send) == "answer"
        await hear(Forgetful(), cut(tones([5] * 8), [9600] * 8), TWO_PASS, paced=True)
    assert counts.lost == ["Vad"]
    assert counts.replays == ["nls"]


@pytest.mark.parametrize(
    ("kind", "sent", "outcome"),
    [
        ("http", {"type": "http.response.start", "status": 200}, "ok"),
        ("http", {"type": "http.response.start", "status": 404}, "refused"),
        ("http", {"type": "http.response.start", "status": 499}, "canceled"),
        ("http", {"type": "http.response.start", "status": 503}, "failed"),
        ("websocket", {"type": "websocket.close", "code": 1000}, "ok"),
        ("websocket", {"type": "websocket.close", "code": 1008}, "refused"),
        ("websocket", {"type": "websocket.close", "code": 1011}, "failed"),
        ("websocket", {"type": "websocket.http.response.start", "status": 401}, "refused"),
        ("websocket", None, "canceled"),
    ],
)
async def test_requests_are_counted_by_what_came_of_them(
    kind: str, sent: dict[str, Any] | None, outcome: str
) -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if sent is not None:
            await send(sent)

    async def receive() -> dict[str, Any]:
        return {"type": "none"}

    async def ignore(message: Any) -> None:
        pass

    counts = Counts()
    app = Followed(answer, Tracing(trace_options(Settings())), lines=False, meter=counts)
    await app({"type": kind, "path": "/v1/models", "headers": [], "method": "GET"}, receive, ignore)
    assert counts.outcomes == [("openai", outcome, kind == "websocket")]


def test_the_port_of_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("METRICS_PORT", str(port))
        with pytest.raises(MetricsError, match=r"METRICS_PORT: Port \d+ is in use"):
            MetricsExport(read_metrics_settings())
        # One that nobody asked for gives way.
        with closing(MetricsExport(MetricsSettings.model_construct({"host"}, port=port))) as export:
            assert export.port not in (0, port)
    with closing(MetricsExport(MetricsSettings(port=0))) as export:
        assert export.url == f"http://127.0.0.1:{export.port}/metrics"


def test_two_servers_that_start_at_once_do_not_meet() -> None:
    """Ray opens the port long after it was chosen."""
    port = free_port("127.0.0.1")
    with closing(MetricsExport(MetricsSettings(port=port))) as first:
        assert first.port == port
        with pytest.raises(MetricsError, match="is in use"):
            MetricsExport(MetricsSettings(port=port))
    with closing(MetricsExport(MetricsSettings(port=port))) as later:
        assert later.port == port


@pytest.mark.parametrize(("name", "wrong"), [("METRICS_PORT", "x"), ("METRICS_HOST", "example.org")])
def test_settings_that_are_wrong_are_named(name: str, wrong: str) -> None:
    command = [sys.executable, "-m", "serve_app.cli.main", "serve"]
    environment = {**os.environ, name: wrong}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert name in result.stderr + result.stdout
    assert "Traceback" not in result.stderr


def test_settings_are_documented_with_their_defaults() -> None:
    for name, field in MetricsSettings.model_fields.items():
        assert f"| `METRICS_{name.upper()}` | `{field.default}` |" in TEXT
