"""The ``asr-serve`` command, against a small HTTP server and against Ray itself."""

import json
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
import uvicorn
import yaml
from fastapi import FastAPI, File, Form, Header, Response, UploadFile
from fastapi.responses import JSONResponse
from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.cli.ports import free_port
from tests.cli_server import processes_with, serve_config, start, wait_for

KEY = "correct-horse-battery"
runner = CliRunner()


class Stub:
    """Stands in for a server: says what it was sent, and misbehaves for certain file names."""

    def __init__(self) -> None:
        self.app = FastAPI()
        self.now = self.most_at_once = 0
        self.attempts: dict[str, int] = {}
        self.app.post("/v1/audio/transcriptions")(self.transcribe)
        self.app.get("/v1/models")(self.models)
        self.url = ""
        self.asked: tuple[str, str, str] | None = None
        self.model = ""
        self.hotwords: str | None = None

    def transcribe(
        self,
        file: Annotated[UploadFile, File()],
        model: Annotated[str, Form()],
        response_format: Annotated[str, Form()],
        language: Annotated[str, Form()] = "none",
        enable_speaker_diarization: Annotated[str, Form()] = "none",
        num_speakers: Annotated[str, Form()] = "none",
        hotwords: Annotated[str | None, Form()] = None,
        authorization: Annotated[str, Header()] = "none",
    ) -> Response:
        name = str(file.filename)
        self.asked = (response_format, enable_speaker_diarization, num_speakers)
        self.model, self.hotwords = model, hotwords
        self.attempts[name] = self.attempts.get(name, 0) + 1
        self.now += 1
        self.most_at_once = max(self.most_at_once, self.now)
        try:
            if name.startswith("bad"):
                error = {"message": "This [file] is not audio.", "type": "invalid_request_error"}
                return JSONResponse({"error": error}, 400)
            if name.startswith("busy") and self.attempts[name] < 3:
                return JSONResponse({"error": {"message": "full"}}, 429, {"retry-after": "0"})
            if name.startswith("talk"):
                return Response(file.file.read())
            size = len(file.file.read())
            if hotwords:
                return Response("heard\n", headers={"x-hotwords-ignored": "2"})
            return Response(f"{name} {size} {response_format} {language} {authorization}\n")
        finally:
            self.now -= 1

    def models(self, authorization: Annotated[str, Header()] = "") -> Response:
        if authorization != f"Bearer {KEY}":
            return JSONResponse({"error": {"message": "The key is wrong."}}, 401)
        return JSONResponse({"data": [{"id": "paraformer-test", "owned_by": "asr-serve"}]})


@pytest.fixture
def stub() -> Iterator[Stub]:
    stub = Stub()
    listening = socket.create_server(("127.0.0.1", 0))
    stub.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(stub.app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield stub
    server.should_exit = True
    thread.join()


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    directory = tmp_path / "audio"
    directory.mkdir()
    for name, size in {"a.wav": 10, "a.mp3": 20, "b.wav": 300_000, "bad.wav": 5, "busy.wav": 7}.items():
        (directory / name).write_bytes(b"x" * size)
    return directory


def test_one_file_goes_to_standard_output(stub: Stub, audio: Path) -> None:
    result = runner.invoke(app, ["transcribe", str(audio / "b.wav"), "--url", stub.url, "--language", "zh"])
    assert result.exit_code == 0, result.output
    assert result.stdout == "b.wav 300000 text zh none\n"


def test_hotwords_may_be_words_or_a_file(stub: Stub, audio: Path) -> None:
    listed = audio / "words.txt"
    listed.write_text("# names\n魔搭 20\nAlibaba Cloud\n", encoding="utf-8")
    for given, sent in (
        ("魔搭 20 通义", "魔搭 20 通义"),
        ("词 " * 200, "词 " * 200),
        (str(listed), '{"魔搭": 20.0, "Alibaba Cloud": null}'),
    ):
        result = runner.invoke(
            app, ["transcribe", str(audio / "b.wav"), "--url", stub.url, "--hotwords", given]
        )
        assert (result.exit_code, result.stdout) == (0, "heard\n"), result.output
        assert stub.hotwords == sent
        assert "not listened for: 2." in result.stderr
    listed.write_text("魔搭 200\n", encoding="utf-8")
    result = runner.invoke(
        app, ["transcribe", str(audio / "b.wav"), "--url", stub.url, "--hotwords", str(listed)]
    )
    assert result.exit_code == 2
    assert "Line 1" in result.stderr


@pytest.mark.parametrize(("options", "model"), [([], "default"), (["--model", "qwen3-asr"], "qwen3-asr")])
def test_the_model_may_be_chosen(stub: Stub, audio: Path, options: list[str], model: str) -> None:
    result = runner.invoke(app, ["transcribe", str(audio / "b.wav"), "--url", stub.url, *options])
    assert result.exit_code == 0, result.output
    assert stub.model == model


def test_several_files_come_named_and_in_order(stub: Stub, audio: Path) -> None:
    files = [str(audio / name) for name in ("b.wav", "a.wav")]
    result = runner.invoke(app, ["transcribe", *files, "--url", f"{stub.url}/v1/"])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"{files[0]}: b.wav 300000 text none none",
        f"{files[1]}: a.wav 10 text none none",
    ]


