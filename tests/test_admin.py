"""``/admin`` and ``asr-serve top``: who may see how the service does, and what they see."""

import fnmatch
import json
import re
import socket
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from typer.testing import CliRunner

from benchmarks.live_server import LiveServer
from serve_app import web
from serve_app.cli.main import app as cli
from serve_app.http import create_app
from serve_app.overview import (
    DeploymentView,
    JobsView,
    LoadView,
    Overview,
    ReplicaView,
    TrafficView,
)
from serve_app.settings import Settings
from tests.conftest import ROOT, Sample
from tests.live_page import SPOKEN, chromium, needs_browser
from tests.test_http_app import SilentGraph

PAGES = Path(web.__file__).parent / "admin"
runner = CliRunner()

LOAD = LoadView(
    replicas=2,
    waiting_items=7,
    waiting_audio_seconds=123.4,
    running_items=3,
    running_audio_seconds=45,
    oldest_wait_seconds=1.5,
    lag_seconds=0.25,
    busy=0.5,
    audio_per_busy_second=300,
    drain_seconds=0.4,
)
SEEN = Overview(
    version="9.9",
    time=1_790_000_000,
    models=["paraformer-starter"],
    deployments=[
        DeploymentView(
            name="Paraformer",
            status="UPSCALING",
            message="Upscaling from 1 to 2 replicas.",
            running=1,
            target=2,
            replicas=[
                ReplicaView(id="a", state="RUNNING", node="10.0.0.7", pid=42, seconds=9),
                ReplicaView(id="b", state="STARTING", node=None, pid=None, seconds=1),
            ],
            load=LOAD,
        ),
        DeploymentView(
            name="Ingress", status="HEALTHY", message="", running=1, target=1, replicas=[], load=None
        ),
    ],
    traffic=TrafficView(
        ingress_replicas=1, live_sessions=5, max_live_sessions=256, files=2, max_concurrent_files=64
    ),
    jobs=JobsView(queued=4, running=1),
)


async def seen() -> Overview:
    return SEEN


async def ready() -> dict[str, str]:
    return {"Ingress": "READY"}


@contextmanager
def serving(**configured: object) -> Iterator[str]:
    """The routes behind a real HTTP server; its URL."""
    app = create_app(Settings.model_validate(configured), SilentGraph(), ready, overview=seen)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def state(url: str, **headers: str) -> httpx.Response:
    return httpx.get(f"{url}/admin/state", headers=headers, trust_env=False)


def test_without_a_key_only_this_machine_sees_it() -> None:
    with serving() as url:
        assert Overview.model_validate(state(url).json()) == SEEN
        assert state(url).headers["cache-control"] == "no-store"
        assert state(url, **{"x-forwarded-for": "127.0.0.1"}).status_code == 200
        for header in ("x-forwarded-for", "x-real-ip"):
            for others in ("203.0.113.7", "203.0.113.7, 127.0.0.1", "127.0.0.1, 203.0.113.7"):
                refused = state(url, **{header: others})
                assert refused.status_code == 401
                assert "ADMIN_KEY" in refused.json()["error"]["message"]


def test_clients_keys_count_on_this_machine_only() -> None:
    with serving(api_key="client-key") as url:
        assert state(url).status_code == 401
        assert state(url, authorization="Bearer client-key").status_code == 200
        away = {"authorization": "Bearer client-key", "x-forwarded-for": "203.0.113.7"}
        assert state(url, **away).status_code == 401


def test_with_an_admin_key_that_key_is_needed_from_everywhere() -> None:
    with serving(api_key="client-key", admin_key="admin-key") as url:
        assert state(url).status_code == 401
        for wrong in ("client-key", "admin-ke", "admin-key,client-key"):
            assert state(url, authorization=f"Bearer {wrong}").status_code == 401
        right = {"authorization": "Bearer admin-key", "x-forwarded-for": "203.0.113.7"}
        assert state(url, **right).status_code == 200
        denied = httpx.get(f"{url}/v1/models", headers={"authorization": "Bearer admin-key"}, trust_env=False)
        assert denied.status_code == 401


