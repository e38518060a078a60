"""Log lines say whose they are, as text and as JSON."""

import io
import json
import logging
import logging.handlers
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ray.serve._private.logging_utils import configure_component_logger
from ray.serve.schema import LoggingConfig
from rich.console import Console

from deployments.logs import SERVICE_LOGGER, stamp_logs
from deployments.origin import Origin, on_behalf_of
from serve_app.activity import note_audio, note_model, note_status
from serve_app.cli.json_lines import JsonLines, wants_json, worker_fields
from serve_app.following import job_follower, protocol_of
from serve_app.jobs.types import Job, JobSpec, JobStatus
from serve_app.tracing import Tracing
from tests.test_http_app import SilentGraph, client_of, transcribe

ORIGIN = Origin("request-1", "openai", f"00-{'a' * 32}-{'b' * 16}-01")


@pytest.fixture
def service_logger() -> Iterator[logging.Logger]:
    """The service's logger, as it was before afterwards."""
    logger, root = logging.getLogger(SERVICE_LOGGER), logging.getLogger()
    before = [*logger.handlers], [*logger.filters], [*root.handlers], logger.propagate, logger.level
    yield logger
    logger.handlers, logger.filters, root.handlers, logger.propagate, level = before
    logger.setLevel(level)


def as_in_a_replica(directory: Path, encoding: str) -> Path:
    """Set logging up as Serve does in its replicas; the file to which it writes."""
    configure_component_logger(
        component_name="asr_Vad",
        component_id="abc",
        logging_config=LoggingConfig(encoding=encoding, logs_dir=str(directory), log_level="INFO"),
        max_bytes=10**6,
        backup_count=1,
    )
    (file,) = directory.iterdir()
    return file


