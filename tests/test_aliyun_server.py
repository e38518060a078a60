"""Aliyun's and FunASR's HTTP protocols over real sockets: clients as they are, and documented examples."""

import asyncio
import http.client
import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
import uvicorn

from serve_app.settings import Settings
from tests import audio_files
from tests.aliyun_world import TEXTS, build, said
from tests.conftest import ROOT, SAMPLES, load_samples

pytestmark = pytest.mark.server

EXAMPLES = re.findall(
    r"^```sh\n(.*?)^```$", (ROOT / "docs" / "aliyun.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)
HEADER = 44
"""Bytes of the header of the samples."""


def transcript(name: str) -> str:
    return next(sample.text for sample in load_samples() if sample.path.name == name)


def written(name: str) -> str:
    return next(sample.written for sample in load_samples() if sample.path.name == name)


def like_xiaozhi(url: str, audio: bytes) -> tuple[int, dict[str, Any]]:
    """Ask as xiaozhi's provider ``aliyun`` does: the whole URL as the request target, PCM labelled WAV."""
    address = urlsplit(url)
    query = "appkey=app&format=wav&sample_rate=16000&enable_punctuation_prediction=true"
    query += "&enable_inverse_text_normalization=false&enable_voice_detection=false"
    headers = {
        "X-NLS-Token": "some-token",
        "Content-type": "application/octet-stream",
        "Content-Length": str(len(audio)),
    }
    connection = http.client.HTTPConnection(address.netloc, timeout=60)
    try:
        connection.request("POST", f"{url}/stream/v1/asr?{query}", body=audio, headers=headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_xiaozhi_is_served(server_url: str) -> None:
    status, body = like_xiaozhi(server_url, (SAMPLES / "travel.wav").read_bytes()[HEADER:])
    assert status == 200
    assert body["status"] == 20000000
    assert body["result"] == transcript("travel.wav")


def test_a_target_with_another_host_is_the_same_place(server_url: str) -> None:
    """Behind an edge, the target keeps the host that the client's code has in it."""
    address = urlsplit(server_url)
    audio = (SAMPLES / "home.wav").read_bytes()
    head = (
        "POST https://nls-gateway-cn-shanghai.aliyuncs.com/stream/v1/asr?appkey=a HTTP/1.1\r\n"
        "Host: nls-gateway-cn-shanghai.aliyuncs.com\r\nConnection: close\r\n"
        f"Content-Length: {len(audio)}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(head.encode() + audio)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    header, _, body = answer.partition(b"\r\n\r\n")
    assert header.startswith(b"HTTP/1.1 200")
    task_id = json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])["task_id"]
    assert f"\r\ntask_id: {task_id}".encode() in header


def test_the_pieces_are_wired_together(server_url: str) -> None:
    """Both telephone channels, health, models and the index, on the real service."""
    left, right = (read(SAMPLES / name) for name in ("home.wav", "travel.wav"))
    content = audio_files.wav(side_by_side(left, right), 16_000)
    query = "first_channel_only=false&appkey=x"
    result = curl(f"{server_url}/stream/v1/FlashRecognizer?{query}", "--data-binary", "@-", data=content)
    sentences = result["flash_result"]["sentences"]
    for channel, name in enumerate(("home.wav", "travel.wav")):
        text = "".join(item["text"] for item in sentences if item["channel_id"] == channel)
        assert text == transcript(name)
    assert curl(f"{server_url}/stream/v1/asr/health")["status"] == "healthy"
    assert curl(f"{server_url}/stream/v1/asr/models")["loaded_count"] == 2
    assert curl(f"{server_url}/health")["status"] == "ok"
    assert curl(f"{server_url}/")["endpoints"]


def read(path: Path) -> audio_files.Samples:
    samples: audio_files.Samples = soundfile.read(path, dtype="float32")[0]
    return samples


def side_by_side(left: audio_files.Samples, right: audio_files.Samples) -> audio_files.Samples:
    length = max(len(left), len(right))
    return np.stack([np.pad(channel, (0, length - len(channel))) for channel in (left, right)], axis=1)


def curl(url: str, *arguments: str, data: bytes | None = None) -> dict[str, Any]:
    result = subprocess.run(["curl", "-sS", url, *arguments], input=data, capture_output=True, check=True)
    body: dict[str, Any] = json.loads(result.stdout)
    return body


@contextmanager
def tones() -> Iterator[str]:
    """The address of a server over tones, with the recording that the documents name behind its URL."""
    app, here = build(Settings())
    here.fetcher.files["https://files.example.com/call.wav"] = audio_files.wav(said(400), 16_000)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: re.sub(r"\W+", "-", text)[:40])
def test_examples_of_the_document(example: str, server_url: str) -> None:
    if "files.example.com" in example:
        with tones() as address:
            check_by_address(run(example, address))
    else:
        check(example, run(example, server_url.removeprefix("http://")))


def run(example: str, address: str) -> dict[str, Any]:
    script = example.replace("localhost:8000", address)
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    body: dict[str, Any] = json.loads(result.stdout)
    return body


def check_by_address(body: dict[str, Any]) -> None:
    if "TaskId" in body:
        assert (body["StatusText"], body["StatusCode"]) == ("SUCCESS", 21050000)
    else:
        assert body["result"] == TEXTS[400]


def check(example: str, body: dict[str, Any]) -> None:
    """An example recognizes a sample; numbers are in digits unless an appkey says otherwise."""
    if "FlashRecognizer" in example:
        text = "".join(item["text"] for item in body["flash_result"]["sentences"])
        assert text == transcript("travel.wav")
    elif "appkey" in example:
        assert body["result"] == transcript("home.wav")
    else:
        assert body.get("result", body.get("text")) == written("home.wav")


def test_a_recording_inside_of_the_servers_network_is_not_fetched(server_url: str) -> None:
    """The whole way of an order, to an end that shows why."""
    task = json.dumps({"appkey": "x", "file_link": f"{server_url}/healthz"})
    order = curl(f"{server_url}/", "-d", "Action=SubmitTask", "--data-urlencode", f"Task={task}")
    assert order["StatusText"] == "SUCCESS"
    look = f"{server_url}/?Action=GetTaskResult&TaskId={order['TaskId']}"
    for _ in range(300):
        body = curl(look)
        if body["StatusCode"] not in (21050001, 21050002):
            break
        time.sleep(0.2)
    assert (body["StatusText"], body["StatusCode"]) == ("FILE_DOWNLOAD_FAILED", 41050002)
    assert body["Message"]
