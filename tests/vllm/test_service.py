"""The whole service with Qwen3-ASR in vLLM: files, live speech, and processes that die under it."""

import concurrent.futures
import json
import threading
import time
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from typing import Any

import httpx
import psutil
import pytest
from openai import OpenAI
from websockets.sync.client import connect

from benchmarks.live_server import LiveServer, live_server
from tests.conftest import Sample
from tests.vllm.cases import MODEL, sample

PACKET = 3200
"""Bytes: 100 ms."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    settings = {
        "QWEN3_ENGINE": "vllm",
        "QWEN3_MODEL": str(MODEL),
        "QWEN3_MEMORY": "256MB",
        "SPEAKER_MODEL": "none",
        "DEVICE": "cpu",
    }
    log = tmp_path_factory.mktemp("service") / "server.log"
    with live_server(log, env={"RAY_TMPDIR": "/tmp", **settings}, start_seconds=400) as running:
        yield running
        processes = vllm_processes(running)
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []


def vllm_processes(server: LiveServer) -> list[psutil.Process]:
    return [process for process in server.processes() if name(process).startswith("VLLM::")]


def name(process: psutil.Process) -> str:
    try:
        return process.cmdline()[0]
    except (psutil.Error, IndexError):
        return ""


def transcribe(server: LiveServer, one: Sample) -> dict[str, Any]:
    response = httpx.post(
        server.url + "/v1/audio/transcriptions",
        data={"model": "qwen3-asr", "response_format": "verbose_json"},
        files={"file": one.path.read_bytes()},
        timeout=180,
    )
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def similarity(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()


def test_files_by_the_official_sdk(service: LiveServer, samples: list[Sample]) -> None:
    client = OpenAI(base_url=service.url + "/v1", api_key="unused")
    assert "qwen3-asr-starter" in [model.id for model in client.models.list()]
    for one in samples:
        heard = client.audio.transcriptions.create(
            model="qwen3-asr",
            file=one.path,
            response_format="verbose_json",
            timestamp_granularities=["word"],
        )
        assert heard.language == "zh"
        assert similarity(heard.text, one.written) > 0.6, (heard.text, one.written)
        assert heard.words
        assert all(0 <= word.start <= word.end <= float(heard.duration) for word in heard.words)


def test_live_speech(service: LiveServer, samples: list[Sample]) -> None:
    (spoken,) = [one.text for one in samples if one.path.stem == "travel"]
    pcm = sample("travel").tobytes()
    messages: list[dict[str, Any]] = []
    with connect(service.url.replace("http", "ws") + "/ws/v1/asr/qwen") as socket:
        socket.send(json.dumps({"type": "start", "payload": {"format": "pcm", "chunk_size_sec": 1.0}}))
        for begin in range(0, len(pcm), PACKET):
            socket.send(pcm[begin : begin + PACKET])
            time.sleep(0.02)  # five times as fast as one speaks
        socket.send(json.dumps({"type": "stop"}))
        while not messages or messages[-1]["type"] != "final":
            messages.append(json.loads(socket.recv(timeout=120)))
    assert messages[0]["type"] == "started"
    assert any(message["type"] == "result" and message["results"][0]["text"] for message in messages)
    assert messages[-1]["result"]["language"] == "Chinese"
    assert similarity(messages[-1]["result"]["full_text"], spoken) > 0.6


def test_a_killed_engine_loses_no_request(service: LiveServer, samples: list[Sample]) -> None:
    stop = threading.Event()
    failures: list[str] = []
    done = 0

    def load(index: int) -> None:
        nonlocal done
        one = samples[index % len(samples)]
        usual = transcribe(service, one)["text"]
        while not stop.is_set():
            answer = transcribe(service, one)
            if answer["text"] != usual:
                failures.append(answer["text"])
            done += 1

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(load, index) for index in range(4)]
        wait_until(lambda: done >= 8 or any(client.done() for client in clients))
        replicas = service.replicas("Qwen3ASR")
        victims = vllm_processes(service)
        next(victim for victim in victims if "EngineCore" in name(victim)).kill()
        seen = done
        wait_until(lambda: done >= seen + 8 or any(client.done() for client in clients))
        stop.set()
        for client in clients:
            client.result()
    assert failures == []
    assert not any(victim.is_running() for victim in victims)
    assert {process.pid for process in service.replicas("Qwen3ASR")}.isdisjoint(one.pid for one in replicas)


def test_a_killed_replica_takes_its_engine_along(service: LiveServer) -> None:
    """Else the model, and the memory of its GPU, would be held for ever."""
    orphans = vllm_processes(service)
    for replica in service.replicas("Qwen3ASR"):
        replica.kill()
    _, alive = psutil.wait_procs(orphans, timeout=30)
    assert alive == []


def wait_until(condition: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing more happens"
        time.sleep(0.05)
