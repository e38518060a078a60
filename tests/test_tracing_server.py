"""Traces across processes: the live server traces all requests to a file (see ``server`` in conftest)."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from benchmarks.live_server import LiveServer
from tests.conftest import SAMPLES
from tests.traces import Span, client_span, whole_trace

pytestmark = pytest.mark.server

RECORDING = SAMPLES / "home.wav"
CALL = ("queue", "batch")
FILE = 16
"""Spans of a file without speakers: the request, decode, vad, recognition, punctuation, finishing and answer;
each of the three calls has one where it is worked on, with its wait and its batch."""
LIVE = 11
"""Of a session with one sentence: connection, session, sentence, and two calls."""


def traces(server: LiveServer) -> Path:
    return server.log.parent / "data" / "traces.jsonl"


def below(spans: list[Span], *path: str) -> Counter[str]:
    """What lies directly under a path of names."""
    return Counter(span.name for span in spans if span.path[:-1] == path)


async def transcribe(server: LiveServer, header: str, request_id: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
        return await client.post(
            "/v1/audio/transcriptions",
            files={"file": RECORDING.read_bytes()},
            data={"enable_speaker_diarization": "false"},
            headers={"traceparent": header, "x-request-id": request_id},
        )


def check_file(spans: list[Span], request_id: str, others: set[str]) -> None:
    """One whole trace of a file, in which nothing is of another request."""
    root = spans[0].name
    assert root == "POST /v1/audio/transcriptions"
    assert len(spans) == FILE
    assert below(spans, root) == Counter(
        ["decode", "vad", "recognition", "punctuation", "finishing", "answer"]
    )
    for stage, call, deployment in (
        ("vad", "Vad.detect", "Vad"),
        ("recognition", "Paraformer.transcribe", "Paraformer"),
        ("punctuation", "Punctuation.punctuate", "Punctuation"),
    ):
        assert below(spans, root, stage) == Counter([call])
        assert below(spans, root, stage, call) == Counter(CALL)
        (served,) = [span for span in spans if span.name == call]
        assert served.deployment == deployment
    assert {span.attributes.get("asr.request_id", request_id) for span in spans} == {request_id}
    for batch in (span for span in spans if span.name == "batch"):
        assert set(batch.links) <= others
        assert len(batch.links) <= batch.attributes["asr.batch.items"] - 1


async def test_each_of_many_files_is_one_trace_through_all_processes(server: LiveServer) -> None:
    clients = {f"file-{number}": client_span(0xF11E00 + number) for number in range(6)}
    answers = await asyncio.gather(*(transcribe(server, of[1], name) for name, of in clients.items()))
    ids = {trace_id for trace_id, _ in clients.values()}
    for answer, (name, (trace_id, _)) in zip(answers, clients.items(), strict=True):
        assert answer.headers["x-request-id"] == name
        spans = await asyncio.to_thread(whole_trace, traces(server), trace_id, FILE)
        check_file(spans, name, ids - {trace_id})
        assert spans[0].parent == "00000000000000aa"
        assert spans[0].attributes["asr.audio_seconds"] == pytest.approx(3.33, abs=0.01)


async def test_a_live_session_is_one_trace_with_its_sentences(server: LiveServer) -> None:
    trace_id, header = client_span(0x11FE)
    address = server.url.replace("http", "ws") + "/"
    headers = {"traceparent": header, "x-request-id": "live-one"}
    async with connect(address, additional_headers=headers) as socket:
        await socket.send(json.dumps({"mode": "2pass", "wav_name": "a", "is_speaking": True}))
        await socket.send(RECORDING.read_bytes()[44:])
        await socket.send(json.dumps({"is_speaking": False}))
        while not json.loads(await asyncio.wait_for(socket.recv(), 30))["is_final"]:
            pass
    spans = await asyncio.to_thread(whole_trace, traces(server), trace_id, LIVE)
    assert len(spans) == LIVE
    assert below(spans) == Counter(["WS /"])
    assert below(spans, "WS /") == Counter(["session"])
    assert below(spans, "WS /", "session") == Counter(["sentence"])
    assert below(spans, "WS /", "session", "sentence") == Counter(["recognition", "punctuation"])
    assert {span.attributes.get("asr.request_id", "live-one") for span in spans} == {"live-one"}
    assert spans[0].attributes["asr.protocol"] == "funasr"
    for said in ("音", "\\u97f3"):
        assert said not in traces(server).read_text(encoding="utf-8")


async def test_a_job_goes_on_with_the_trace_of_its_order(server: LiveServer) -> None:
    trace_id, header = client_span(0x10B)
    async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
        files, data = {"file": RECORDING.read_bytes()}, {"enable_speaker_diarization": "false"}
        order = await client.post("/v1/jobs", files=files, data=data, headers={"traceparent": header})
        job = order.json()["id"]
        assert "completed" in (await client.get(f"/v1/jobs/{job}/events")).text
    spans = await asyncio.to_thread(whole_trace, traces(server), trace_id, FILE)
    assert spans[0].name == "POST /v1/jobs"
    assert spans[0].attributes["asr.job_id"] == job
    assert below(spans, "POST /v1/jobs") == Counter(["job"])
    (attempt,) = [span for span in spans if span.name == "job"]
    assert attempt.attributes["asr.request_id"] == job
    assert attempt.attributes["asr.status"] == "completed"
    stages = ("decode", "vad", "recognition", "punctuation", "finishing")
    assert below(spans, "POST /v1/jobs", "job") == Counter(stages)