TALK: dict[str, Any] = {
    "text": "今天好。hello. you?再见。",
    "segments": [
        {"speaker": "说话人1", "text": "今天好。"},
        {"speaker": "说话人1", "text": "hello."},
        {"speaker": "王芳", "text": "you?"},
        {"speaker": "说话人1", "text": "再见。"},
    ],
}
ONE = {"text": TALK["text"], "segments": [{"speaker": "说话人1", "text": "今天好。"}] * 2}
NOBODY = {"text": "", "segments": []}


@pytest.mark.parametrize(
    ("answer", "options", "asked", "shown"),
    [
        (
            TALK,
            ["--speakers"],
            ("verbose_json", "true", "none"),
            "[说话人1] 今天好。hello.\n[王芳] you?\n[说话人1] 再见。",
        ),
        (ONE, ["--speakers"], ("verbose_json", "true", "none"), TALK["text"]),
        (NOBODY, ["--num-speakers", "2"], ("verbose_json", "true", "2"), ""),
        (TALK, ["--no-speakers"], ("text", "false", "none"), None),
        (TALK, [], ("text", "none", "none"), None),
        (TALK, ["--speakers", "--format", "srt"], ("srt", "true", "none"), None),
    ],
)
def test_speakers_are_told_if_there_are_several(
    stub: Stub,
    tmp_path: Path,
    answer: dict[str, Any],
    options: list[str],
    asked: tuple[str, str, str],
    shown: str | None,
) -> None:
    """The stub says what it is sent."""
    talk = tmp_path / "talk.wav"
    talk.write_text(json.dumps(answer))
    result = runner.invoke(app, ["transcribe", str(talk), "--url", stub.url, *options])
    assert result.exit_code == 0, result.output
    assert stub.asked == asked
    assert result.stdout == (talk.read_text() if shown is None else shown) + "\n"


@pytest.mark.parametrize("options", [[], ["--format", "verbose_json"]])
def test_a_picture_is_drawn_from_the_same_answer(stub: Stub, tmp_path: Path, options: list[str]) -> None:
    talk, out = tmp_path / "talk.wav", tmp_path / "out.svg"
    times = [{"start": number, "end": number + 0.9} for number in range(4)]
    segments = [{**segment, **time} for segment, time in zip(TALK["segments"], times, strict=True)]
    talk.write_text(json.dumps({**TALK, "segments": segments, "duration": 5}))
    result = runner.invoke(
        app, ["transcribe", str(talk), "--url", stub.url, "--num-speakers", "2", "--plot", str(out), *options]
    )
    assert result.exit_code == 0, result.output
    assert stub.asked == ("verbose_json", "true", "2")
    assert "talk.wav (0:05)" in out.read_text()
    assert result.stdout.rstrip() == (
        talk.read_text() if options else "[说话人1] 今天好。hello.\n[王芳] you?\n[说话人1] 再见。"
    )


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        (["--speakers"], 1, "no transcript"),
        (["--plot", "out.gif"], 2, "out.gif"),
        (["--plot", "out.png", "--format", "srt"], 2, "not srt"),
        (["--plot", "out.png", "--no-speakers"], 2, "contradict"),
        (["--plot", "out.png"], 1, "no transcript"),
        (["--speakers", "--format", "json"], 2, "no place for speakers"),
        (["--no-speakers", "--num-speakers", "2"], 2, "contradict"),
        (["--num-speakers", "0"], 2, "--num-speakers"),
    ],
)
def test_speakers_that_cannot_be_told(
    stub: Stub, tmp_path: Path, options: list[str], status: int, reason: str
) -> None:
    (tmp_path / "talk.wav").write_text("nonsense")
    result = runner.invoke(app, ["transcribe", str(tmp_path / "talk.wav"), "--url", stub.url, *options])
    assert result.exit_code == status
    assert reason in " ".join(re.sub("[│╭╮╰╯─]", "", result.output).split())


