"""``asr-serve jobs`` against the real routes over jobs in memory, in a server that may go away."""

import asyncio
import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi import Request, Response
from typer.testing import CliRunner, Result

from serve_app.cli.main import app
from serve_app.cli.ports import free_port
from serve_app.jobs.types import JobError, JobSpec, JobStatus
from tests import audio_files
from tests.memory_jobs import MemoryJobs, app_of

ROOT = Path(__file__).parents[1]
WAV = audio_files.wav(np.full(16_000, 0.1, np.float32), 16_000)
URL = "https://files.example/calls/a.mp3"
runner = CliRunner()


class Server:
    """The routes behind a real HTTP server that can be stopped, and started again at the same port."""

    def __init__(self, **configured: Any) -> None:
        self.jobs = MemoryJobs()
        self.app = app_of(self.jobs, **configured)
        self.port = free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port}"
        self._server: uvicorn.Server | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        listening = socket.create_server(("127.0.0.1", self.port))
        config = uvicorn.Config(self.app, log_level="critical", timeout_graceful_shutdown=0, lifespan="off")
        self._server = uvicorn.Server(config)
        thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]})
        thread.start()
        self._threads.append(thread)

    def stop(self) -> None:
        if self._server is not None:
            self._server.should_exit = True
        for thread in self._threads:
            thread.join()

    def later(self, work: Callable[[], None]) -> None:
        """Do ``work`` on a thread; joined by :meth:`stop`."""
        thread = threading.Thread(target=work)
        thread.start()
        self._threads.append(thread)

    def transcribe(self, jobs: int) -> None:
        """Complete that many jobs once they are all there; those called ``bad*`` fail."""
        wait_until(lambda: len(self.jobs.kept) >= jobs)
        for number in range(1, jobs + 1):
            job = self.jobs.kept[f"job_{number}"].job
            if (job.spec.filename or "").startswith("bad"):
                error = JobError("invalid_audio", "This [file] is damaged.")
                self.jobs.end(job.id, JobStatus.FAILED, error)
                continue
            self.jobs.run(job.id, done=5.0, say="甲乙丙"[number - 1])
            self.jobs.run(job.id, done=10.0)
            self.jobs.end(job.id, JobStatus.COMPLETED)

    def __call__(self, *arguments: str, env: dict[str, str] | None = None) -> Result:
        return runner.invoke(app, ["jobs", *arguments, "--url", self.url], env=env)


