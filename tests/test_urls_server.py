"""Recordings by URL through the live server, from an address that it may fetch from."""

import functools
import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from benchmarks.live_server import LiveServer
from tests.conftest import REACHABLE, SAMPLES, Sample

pytestmark = pytest.mark.server


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves the samples, and nothing to the terminal."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        pass


@pytest.fixture(scope="module")
def files() -> Iterator[str]:
    handler = functools.partial(Files, directory=str(SAMPLES))
    with http.server.ThreadingHTTPServer((REACHABLE["ALLOW_PRIVATE_URLS"], 0), handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://{REACHABLE['ALLOW_PRIVATE_URLS']}:{serving.server_port}"
        serving.shutdown()
        thread.join()


@pytest.fixture
def sample(samples: list[Sample]) -> Sample:
    return next(sample for sample in samples if sample.path.name == "travel.wav")


def test_openai(server: LiveServer, files: str, sample: Sample) -> None:
    data = {"audio_address": f"{files}/travel.wav", "response_format": "json"}
    response = httpx.post(f"{server.url}/v1/audio/transcriptions", data=data, timeout=60)
    assert response.json()["text"] == sample.written


def test_one_sentence(server: LiveServer, files: str, sample: Sample) -> None:
    query = {"audio_address": f"{files}/travel.wav", "enable_punctuation_prediction": "true", "appkey": "any"}
    for method in ("GET", "POST"):
        response = httpx.request(method, f"{server.url}/stream/v1/asr", params=query, timeout=60)
        assert (response.json()["status"], response.json()["result"]) == (20000000, sample.text)


def test_file_transcription(server: LiveServer, files: str, sample: Sample) -> None:
    task = {
        "appkey": "any",
        "file_link": f"{files}/travel.wav",
        "version": "4.0",
        "enable_words": True,
        "enable_inverse_text_normalization": True,
    }
    query = {"Action": "SubmitTask", "Version": "2018-08-17"}
    submitted = httpx.post(server.url, params=query, data={"Task": json.dumps(task)}).json()
    assert (submitted["StatusText"], submitted["StatusCode"]) == ("SUCCESS", 21050000)
    answer = wait_for(server, submitted["TaskId"])
    assert answer["StatusText"] == "SUCCESS"
    result = answer["Result"]
    assert "".join(sentence["Text"] for sentence in result["Sentences"]) == sample.written
    assert result["Words"]
    assert answer["BizDuration"] > 4000


def wait_for(server: LiveServer, task: str) -> dict[str, Any]:
    """The task's answer once it neither waits nor runs."""
    answer: dict[str, Any] = {}
    for _ in range(300):
        answer = httpx.get(server.url, params={"Action": "GetTaskResult", "TaskId": task}).json()
        if answer["StatusText"] not in ("QUEUEING", "RUNNING"):
            break
        time.sleep(0.2)
    return answer


def test_job(server: LiveServer, files: str, sample: Sample) -> None:
    job = httpx.post(f"{server.url}/v1/jobs", json={"url": f"{files}/travel.wav"}).json()
    with httpx.stream("GET", f"{server.url}/v1/jobs/{job['id']}/events", timeout=60) as events:
        assert "event: completed" in [*events.iter_lines()]
    result = httpx.get(f"{server.url}/v1/jobs/{job['id']}/result", params={"response_format": "text"})
    assert result.text == sample.written + "\n"


def test_small_servers_of_funasr(server: LiveServer, sample: Sample) -> None:
    audio = sample.path.read_bytes()
    recognition = httpx.post(f"{server.url}/recognition", files={"audio": audio}, timeout=60).json()
    assert (recognition["text"], recognition["code"]) == (sample.written, 0)
    asr = httpx.post(f"{server.url}/asr", files={"file": ("a.wav", audio)}, timeout=60).json()
    assert "".join(segment["text"] for segment in asr["segments"]) == asr["text"] == sample.written
    offline = httpx.post(f"{server.url}/", files={"file": ("a.wav", audio)}, timeout=60).json()
    assert (offline["mode"], offline["text"]) == ("offline", sample.written)
