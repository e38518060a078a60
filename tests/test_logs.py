"""What the logs hold of clients: no keys, no signed addresses, and what was said only if it is asked for."""

import asyncio
import contextlib
import functools
import http.server
import json
import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from benchmarks.live_server import LiveServer, live_server
from deployments.messages import SAMPLE_RATE
from serve_app.audio.decode import RawPcm
from serve_app.pipeline.live.events import LiveOptions, SentenceFinal
from serve_app.settings import Settings
from serve_app.transcriber import TranscriptionOptions
from serve_app.transcript_log import live_service_of, transcriber_of
from tests.conftest import SAMPLES
from tests.funasr_world import ReadingGraph, World, speech
from tests.live_graph import ToneGraph
from tests.live_sessions import tones
from tests.test_http_app import SilentGraph, client_of, transcribe

KEYS = ("SECRET-KEY-ONE", "SECRET-KEY-TWO")
SIGNATURE = "SECRET-SIGNATURE"
SAID = "音量调到"
"""How the recording begins that is sent."""


@pytest.fixture(scope="module")
def ray_logs() -> Iterator[Path]:
    # pytest's own directories are too deep for the sockets that Ray puts there.
    path = Path(tempfile.mkdtemp(prefix="asr", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    """A web server with the samples, as the address of its root."""
    handler = functools.partial(_Quiet, directory=SAMPLES)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the name is http.server's
        return


async def talk(url: str) -> None:
    """Send a recording over the live connection, and read until there is no more."""
    with contextlib.suppress(ConnectionClosed):
        async with connect(url) as socket:
            await socket.send((SAMPLES / "home.wav").read_bytes()[44:])
            await socket.send(json.dumps({"is_speaking": False}))
            await asyncio.wait_for(socket.recv(), 30)


def use_everything(server: LiveServer, storage: str) -> None:
    """Send keys wherever they may be, signed addresses and speech, also in ways that end in an error."""
    wav = (SAMPLES / "home.wav").read_bytes()
    path, form = "/v1/audio/transcriptions", {"file": wav}
    signed = f"{storage}/home.wav?Signature={SIGNATURE}"
    queries = [f"?token={KEYS[1]}", "?token=SECRET-WRONG", f"?x_nls_token={KEYS[0]}"]
    headers = [
        {"authorization": f"Bearer {KEYS[0]}"},
        {"x-nls-token": KEYS[1]},
        {"authorization": "SECRET-WRONG"},
    ]
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        for header in headers:
            client.post(path, files=form, headers=header)
            client.post("/stream/v1/asr", content=wav, headers=header)
        for query in queries:
            client.post(path + query, files=form)
            client.post(path + query, files={"file": b"no audio"})
            client.get("/nothing" + query)
            client.delete(path + query)
            client.post("/v1/jobs" + query, data={"url": signed, "webhook_url": f"{storage}/{SIGNATURE}"})
            for address in (signed, signed.replace("home", "none"), f"http://10.0.0.1/?key={SIGNATURE}"):
                client.post(path + query, data={"audio_address": address})
        fetched = client.post(path, headers=headers[0], data={"audio_address": signed})
        assert fetched.json()["text"].startswith(SAID)
        job = client.post("/v1/jobs", headers=headers[0], data={"url": signed}).json()["id"]
        assert "completed" in client.get(f"/v1/jobs/{job}/events", headers=headers[0]).text
    for query in queries:
        asyncio.run(talk(server.url.replace("http", "ws") + "/" + query))


@pytest.mark.own_server
def test_no_log_holds_a_key_an_address_or_a_text(ray_logs: Path, storage: str, tmp_path: Path) -> None:
    env = {
        "SPEAKER_MODEL": "none",
        "QWEN3_MODEL": "none",
        "LOG_LEVEL": "DEBUG",
        # In JSON, lines hold more than as text; and traces are read by others too.
        "LOG_FORMAT": "json",
        "TRACING": "file",
        "TRACING_SAMPLE": "1",
        "API_KEY": ",".join(KEYS),
        "ALLOW_PRIVATE_URLS": "127.0.0.1",
        "RAY_TMPDIR": str(ray_logs),
        "DATA_DIR": str(tmp_path / "data"),
    }
    output = tmp_path / "server.log"
    with live_server(output, env=env) as server:
        use_everything(server, storage)
    logs = [file for file in ray_logs.rglob("*") if "logs" in file.parts and file.is_file()]
    for known in ("POST /v1/audio/transcriptions 200", "WS / "):
        assert any(known in _read(file) for file in logs)
    traces = tmp_path / "data" / "traces.jsonl"
    assert "recognition" in _read(traces)
    for file in [output, traces, *logs]:
        for secret in ("SECRET", SAID, json.dumps(SAID).strip('"')):
            assert secret not in _read(file), file.name
    check_json(output)


def check_json(output: Path) -> None:
    """Every line of the output is an object, and those of one request name the same one."""
    lines = [json.loads(line) for line in _read(output).splitlines()]
    assert any(line["message"].startswith("Ready on http://") for line in lines)
    for line in lines:
        assert {"asctime", "levelname", "message", "process", "component_name"} <= {*line}, line
    told = {line["message"].rsplit(" ", 1)[0]: line for line in lines if "audio_seconds" in line}
    file, job, live = told["POST /v1/audio/transcriptions 200"], told["JOB completed"], told["WS / 1000"]
    assert (file["status"], file["protocol"], live["protocol"]) == (200, "openai", "funasr")
    assert file["route"] == "/v1/audio/transcriptions"
    assert job["request_id"].startswith("job_")
    for line in (file, job, live):
        assert line["audio_seconds"] > 1
        assert line["seconds"] > 0
        assert line["model"] == "paraformer-starter"
        assert len(line["trace_id"]) == 32
        assert {"deployment", "replica", "application"} <= {*line} or line is job


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


@pytest.mark.parametrize("wanted", [False, True])
async def test_results_are_logged_if_they_are_asked_for(
    wanted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    transcriber = transcriber_of(ReadingGraph(World()), Settings(log_transcripts=wanted))
    samples = speech("一 二 三")
    options = TranscriptionOptions(raw=RawPcm(SAMPLE_RATE))
    with caplog.at_level(logging.DEBUG):
        text = (await transcriber.transcribe(BytesIO(samples), options)).text
    assert text
    expected = f"recognized 0.00 s to {len(samples) / 2 / SAMPLE_RATE:.2f} s: {text!r}"
    assert (expected in caplog.text, text in caplog.text) == (wanted, wanted)


@pytest.mark.parametrize("wanted", [False, True])
async def test_live_results_are_logged_if_they_are_asked_for(
    wanted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    service = live_service_of(ToneGraph(), Settings(log_transcripts=wanted))
    with caplog.at_level(logging.DEBUG):
        async with service.open(LiveOptions(near_field=None)) as session:
            await session.push(tones([0, 3, 4, 0, 0, 0, 0]))
            await session.finish()
            texts = [event.text async for event in session.events() if isinstance(event, SentenceFinal)]
    assert "".join(texts)
    assert all((repr(text) in caplog.text) == wanted for text in texts)


async def test_an_unforeseen_fault_is_logged_without_the_query(caplog: pytest.LogCaptureFixture) -> None:
    graph = SilentGraph()
    graph.fault = RuntimeError("broken")
    async with client_of(graph, api_key=KEYS[0]) as client:
        client.params = client.params.set("token", KEYS[0])
        assert (await transcribe(client)).status_code == 500
    assert "broken" in caplog.text
    assert "SECRET" not in caplog.text