def wait_until(holds: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    for name in ("a.wav", "b.wav", "bad.wav"):
        (tmp_path / name).write_bytes(WAV)
    return tmp_path


def test_submit_prints_ids_in_order(server: Server, audio: Path) -> None:
    result = server("submit", str(audio / "a.wav"), "--language", "zh", "--idempotency-key", "k")
    assert (result.exit_code, result.stdout) == (0, "job_1\n"), result.output
    kept = server.jobs.kept["job_1"]
    assert (kept.recording, kept.key, kept.job.spec.filename) == (WAV, "k", "a.wav")
    assert kept.job.spec.options.language == "zh"
    assert server("submit", str(audio / "a.wav"), "--language", "zh", "--idempotency-key", "k").stdout == (
        "job_1\n"
    )
    arguments = ["--webhook", "https://hooks.example/x", "--format", "srt", "--channels", "split"]
    arguments += ["--hotwords", "魔搭 20"]
    result = server("submit", URL, *arguments, env={"ASR_SERVE_WEBHOOK_SECRET": "a secret of some length"})
    assert (result.exit_code, result.stdout) == (0, "job_2\n"), result.output
    spec = server.jobs.kept["job_2"].job.spec
    assert (spec.url, spec.response_format, spec.split_channels) == (URL, "srt", True)
    assert [(word.text, word.weight) for word in spec.options.hotwords] == [("魔搭", 20)]
    assert spec.webhook is not None
    assert spec.webhook.secret == "a secret of some length"
    several = server("submit", str(audio / "a.wav"), str(audio / "b.wav"))
    assert sorted(several.stdout.split()) == ["job_3", "job_4"]


def test_what_cannot_be_handed_in_is_named_and_the_others_go_on(server: Server, audio: Path) -> None:
    missing, text = str(audio / "missing.wav"), audio / "text.wav"
    text.write_text("hello")
    result = server("submit", missing, str(text), str(audio / "a.wav"))
    assert result.exit_code == 1
    assert result.stdout == "job_1\n"
    assert f"{missing}: No such file or directory" in result.stderr
    assert f"{text}: The file is not audio: its content looks like text. (HTTP 400)" in result.stderr
    assert "2 of 3 recordings without a job." in result.stderr


def test_wait_prints_transcripts(server: Server, audio: Path) -> None:
    server.later(lambda: server.transcribe(1))
    result = server("submit", str(audio / "a.wav"), "--wait")
    assert (result.exit_code, result.stdout) == (0, "甲。\n"), result.output
    assert "job_1" in result.stderr


def test_wait_writes_a_file_for_each(server: Server, audio: Path, tmp_path: Path) -> None:
    server.later(lambda: server.transcribe(3))
    files = [str(audio / name) for name in ("a.wav", "bad.wav")]
    out = tmp_path / "out"
    result = server("submit", *files, URL, "--wait", "--format", "srt", "--output-dir", str(out))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert f"{files[1]}: This [file] is damaged." in result.stderr
    assert "1 of 3 recordings without a transcript." in result.stderr
    assert sorted(path.name for path in out.iterdir()) == ["a.mp3.srt", "a.wav.srt"]
    assert (out / "a.wav.srt").read_text().startswith("1\n00:00:05,000 --> ")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["a.wav", "b.wav", "--idempotency-key", "k"], "is for one recording"),
        (["a.wav", "--output-dir", "out"], "needs --wait"),
        (["a.wav", "b.wav", "--wait", "--format", "srt"], "need --output-dir"),
        (["a.wav", "--format", "docx"], "docx"),
        ([], "Missing argument"),
    ],
)
def test_impossible_orders(arguments: list[str], reason: str) -> None:
    result = runner.invoke(app, ["jobs", "submit", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert reason in result.stderr


def submitted(server: Server, audio: Path) -> str:
    return server("submit", str(audio / "a.wav")).stdout.strip()


def test_status(server: Server, audio: Path) -> None:
    job_id = submitted(server, audio)
    server.jobs.run(job_id, done=75.0, total=3725.0)
    lines = server("status", job_id).stdout.splitlines()
    assert lines[:4] == [
        "id:        job_1",
        "recording: a.wav",
        "status:    running",
        "progress:  1:15 of 1:02:05 (2%)",
    ]
    body = json.loads(server("status", job_id, "--json").stdout)
    assert body["progress"]["seconds_done"] == 75.0
    server.later(lambda: server.jobs.end(job_id, JobStatus.COMPLETED))
    waited = server("status", job_id, "--wait")
    assert waited.exit_code == 0
    assert "status:    completed" in waited.stdout


def test_status_of_a_job_that_failed(server: Server, audio: Path) -> None:
    job_id = submitted(server, audio)
    server.jobs.end(job_id, JobStatus.FAILED, JobError("invalid_audio", "It is damaged."))
    assert server("status", job_id).exit_code == 0
    waited = server("status", job_id, "--wait")
    assert waited.exit_code == 1
    assert "error:     It is damaged." in waited.stdout


def test_result(server: Server, audio: Path, tmp_path: Path) -> None:
    job_id = submitted(server, audio)
    server.jobs.run(job_id, done=5.0, say="今天好")
    early = server("result", job_id)
    assert (early.exit_code, early.stdout) == (3, "")
    assert "The job is running; ask again later" in early.stderr
    assert server("result", job_id, "--partial", "--format", "text").stdout == "今天好。\n"
    server.jobs.end(job_id, JobStatus.COMPLETED)
    assert json.loads(server("result", job_id).stdout)["text"] == "今天好。"
    target = tmp_path / "a.vtt"
    result = server("result", job_id, "-f", "vtt", "-o", str(target))
    assert (result.exit_code, result.stdout) == (0, "")
    assert target.read_text().startswith("WEBVTT\n")
    nowhere = server("result", job_id, "-o", str(tmp_path / "none" / "a"))
    assert nowhere.exit_code == 1
    assert "could not be written: No such file or directory." in nowhere.stderr


def test_cancel_and_delete(server: Server, audio: Path) -> None:
    job_id = submitted(server, audio)
    assert server("cancel", job_id).stdout == "job_1 is canceled.\n"
    refused = server("result", job_id)
    assert refused.exit_code == 1
    assert "The job was canceled" in refused.stderr
    assert server("delete", job_id).stdout == "job_1 is deleted.\n"
    for command in ("status", "result", "cancel", "delete"):
        gone = server(command, job_id)
        assert gone.exit_code == 1
        assert gone.stderr == "There is no job 'job_1'. (HTTP 404)\n"


def test_list(server: Server) -> None:
    assert server("list").stdout == ""
    for _ in range(130):
        asyncio.run(server.jobs.submit("anybody", JobSpec(url=URL)))
    server.jobs.run("job_129", done=5.0)
    lines = server("list", "--limit", "120").stdout.splitlines()
    assert len(lines) == 120
    assert lines[0].split("\t")[:3] == ["job_130", "queued", ""]
    assert lines[1].split("\t")[:3] == ["job_129", "running", "0:05 of 0:10 (50%)"]
    assert lines[1].split("\t")[4] == URL
    assert [line.split("\t")[0] for line in server("list", "--status", "running").stdout.splitlines()] == [
        "job_129"
    ]


def test_the_key() -> None:
    server = Server(api_key="right-key")
    server.start()
    try:
        refused = server("list")
        assert refused.exit_code == 1
        assert "No API key was sent." in refused.stderr
        assert server("list", env={"API_KEY": "right-key"}).exit_code == 0
        assert server("list", "--api-key", "right-key").exit_code == 0
    finally:
        server.stop()


@pytest.mark.parametrize(
    "arguments", [["submit", __file__], ["status", "x"], ["result", "x"], ["cancel", "x"], ["list"]]
)
def test_no_server(arguments: list[str]) -> None:
    result = Server()(*arguments)
    assert result.exit_code == 1
    assert "No server answers at http://127.0.0.1:" in result.stderr
    assert "Traceback" not in result.output


def test_an_answer_that_got_lost_makes_no_second_job(server: Server, audio: Path) -> None:
    attempts = 0

    @server.app.middleware("http")
    async def lose(request: Request, call_next: Any) -> Response:
        nonlocal attempts
        response: Response = await call_next(request)
        if request.method == "POST":
            attempts += 1
            if attempts == 1:
                return Response("a proxy's page", 503, {"retry-after": "0"})
        return response

    assert submitted(server, audio) == "job_1"
    assert attempts == 2
    assert len(server.jobs.kept) == 1


def test_where_events_do_not_come_through_it_asks(server: Server, audio: Path) -> None:
    @server.app.middleware("http")
    async def block(request: Request, call_next: Any) -> Response:
        if request.url.path.endswith("/events"):
            return Response("blocked", 403)
        response: Response = await call_next(request)
        return response

    server.later(lambda: server.transcribe(1))
    result = server("submit", str(audio / "a.wav"), "--wait")
    assert (result.exit_code, result.stdout) == (0, "甲。\n"), result.output


def follow(server: Server, *arguments: str) -> tuple[subprocess.Popen[str], int]:
    """Start a command whose standard error is a terminal; also its other end."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "serve_app.cli.main", "jobs", *arguments, "--url", server.url]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "TERM": "xterm"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=slave, text=True
    )
    os.close(slave)
    return process, master


def shown(terminal: int) -> str:
    """All that a terminal has got, up to its end."""
    data = b""
    while True:
        try:
            data += os.read(terminal, 65536)
        except OSError:
            os.close(terminal)
            return data.decode()


@pytest.mark.slow
def test_a_restart_of_the_server_goes_unnoticed(server: Server, audio: Path) -> None:
    process, terminal = follow(server, "submit", str(audio / "a.wav"), "--wait")
    screen: list[str] = []
    reading = threading.Thread(target=lambda: screen.append(shown(terminal)))
    reading.start()
    try:
        wait_until(lambda: "job_1" in server.jobs.kept)
        server.jobs.run("job_1", done=4.0, say="前")
        time.sleep(0.5)
        server.stop()
        time.sleep(0.5)
        server.start()
        server.jobs.run("job_1", done=8.0, say="后")
        time.sleep(3)
        server.jobs.end("job_1", JobStatus.COMPLETED)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        reading.join()
    assert (process.returncode, output) == (0, "前。后。\n"), screen
    assert re.search("0:04 of 0:10", screen[0])
    assert re.search("0:08 of 0:10", screen[0])


def test_ctrl_c_names_the_jobs_that_go_on(server: Server, audio: Path) -> None:
    process, terminal = follow(server, "submit", str(audio / "a.wav"), "--wait")
    try:
        wait_until(lambda: "job_1" in server.jobs.kept)
        time.sleep(0.5)
        process.send_signal(2)
        assert process.wait(30) == 130
    finally:
        process.kill()
    assert "The jobs go on; `asr-serve jobs result` gives what becomes of them: job_1" in shown(terminal)
    assert not server.jobs.kept["job_1"].job.status.is_final