def test_json_lines_name_request_protocol_and_trace(
    tmp_path: Path, service_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    file = as_in_a_replica(tmp_path, "JSON")
    stamp_logs(json_lines=True)
    with on_behalf_of(ORIGIN):
        service_logger.info("a batch of %d failed", 3)
        logging.getLogger("serve_app.pipeline.elsewhere").warning("partials are missing")
    service_logger.warning("on nobody's behalf")
    stamp_logs(json_lines=True)
    service_logger.info("once")
    for text in (file.read_text(encoding="utf-8"), capsys.readouterr().err):
        lines = {line["message"]: line for line in map(json.loads, text.splitlines())}
        assert [*lines].count("once") == 1
        told = lines["a batch of 3 failed"]
        assert (told["request_id"], told["protocol"]) == ("request-1", "openai")
        assert (told["trace_id"], told["span_id"]) == ("a" * 32, "b" * 16)
        assert told["levelname"] == "INFO"
        assert "request_id" not in lines["on nobody's behalf"]
    assert lines["partials are missing"]["request_id"] == "request-1"


def test_text_lines_name_the_request_of_the_client(
    tmp_path: Path, service_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    file = as_in_a_replica(tmp_path, "TEXT")
    stamp_logs(json_lines=False)
    with on_behalf_of(ORIGIN):
        service_logger.info("as a person reads it")
    for text in (file.read_text(encoding="utf-8"), capsys.readouterr().err):
        assert "request-1 -- as a person reads it" in text


async def test_each_request_is_a_line_with_what_it_was(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, SERVICE_LOGGER):
        async with client_of(SilentGraph(), log_format="json") as client:
            done = await transcribe(client, **{"x-request-id": "mine"})
            await client.get("/nothing/SECRET?token=SECRET")
            files = {"file": b"no audio: SECRET"}
            await client.post("/v1/audio/transcriptions", files=files)
            await client.get("/readyz")
    told = [record for record in caplog.records if hasattr(record, "audio_seconds")]
    assert [record.getMessage().rsplit(" ", 1)[0] for record in told] == [
        "POST /v1/audio/transcriptions 200",
        "GET (none) 404",
        "POST /v1/audio/transcriptions 400",
    ]
    assert vars(told[2])["error"] == "invalid_audio"
    fields: dict[str, Any] = vars(told[0])
    assert (fields["method"], fields["status"]) == ("POST", 200)
    assert fields["route"] == "/v1/audio/transcriptions"
    assert fields["audio_seconds"] == 1.0
    assert fields["model"] == "paraformer-starter"
    assert done.headers["x-request-id"] == "mine"
    assert "SECRET" not in caplog.text


async def test_as_text_serve_writes_the_lines_of_requests(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, SERVICE_LOGGER):
        async with client_of(SilentGraph()) as client:
            await transcribe(client)
    assert not [record for record in caplog.records if hasattr(record, "audio_seconds")]


def test_each_attempt_of_a_job_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    follow = job_follower(Tracing(None), lines=True)
    job = Job("job_1", "anybody", JobSpec(), JobStatus.RUNNING, datetime.now(UTC), attempts=2)
    with caplog.at_level(logging.INFO, SERVICE_LOGGER):
        with follow(job):
            note_model("a-model")
            note_audio(12.5)
            note_status("completed")
        with follow(replace(job, attempts=3)):
            pass
        with pytest.raises(KeyboardInterrupt), follow(job):
            raise KeyboardInterrupt
    told: list[dict[str, Any]] = [vars(record) for record in caplog.records]
    assert [(line["status"], line["attempt"]) for line in told] == [
        ("completed", 2),
        ("put back", 3),
        ("interrupted", 2),
    ]
    assert (told[0]["audio_seconds"], told[0]["model"]) == (12.5, "a-model")


@pytest.mark.parametrize(
    ("path", "query", "kind", "protocol"),
    [
        ("/", b"", "websocket", "funasr"),
        ("/", b"Action=GetTaskResult", "http", "aliyun"),
        ("/", b"", "http", "funasr"),
        ("/v1/audio/transcriptions", b"", "http", "openai"),
        ("/v1/realtime", b"", "websocket", "realtime"),
        ("/v1/jobs/job_1", b"", "http", "jobs"),
        ("/ws/v1", b"", "websocket", "nls"),
        ("/ws/v1/asr/qwen", b"", "websocket", "qwen"),
        ("/ws/v1/asr/funasr", b"", "websocket", "funasr"),
        ("/api-ws/v1/inference", b"", "websocket", "dashscope"),
        ("/api/v1/tasks/1", b"", "http", "dashscope"),
        ("/stream/v1/FlashRecognizer", b"", "http", "aliyun"),
        ("/asr", b"", "http", "funasr"),
        ("/demo", b"", "http", "http"),
    ],
)
def test_protocols_are_told_by_their_paths(path: str, query: bytes, kind: str, protocol: str) -> None:
    assert protocol_of({"type": kind, "path": path, "query_string": query}) == protocol


def test_what_the_command_prints_is_one_object_a_line() -> None:
    stream = io.StringIO()
    lines: Any = JsonLines(stream)
    console = Console(file=lines, soft_wrap=True)
    console.print("[bold green]Ready[/] on http://127.0.0.1")
    console.print("two\nlines\n")
    lines.put(
        worker_fields("ray says this", {"pid": "12", "actor_name": "ServeReplica:asr:Vad", "is_err": 1})
    )
    lines.put(
        worker_fields("WARNING 2026-11-21 20:46:12,381 proxy 10.0.0.1 -- late", {"actor_name": "ProxyActor"})
    )
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["message"] for line in told] == [
        "Ready on http://127.0.0.1",
        "two",
        "lines",
        "ray says this",
        "late",
    ]
    assert (told[3]["process"], told[3]["component_name"]) == (12, "ServeReplica:asr:Vad")
    assert (told[4]["levelname"], told[4]["component_name"]) == ("WARNING", "proxy")
    assert told[4]["asctime"] == "2026-11-21 20:46:12,381"


def test_the_environment_or_the_config_ask_for_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOG_FORMAT", raising=False)
    config = tmp_path / "serve_config.yaml"
    assert not wants_json(config)
    config.write_text("applications: [{name: asr, args: {log_format: json}}]")
    assert wants_json(config)
    monkeypatch.setenv("LOG_FORMAT", "text")
    assert not wants_json(config)
    monkeypatch.setenv("LOG_FORMAT", "json")
    config.write_text("applications: nothing")
    assert wants_json(config)