def test_top_prints_what_runs() -> None:
    with serving(admin_key="admin-key") as url:
        shown = runner.invoke(
            cli, ["top", "--url", url, "--once"], env={"COLUMNS": "200", "ADMIN_KEY": "admin-key"}
        )
        assert shown.exit_code == 0
        for text in ("Paraformer", "1/2", "7 (123 s)", "300x", "10.0.0.7", "5/256", "2/64", "1 running, 4"):
            assert text in shown.output, shown.output
        assert "Upscaling from 1 to 2 replicas." in shown.output
        as_json = runner.invoke(cli, ["top", "--url", url, "--json", "--admin-key", "admin-key"])
        assert Overview.model_validate(json.loads(as_json.output)) == SEEN
        refused = runner.invoke(cli, ["top", "--url", url, "--admin-key", "wrong"])
        assert refused.exit_code == 1
        assert "ADMIN_KEY" in refused.output
    away = runner.invoke(cli, ["top", "--url", url])
    assert away.exit_code == 1
    assert "No server answers" in away.output


def test_the_page_comes_whole_from_the_server_under_a_strict_policy() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    with serving() as url:
        for asset in PAGES.iterdir():
            path = "/admin" if asset.name == "index.html" else f"/admin/{asset.name}"
            answer = httpx.get(url + path, trust_env=False)
            assert answer.content == asset.read_bytes()
            policy = answer.headers["content-security-policy"]
            assert "default-src 'self'; connect-src 'self';" in policy
            assert "unsafe" not in policy
            named = f"admin/{asset.name}"
            assert any(fnmatch.fnmatch(named, pattern) for pattern in patterns["serve_app.web"])
            content = asset.read_text(encoding="utf-8")
            assert not re.search(r"\son\w+=|\sstyle=|<style|javascript:|url\(|@import|\beval\(", content)
        for missing in ("none.js", "index.html", "..%2Ffiles.py"):
            assert httpx.get(f"{url}/admin/{missing}", trust_env=False).status_code == 404


@needs_browser
def test_the_page_shows_it_in_both_languages(tmp_path: Path) -> None:
    with serving(admin_key="admin-key") as url, chromium(SPOKEN, tmp_path) as driver:
        driver.implicitly_wait(20)
        driver.get(f"{url}/admin")
        driver.find_element("css selector", "#door:not([hidden]) input").send_keys("admin-key")
        driver.find_element("css selector", "#door button").click()
        row = driver.find_element("xpath", "//tr[th='Paraformer']")
        for text in ("UPSCALING", "1 / 2", "7 (123 s audio)", "50 %", "0.25 s", "300×"):
            assert text in row.text
        assert "10.0.0.7 · 42" in driver.find_element("id", "rows").text
        assert "5 / 256" in driver.find_element("id", "figures").text
        driver.find_element("css selector", "[data-language=zh]").click()
        assert "7（123 秒音频）" in driver.find_element("id", "rows").text
        assert "实时会话" in driver.find_element("id", "figures").text
        words = set(re.findall(r'data-(?:text|label)="(\w+)"', (PAGES / "index.html").read_text()))
        for language in ("en", "zh"):
            said = driver.execute_async_script(
                "const done = arguments[1]; import('/admin/words.js')"
                ".then((module) => done(Object.keys(module.languages[arguments[0]])))",
                language,
            )
            assert words <= set(said)


@pytest.mark.server
def test_the_live_server_tells_what_it_does(server: LiveServer, samples: list[Sample]) -> None:
    with samples[0].path.open("rb") as audio:
        httpx.post(
            f"{server.url}/v1/audio/transcriptions", files={"file": audio}, data={"model": "x"}, timeout=120
        ).raise_for_status()
    told = Overview.model_validate(state(server.url).json())
    stages = {deployment.name: deployment for deployment in told.deployments}
    assert {"Ingress", "Jobs", "Vad", "Paraformer", "ParaformerStreaming", "Punctuation"} <= stages.keys()
    for name, stage in stages.items():
        assert stage.running >= min(1, stage.target)
        assert all(replica.node for replica in stage.replicas if replica.state == "RUNNING")
        assert (stage.load is None) is (name in ("Ingress", "Jobs"))
    assert any(stage.load.audio_per_busy_second > 0 for stage in stages.values() if stage.load)
    assert told.traffic is not None
    assert told.traffic.max_live_sessions >= 1
    assert told.jobs is not None
    shown = runner.invoke(cli, ["top", "--url", server.url, "--once"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "ParaformerStreaming" in shown.output