def test_output_dir_gets_one_file_each(stub: Stub, audio: Path, tmp_path: Path) -> None:
    files = [str(audio / name) for name in ("a.wav", "a.mp3", "b.wav")]
    out = tmp_path / "out"
    result = runner.invoke(
        app, ["transcribe", *files, "--url", stub.url, "--format", "srt", "--output-dir", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "a.wav.srt": "a.wav 10 srt none none\n",
        "a.mp3.srt": "a.mp3 20 srt none none\n",
        "b.srt": "b.wav 300000 srt none none\n",
    }


def test_a_bad_file_is_named_and_the_others_go_on(stub: Stub, audio: Path) -> None:
    files = [str(audio / name) for name in ("bad.wav", "missing.wav", "a.wav")]
    result = runner.invoke(app, ["transcribe", *files, "--url", stub.url])
    assert result.exit_code == 1
    assert f"{files[0]}: This [file] is not audio. (HTTP 400)" in result.stderr
    assert f"{files[1]}: No such file or directory" in result.stderr
    assert result.stdout == f"{files[2]}: a.wav 10 text none none\n"


def test_a_busy_server_is_asked_again_with_the_whole_file(stub: Stub, audio: Path) -> None:
    result = runner.invoke(app, ["transcribe", str(audio / "busy.wav"), "--url", stub.url])
    assert result.exit_code == 0, result.output
    assert result.stdout == "busy.wav 7 text none none\n"
    assert stub.attempts["busy.wav"] == 3


def test_parallel_is_kept_to(stub: Stub, audio: Path) -> None:
    files = [str(audio / "a.wav")] * 12
    result = runner.invoke(app, ["transcribe", *files, "--url", stub.url, "--parallel", "2"])
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 12
    assert 1 <= stub.most_at_once <= 2


def test_key_from_the_environment(stub: Stub, audio: Path) -> None:
    arguments = ["transcribe", str(audio / "a.wav"), "--url", stub.url]
    result = runner.invoke(app, arguments, env={"API_KEY": KEY})
    assert result.stdout == f"a.wav 10 text none Bearer {KEY}\n"


def test_no_server() -> None:
    url = f"http://127.0.0.1:{free_port('127.0.0.1')}"
    for arguments in (["transcribe", __file__], ["models", "list"]):
        result = runner.invoke(app, [*arguments, "--url", url])
        assert result.exit_code == 1
        assert f"No server answers at {url}. Start one with `make serve`" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["a.wav", "b.wav", "--format", "vtt"], "need --output-dir"),
        (["x/a.wav", "y/a.wav", "--output-dir", "out"], "both write out/a.wav.txt"),
        (["a.wav", "--format", "docx"], "docx"),
    ],
)
def test_impossible_requests_are_refused_before_anything_is_sent(arguments: list[str], reason: str) -> None:
    result = runner.invoke(app, ["transcribe", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert reason in result.stderr


def test_models_list(stub: Stub) -> None:
    result = runner.invoke(app, ["models", "list", "--url", stub.url, "--api-key", KEY])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1].split() == ["paraformer-test", "asr-serve"]
    refused = runner.invoke(app, ["models", "list", "--url", stub.url])
    assert refused.exit_code == 1
    assert "The key is wrong. (HTTP 401)" in refused.stderr


def doctor(tmp_path: Path, args: dict[str, str], port: int) -> tuple[int, str]:
    config = tmp_path / "serve_config.yaml"
    application = {"name": "asr", "import_path": "serve_app.app:build", "args": args}
    document = {"http_options": {"host": "127.0.0.1", "port": port}, "applications": [application]}
    config.write_text(yaml.safe_dump(document))
    result = runner.invoke(app, ["doctor", "--config", str(config)])
    return result.exit_code, result.output


def test_doctor_looks_at_every_part(tmp_path: Path) -> None:
    _, output = doctor(tmp_path, {}, free_port("127.0.0.1"))
    names = ("Python", "packages", "cores", "memory", "disk", "CPU", "GPU", "audio", "config", "port 10095")
    assert all(any(name in line for line in output.splitlines()) for name in names), output


def test_doctor_finds_a_missing_model(tmp_path: Path) -> None:
    code, output = doctor(tmp_path, {"vad_model": str(tmp_path / "nowhere")}, free_port("127.0.0.1"))
    assert code == 1
    assert f"There is no model at {tmp_path / 'nowhere'}" in output
    assert "VAD_MODEL" in output


def test_doctor_finds_a_truncated_model(tmp_path: Path) -> None:
    model = tmp_path / "vad"
    model.mkdir()
    (model / "config.yaml").write_text("model: FsmnVADStreaming\n")
    (model / "model.pt").write_bytes(b"PK\x03\x04 cut off")
    code, output = doctor(tmp_path, {"vad_model": str(model)}, free_port("127.0.0.1"))
    assert code == 1
    assert "model.pt is damaged: it is cut off" in output


def test_doctor_tells_which_models_are_served(tmp_path: Path) -> None:
    port = free_port("127.0.0.1")
    _, output = doctor(tmp_path, {"enabled_models": "qwen3-asr-starter", "asr_enable_lm": "true"}, port)
    lines = [line.split(maxsplit=1) for line in output.splitlines()]
    assert ["ok", "served models               qwen3-asr-starter"] in lines
    assert any(line[0] == "note" and "ASR_ENABLE_LM" in line[1] for line in lines)
    # It needs neither of these.
    assert not any(line[1].startswith(("punctuation model", "paraformer streaming")) for line in lines)
    for name, problem in (("whisper-large-v3", "no engine for Whisper"), ("sensevoice-small", "models pull")):
        code, output = doctor(tmp_path, {"enabled_models": name}, port)
        assert (code, problem in output) == (1, True)


def test_doctor_finds_a_wrong_setting(tmp_path: Path) -> None:
    code, output = doctor(tmp_path, {"max_segment_sec": "1000"}, free_port("127.0.0.1"))
    assert code == 1
    assert "max_segment_sec: Input should be less than or equal to" in output


def test_doctor_looks_at_the_hotwords(tmp_path: Path) -> None:
    listed = tmp_path / "words.txt"
    listed.write_text("魔搭 20\n拨打 110\n", encoding="utf-8")
    code, output = doctor(tmp_path, {"hotwords_file": str(listed)}, free_port("127.0.0.1"))
    assert code == 1
    assert "hotwords_file" in output
    assert "Line 2" in output
    listed.write_text("魔搭 20\n通义\n", encoding="utf-8")
    _, output = doctor(tmp_path, {"hotwords_file": str(listed)}, free_port("127.0.0.1"))
    assert f"2 words in {listed}" in "".join(output.splitlines())


def test_doctor_finds_a_taken_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, output = doctor(tmp_path, {}, taken.getsockname()[1])
    assert code == 1
    assert "in use" in output


@pytest.mark.own_server
def test_two_servers_side_by_side_stop_without_a_trace(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    greetings = ["good morning", "good evening"]
    ports = [free_port("127.0.0.1") for _ in greetings]
    servers = [
        start(serve_config(tmp_path, f"app{index}", "build", greeting), port, mark)
        for index, (greeting, port) in enumerate(zip(greetings, ports, strict=True))
    ]
    try:
        urls = [wait_for(server, "Ready on ").split()[2] for server in servers]
        assert urls == [f"http://127.0.0.1:{port}" for port in ports]
        assert [httpx.get(url, trust_env=False).text for url in urls] == greetings
        servers[0].send_signal(signal.SIGINT)
        rest, _ = servers[0].communicate(timeout=60)
        assert httpx.get(urls[1], trust_env=False).text == greetings[1]
        servers[1].send_signal(signal.SIGTERM)
        rest += servers[1].communicate(timeout=60)[0]
        assert [server.returncode for server in servers] == [0, 0]
        assert "Traceback" not in rest
        assert processes_with(mark) == []
    finally:
        for server in servers:
            server.kill()


@pytest.mark.own_server
def test_what_still_runs_when_the_server_is_stopped_comes_to_its_end(tmp_path: Path) -> None:
    server = start(serve_config(tmp_path, "app", "build", "hello"), free_port("127.0.0.1"), uuid.uuid4().hex)
    try:
        url = wait_for(server, "Ready on ").split()[2]
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(httpx.get, url, params={"after": "4"}, trust_env=False, timeout=60)
            while not asked.running():
                time.sleep(0.1)
            time.sleep(1)
            server.send_signal(signal.SIGINT)
            wait_for(server, "Stopping. ")
            assert asked.result().text == "hello"
        server.communicate(timeout=60)
        assert server.returncode == 0
    finally:
        server.kill()


@pytest.mark.own_server
def test_a_changed_config_is_applied_while_the_server_runs(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    config = serve_config(tmp_path, "app", "build", "before")
    server = start(config, free_port("127.0.0.1"), mark)
    try:
        # Told so while it still starts, it does so when it has.
        wait_for(server, "Greeter is ready.")
        serve_config(tmp_path, "app", "build", "then")
        server.send_signal(signal.SIGHUP)
        url = wait_for(server, "Ready on ").split()[2]
        wait_for(server, "The config was read again and applied.")
        assert httpx.get(url, trust_env=False).text == "then"
        config.write_text("applications: [")
        server.send_signal(signal.SIGHUP)
        assert "is not a Serve config" in wait_for(server, "The config was not applied.")
        assert httpx.get(url, trust_env=False).text == "then"
        serve_config(tmp_path, "app", "build", "after")
        server.send_signal(signal.SIGHUP)
        wait_for(server, "The config was read again and applied.")
        assert httpx.get(url, trust_env=False).text == "after"
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
        assert server.returncode == 0
        assert processes_with(mark) == []
    finally:
        server.kill()


@pytest.mark.own_server
def test_a_graph_that_cannot_be_built_ends_the_command(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    server = start(serve_config(tmp_path, "app", "build_broken", "greeting"), 0, mark)
    try:
        output, _ = server.communicate(timeout=120)
        assert server.returncode == 1
        assert "app cannot start" in output
        assert "there is no greeting" in output
        assert processes_with(mark) == []
    finally:
        server.kill()


def test_serve_refuses_a_taken_port(tmp_path: Path) -> None:
    config = serve_config(tmp_path, "app", "build", "hello")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = runner.invoke(app, ["serve", "--config", str(config), "--port", str(port)])
    assert result.exit_code == 1
    assert f"Port {port} is in use. Choose another one" in result.stderr


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "There is no"), ("applications: [", "is not a Serve config"), ("{}", "is not a Serve config")],
)
def test_serve_refuses_a_bad_config(tmp_path: Path, content: str | None, reason: str) -> None:
    config = tmp_path / "config.yaml"
    if content is not None:
        config.write_text(content)
    result = runner.invoke(app, ["serve", "--config", str(config)])
    assert result.exit_code == 1
    assert reason in result.stderr


def test_verbose_json_goes_to_a_json_file(stub: Stub, audio: Path, tmp_path: Path) -> None:
    result = runner.invoke(
        app,
        ["transcribe", str(audio / "a.wav"), "--url", stub.url, "-f", "verbose_json", "-o", str(tmp_path)],
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a.json").read_text() == "a.wav 10 verbose_json none none\n"
