"""The routes of jobs: what they take, what they answer, and what they refuse."""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serve_app.audio.decode import RawPcm
from serve_app.jobs.types import JobError, JobSpec, JobStatus, Webhook
from serve_app.jobs.webhook import signature
from serve_app.pipeline.finishing import Correction
from tests import audio_files
from tests.conftest import Sample
from tests.memory_jobs import BEGIN_EPOCH, MemoryJobs, app_of, sentence

ROOT = Path(__file__).parents[1]
WAV = audio_files.wav(np.full(16_000, 0.1, np.float32), 16_000)
URL = "https://files.example/calls/a.mp3?X-Signature=hidden#t=1"


@asynccontextmanager
async def client_of(jobs: MemoryJobs, **configured: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app_of(jobs, **configured), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def upload(client: httpx.AsyncClient, data: Any = None, **headers: str) -> httpx.Response:
    file = {"file": ("calls/one.wav", WAV)}
    return await client.post("/v1/jobs", files=file, data=data or {}, headers=headers)


def error(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()["error"]
    assert found["message"].endswith(".")
    return found


async def test_an_upload_becomes_a_job() -> None:
    jobs = MemoryJobs()
    async with client_of(jobs) as client:
        response = await upload(client, {"metadata[customer]": "42", "response_format": "srt"})
    assert response.status_code == 202
    assert response.headers["location"] == "/v1/jobs/job_1"
    assert response.json() == {
        "id": "job_1",
        "object": "transcription.job",
        "status": "queued",
        "created_at": BEGIN_EPOCH,
        "started_at": None,
        "finished_at": None,
        "expires_at": None,
        "progress": {"seconds_done": 0.0, "seconds_total": None, "fraction": None},
        "error": None,
        "filename": "one.wav",
        "url": None,
        "channels": "mix",
        "metadata": {"customer": "42"},
        "response_format": "srt",
        "links": {
            "self": "/v1/jobs/job_1",
            "result": "/v1/jobs/job_1/result",
            "events": "/v1/jobs/job_1/events",
            "cancel": "/v1/jobs/job_1/cancel",
        },
    }
    assert jobs.kept["job_1"].recording == WAV


async def test_all_options_reach_the_job() -> None:
    jobs, body = (
        MemoryJobs(),
        {
            "url": URL,
            "language": "zh-CN",
            "itn": False,
            "punctuation": False,
            "drop_fillers": True,
            "corrections": ["北晶=>北京"],
            "keywords": ["Kubernetes"],
            "chunking_strategy": {"type": "server_vad", "silence_duration_ms": 500},
            "timestamp_granularities": ["word"],
            "channels": "split",
            "webhook_url": "https://hooks.example/x",
            "webhook_secret": "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQ=",
            "metadata": {"a": "b"},
            "prompt": None,
        },
    )
    async with client_of(jobs) as client:
        shown = (await client.post("/v1/jobs", json=body)).json()
    spec = jobs.kept["job_1"].job.spec
    options = spec.options
    assert (options.language, options.end_silence_ms) == ("zh", 500)
    assert (options.text.itn, options.text.punctuation, options.text.drop_fillers) == (False, False, True)
    assert options.text.corrections == (Correction("北晶", "北京"),)
    assert [word.text for word in options.hotwords] == ["Kubernetes"]
    assert spec.url == URL
    assert spec.webhook == Webhook("https://hooks.example/x", str(body["webhook_secret"]))
    assert spec.split_channels
    assert spec.protocol == "jobs"
    assert jobs.kept["job_1"].recording is None
    assert shown["url"] == "https://files.example/calls/a.mp3"
    assert "hidden" not in json.dumps(shown)
    assert "whsec" not in json.dumps(shown)
    assert shown["response_format"] == "verbose_json"
    assert shown["metadata"] == {"a": "b"}


@pytest.mark.parametrize(
    "request_",
    [
        {"json": {"audio_address": URL}},
        {"json": {"audio_url": URL}},
        {"data": {"url": URL}},
        {"files": {"url": (None, URL), "metadata": (None, '{"a": "b"}')}},
    ],
    ids=["audio_address", "audio_url", "urlencoded", "multipart"],
)
async def test_a_url_may_come_in_many_ways(request_: dict[str, Any]) -> None:
    jobs = MemoryJobs()
    async with client_of(jobs) as client:
        assert (await client.post("/v1/jobs", **request_)).status_code == 202
    assert jobs.kept["job_1"].job.spec.url == URL


async def test_pcm_without_a_header() -> None:
    jobs = MemoryJobs()
    async with client_of(jobs) as client:
        form = {"format": "pcm", "sample_rate": "8000"}
        response = await client.post("/v1/jobs", files={"file": ("a", b"\1\0" * 8000)}, data=form)
    assert response.status_code == 202
    assert jobs.kept["job_1"].job.spec.options.raw == RawPcm(8000)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"url": "ftp://files.example/a.wav"}, "url"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"url": "gopher://files.example/"}, "url"),
        ({"url": "data:audio/wav;base64,AAAA"}, "url"),
        ({"url": "https://"}, "url"),
        ({"url": "https://user:password@files.example/a.wav"}, "url"),
        ({"url": "https://a.example/\x00"}, "url"),
        ({"url": "https://a.example/" + "a" * 8192}, "url"),
        ({"url": URL, "audio_url": "https://other.example/"}, "url"),
        ({}, "url"),
        ({"url": None}, "url"),
        ({"url": URL, "webhook_url": "ssh://hooks.example"}, "webhook_url"),
        ({"url": URL, "webhook_secret": "a long enough secret"}, "webhook_url"),
        (
            {"url": URL, "webhook_url": "https://hooks.example", "webhook_secret": "short"},
            "webhook_secret",
        ),
        ({"url": URL, "response_format": "docx"}, "response_format"),
        ({"url": URL, "language": "tlh"}, "language"),
        ({"url": URL, "channels": "left"}, "channels"),
        ({"url": URL, "stream": True}, "stream"),
        ({"url": URL, "itn": "perhaps"}, "itn"),
        ({"url": URL, "temperature": 7}, "temperature"),
        ({"url": URL, "corrections": ["no arrow"]}, "corrections"),
        ({"url": URL, "metadata": "no object"}, "metadata"),
        ({"url": URL, "metadata": {"a": 1}}, "metadata[a]"),
        ({"url": URL, "metadata": {"a": "b" * 513}}, "metadata[a]"),
        ({"url": URL, "metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"url": URL, "metadata": {"a": "b"}, "metadata[c]": "d"}, "metadata"),
        (
            {"url": URL, "chunking_strategy": {"type": "server_vad", "silence_duration_ms": 9}},
            "chunking_strategy[silence_duration_ms]",
        ),
    ],
)
async def test_what_is_wrong_is_told_at_once(fields: dict[str, Any], param: str) -> None:
    jobs = MemoryJobs()
    async with client_of(jobs) as client:
        found = error(await client.post("/v1/jobs", json=fields), 400)
    assert found["param"] == param
    assert found["type"] == "invalid_request_error"
    assert "password" not in found["message"] or "user name" in found["message"]
    assert jobs.kept == {}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b'{"url": NaN}', "application/json"),
        (b'{"url": "\\ud800"}', "application/json"),
        (b'{"url": ' + b"[" * 100_000, "application/json"),
        (b"\xff", "application/json; charset=utf-8"),
        (WAV, "audio/wav"),
        (WAV, ""),
        (b"--x", "multipart/form-data"),
    ],
)
async def test_bodies_that_cannot_be_read(content: bytes, kind: str) -> None:
    async with client_of(MemoryJobs()) as client:
        error(await client.post("/v1/jobs", content=content, headers={"content-type": kind}), 400)


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"", "invalid_audio"), (b"%PDF-1.7", "invalid_audio"), (b"FLV" + b"\1" * 40, "unsupported_format")],
)
async def test_files_that_hold_no_audio(data: bytes, code: str) -> None:
    jobs = MemoryJobs()
    async with client_of(jobs) as client:
        assert error(await client.post("/v1/jobs", files={"file": ("a.wav", data)}), 400)["code"] == code
    assert jobs.kept == {}


async def test_a_recording_is_sent_once_and_as_a_file() -> None:
    async with client_of(MemoryJobs()) as client:
        assert error(await upload(client, {"url": URL}), 400)["param"] == "url"
        empty = await client.post("/v1/jobs", files={"language": (None, "zh")})
        assert error(empty, 400)["param"] == "file"
        text = await client.post("/v1/jobs", files={"file": (None, "text")})
        assert error(text, 400)["param"] == "file"


async def test_too_much_and_too_long() -> None:
    async with client_of(MemoryJobs(), max_audio_size="1MB", max_audio_duration_sec=0.5) as client:
        assert error(await upload(client), 413)["code"] == "audio_too_large"
        big = await client.post("/v1/jobs", files={"file": ("a.wav", b"x" * (3 << 20))})
        assert error(big, 413)["code"] == "audio_too_large"
        body = json.dumps({"url": URL, "prompt": "x" * (2 << 20)})
        headers = {"content-type": "application/json"}
        error(await client.post("/v1/jobs", content=body, headers=headers), 413)


async def test_the_same_key_gives_the_same_job() -> None:
    jobs = MemoryJobs()
    async with client_of(jobs) as client:
        first = await upload(client, **{"idempotency-key": "k1"})
        again = await upload(client, **{"idempotency-key": "k1"})
        assert (first.status_code, again.status_code) == (202, 200)
        assert first.json() == again.json()
        assert again.headers["location"] == "/v1/jobs/job_1"
        other = await upload(client, {"itn": "false"}, **{"idempotency-key": "k1"})
        assert error(other, 409)["code"] == "conflict"
        assert (await upload(client, **{"idempotency-key": "k2"})).json()["id"] == "job_2"
        bad = error(await upload(client, **{"idempotency-key": "k" * 256}), 400)
        assert bad["param"] == "idempotency-key"
    assert len(jobs.kept) == 2


async def test_a_full_queue() -> None:
    async with client_of(MemoryJobs(max_jobs=1)) as client:
        assert (await upload(client)).status_code == 202
        refused = await upload(client)
        assert error(refused, 429)["code"] == "overloaded"
        assert refused.headers["retry-after"] == "30"


async def test_pages() -> None:
    jobs = MemoryJobs()
    async with client_of(jobs) as client:
        assert (await client.get("/v1/jobs")).json() == {
            "object": "list",
            "data": [],
            "first_id": None,
            "last_id": None,
            "has_more": False,
        }
        for _ in range(5):
            await upload(client)
        jobs.end("job_4", JobStatus.COMPLETED)
        page = (await client.get("/v1/jobs", params={"limit": 2})).json()
        assert [page["first_id"], page["last_id"], page["has_more"]] == ["job_5", "job_4", True]
        page = (await client.get("/v1/jobs", params={"limit": 3, "after": "job_4"})).json()
        assert [job["id"] for job in page["data"]] == ["job_3", "job_2", "job_1"]
        assert not page["has_more"]
        completed = (await client.get("/v1/jobs", params={"status": "completed"})).json()
        assert [job["id"] for job in completed["data"]] == ["job_4"]
        for query, param in [
            ({"limit": "0"}, "limit"),
            ({"limit": "101"}, "limit"),
            ({"limit": "many"}, "limit"),
            ({"status": "lost"}, "status"),
            ({"after": "job_9"}, "after"),
        ]:
            assert error(await client.get("/v1/jobs", params=query), 400)["param"] == param


ROUTES = [
    ("GET", "/v1/jobs/{}"),
    ("GET", "/v1/jobs/{}/result"),
    ("GET", "/v1/jobs/{}/events"),
    ("POST", "/v1/jobs/{}/cancel"),
    ("DELETE", "/v1/jobs/{}"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_nobody_sees_the_jobs_of_others(method: str, path: str) -> None:
    jobs = MemoryJobs()
    strangers, _ = await jobs.submit("another", JobSpec(url=URL))
    aliyuns, _ = await jobs.submit("anybody", JobSpec(url=URL, protocol="aliyun"))
    async with client_of(jobs) as client:
        for job_id in (strangers.id, aliyuns.id, "none"):
            found = error(await client.request(method, path.format(job_id)), 404)
            assert found["code"] == "not_found"
        assert (await client.get("/v1/jobs")).json()["data"] == []
    assert len(jobs.kept) == 2
    assert not any(kept.job.status.is_final for kept in jobs.kept.values())


@pytest.mark.parametrize(("method", "path"), [*ROUTES, ("POST", "/v1/jobs"), ("GET", "/v1/jobs")])
async def test_without_the_key_there_is_nothing(method: str, path: str) -> None:
    jobs = MemoryJobs()
    async with client_of(jobs, api_key="right-key") as client:
        job_id = (await upload(client, authorization="Bearer right-key")).json()["id"]
        refused = error(await client.request(method, path.format(job_id)), 401)
        assert refused["type"] == "authentication_error"
        assert "right-key" not in json.dumps(refused)


async def finished(jobs: MemoryJobs, client: httpx.AsyncClient, data: Any = None) -> str:
    job_id: str = (await upload(client, data)).json()["id"]
    jobs.run(job_id, done=1.0, say="今天好")
    jobs.run(job_id, done=6.0, say="明天见")
    jobs.run(job_id, done=10.0)
    jobs.end(job_id, JobStatus.COMPLETED)
    return job_id


async def test_results_come_in_all_formats() -> None:
    jobs = MemoryJobs()
    async with client_of(jobs) as client:
        path = f"/v1/jobs/{await finished(jobs, client)}/result"

        async def get(**query: Any) -> httpx.Response:
            response = await client.get(path, params=query)
            assert response.status_code == 200, response.text
            assert response.headers["x-job-status"] == "completed"
            return response

        assert (await get()).json()["text"] == "今天好。明天见。"
        assert (await get(response_format="text")).text == "今天好。明天见。\n"
        srt = (await get(response_format="srt")).text
        assert srt.startswith("1\n00:00:01,000 --> ")
        vtt = await get(response_format="vtt")
        assert vtt.headers["content-type"].startswith("text/vtt")
        assert vtt.text.startswith("WEBVTT\n")
        verbose = (await get(response_format="verbose_json")).json()
        assert [item["text"] for item in verbose["segments"]] == ["今天好。", "明天见。"]
        assert verbose["duration"] == 10.0
        assert "words" not in verbose
        for name in ("timestamp_granularities[]", "timestamp_granularities"):
            words = (await get(**{name: "word"})).json()["words"]
            assert [item["word"] for item in words] == list("今天好明天见")
        for name in ("include[]", "include"):
            assert len((await get(**{name: "logprobs"})).json()["logprobs"]) >= 6
        diarized = (await get(response_format="diarized_json")).json()
        assert len(diarized["segments"]) == 2
        for query, param in [
            ({"response_format": "docx"}, "response_format"),
            ({"timestamp_granularities[]": "hour"}, "timestamp_granularities[]"),
            ({"include[]": "all"}, "include[]"),
            ({"response_format": "srt", "include[]": "logprobs"}, "include"),
            ({"partial": "perhaps"}, "partial"),
            ({"channel": "0"}, "channel"),
            ({"channel": "-1"}, "channel"),
        ]:
            assert error(await client.get(path, params=query), 400)["param"] == param


async def test_a_result_comes_as_it_was_ordered() -> None:
    jobs = MemoryJobs()
    async with client_of(jobs) as client:
        words = {"timestamp_granularities[]": "word", "include[]": "logprobs"}
        path = f"/v1/jobs/{await finished(jobs, client, words)}/result"
        body = (await client.get(path)).json()
        assert len(body["words"]) == 6
        assert body["logprobs"]
        plain = (await client.get(path, params={"response_format": "json"})).json()
        assert "words" not in plain
        assert "logprobs" not in plain
        path = f"/v1/jobs/{await finished(jobs, client, {'response_format': 'vtt'})}/result"
        assert (await client.get(path)).text.startswith("WEBVTT")


async def test_split_channels_come_together_and_apart() -> None:
    jobs = MemoryJobs()
    async with client_of(jobs) as client:
        job_id = (await upload(client, {"channels": "split"})).json()["id"]
        assert (await client.get(f"/v1/jobs/{job_id}")).json()["channels"] == "split"
        jobs.run(job_id, done=20.0, total=20.0)
        jobs.say(job_id, sentence("你好", 0.0))
        jobs.say(job_id, sentence("再见", 6.0))
        jobs.say(job_id, sentence("喂", 3.0), channel=1)
        jobs.end(job_id, JobStatus.COMPLETED)
        path = f"/v1/jobs/{job_id}/result"
        body = (await client.get(path)).json()
        assert body["text"] == "你好。喂。再见。"
        assert [channel["text"] for channel in body["channels"]] == ["你好。再见。", "喂。"]
        only = await client.get(path, params={"channel": 1, "response_format": "text"})
        assert only.text == "喂。\n"
        assert error(await client.get(path, params={"channel": 2}), 400)["param"] == "channel"
        srt = (await client.get(path, params={"response_format": "srt"})).text
        assert re.findall("你好|喂|再见", srt) == ["你好", "喂", "再见"]


async def test_what_is_not_completed_has_no_result_but_a_partial_one() -> None:
    jobs = MemoryJobs()
    async with client_of(jobs) as client:
        job_id = (await upload(client)).json()["id"]
        path, partial = f"/v1/jobs/{job_id}/result", {"partial": "true"}

        async def refused() -> httpx.Response:
            return await client.get(path)

        waiting = await refused()
        assert error(waiting, 409)["code"] == "job_not_finished"
        assert int(waiting.headers["retry-after"]) >= 1
        nothing = await client.get(path, params=partial)
        assert (nothing.json()["text"], nothing.headers["x-job-status"]) == ("", "queued")
        jobs.run(job_id, done=1.0, say="今天好")
        assert error(await refused(), 409)["code"] == "job_not_finished"
        some = await client.get(path, params=partial)
        assert (some.json()["text"], some.headers["x-job-status"]) == ("今天好。", "running")
        jobs.end(job_id, JobStatus.FAILED, JobError("invalid_audio", "The MP3 file is damaged."))
        failed = await refused()
        assert error(failed, 409)["code"] == "invalid_audio"
        assert error(failed, 409)["message"] == "The job failed: The MP3 file is damaged."
        assert "retry-after" not in failed.headers
        assert (await client.get(path, params=partial)).json()["text"] == "今天好。"
        shown = (await client.get(f"/v1/jobs/{job_id}")).json()
        assert shown["error"] == {"code": "invalid_audio", "message": "The MP3 file is damaged."}


async def test_cancel_and_delete() -> None:
    jobs = MemoryJobs()
    async with client_of(jobs) as client:
        job_id = (await upload(client)).json()["id"]
        jobs.run(job_id, done=1.0, say="今天好")
        for _ in range(2):
            canceled = await client.post(f"/v1/jobs/{job_id}/cancel")
            assert (canceled.status_code, canceled.json()["status"]) == (200, "canceled")
        found = error(await client.get(f"/v1/jobs/{job_id}/result"), 409)
        assert found["code"] == "job_canceled"
        left = await client.get(f"/v1/jobs/{job_id}/result", params={"partial": "true"})
        assert left.json()["text"] == "今天好。"
        done = await finished(jobs, client)
        assert (await client.post(f"/v1/jobs/{done}/cancel")).json()["status"] == "completed"
        deleted = await client.delete(f"/v1/jobs/{job_id}")
        assert deleted.json() == {"id": job_id, "object": "transcription.job.deleted", "deleted": True}
        error(await client.delete(f"/v1/jobs/{job_id}"), 404)


async def test_progress_and_times() -> None:
    jobs = MemoryJobs()
    async with client_of(jobs) as client:
        job_id = (await upload(client)).json()["id"]
        jobs.run(job_id, done=2.5)
        running = (await client.get(f"/v1/jobs/{job_id}")).json()
        assert running["progress"] == {"seconds_done": 2.5, "seconds_total": 10.0, "fraction": 0.25}
        assert running["started_at"] == BEGIN_EPOCH + 1
        jobs.end(job_id, JobStatus.COMPLETED)
        ended = (await client.get(f"/v1/jobs/{job_id}")).json()
        assert ended["progress"]["fraction"] == 1.0
        assert (ended["finished_at"], ended["expires_at"]) == (BEGIN_EPOCH + 60, BEGIN_EPOCH + 3660)


def events_in(text: str) -> list[dict[str, str]]:
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


async def test_events_up_to_the_end() -> None:
    jobs = MemoryJobs()
    async with client_of(jobs) as client:
        job_id = (await upload(client)).json()["id"]
        watching = asyncio.create_task(client.get(f"/v1/jobs/{job_id}/events"))
        await asyncio.sleep(0.05)
        jobs.run(job_id, done=2.5)
        await asyncio.sleep(0.05)
        jobs.run(job_id, done=10.0)
        jobs.end(job_id, JobStatus.COMPLETED)
        response = await watching
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_in(response.text)
    assert [event["event"] for event in events] == ["progress", "progress", "completed"]
    bodies = [json.loads(event["data"]) for event in events]
    assert [body["status"] for body in bodies] == ["queued", "running", "completed"]
    assert [body["progress"]["fraction"] for body in bodies] == [None, 0.25, 1.0]
    assert len({event["id"] for event in events}) == 3


async def test_an_ended_job_tells_its_end_once() -> None:
    jobs = MemoryJobs()
    async with client_of(jobs) as client:
        path = f"/v1/jobs/{await finished(jobs, client)}/events"
        events = events_in((await client.get(path)).text)
        assert [event["event"] for event in events] == ["completed"]
        again = await client.get(path, headers={"last-event-id": events[0]["id"]})
        assert (again.status_code, again.content) == (204, b"")
        odd = await client.get(path, headers={"last-event-id": "9" * 5000})
        assert len(events_in(odd.text)) == 1
        failed = (await upload(client)).json()["id"]
        jobs.end(failed, JobStatus.FAILED, JobError("invalid_audio", "It is damaged."))
        events = events_in((await client.get(f"/v1/jobs/{failed}/events")).text)
        assert [event["event"] for event in events] == ["failed"]
        assert json.loads(events[0]["data"])["error"]["code"] == "invalid_audio"


async def test_sentences_go_on_where_they_were() -> None:
    jobs = MemoryJobs()
    async with client_of(jobs) as client:
        path = f"/v1/jobs/{await finished(jobs, client)}/events"
        everything = events_in((await client.get(path, params={"sentences": "true"})).text)
        assert [event["event"] for event in everything] == ["sentence", "sentence", "completed"]
        first = json.loads(everything[0]["data"])
        assert first == {"id": 0, "channel": 0, "start": 1.0, "end": 1.6, "text": "今天好。"}
        headers = {"last-event-id": everything[0]["id"]}
        rest = await client.get(path, params={"sentences": "true"}, headers=headers)
        assert events_in(rest.text) == everything[1:]


async def test_a_job_that_is_deleted_while_it_is_watched() -> None:
    jobs = MemoryJobs()
    async with client_of(jobs) as client:
        job_id = (await upload(client)).json()["id"]
        watching = asyncio.create_task(client.get(f"/v1/jobs/{job_id}/events"))
        await asyncio.sleep(0.05)
        await client.delete(f"/v1/jobs/{job_id}")
        last = events_in((await watching).text)[-1]
    assert last["event"] == "error"
    assert json.loads(last["data"])["error"]["code"] == "not_found"


async def test_links_hold_behind_a_proxy() -> None:
    jobs = MemoryJobs()
    outer = FastAPI()
    outer.mount("/speech", app_of(jobs))
    transport = httpx.ASGITransport(outer)
    async with httpx.AsyncClient(transport=transport, base_url="http://test/speech") as client:
        links = (await upload(client)).json()["links"]
    assert links["result"] == "/speech/v1/jobs/job_1/result"


schema = schemathesis.openapi.from_asgi("/openapi.json", app_of(MemoryJobs()))


@schema.parametrize()
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_answers_are_as_the_schema_says(case: Case[Any]) -> None:
    case.call_and_validate(
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
            response_headers_conformance,
        ]
    )


def webhook_example() -> dict[str, Any]:
    """What the example of docs/jobs.md defines."""
    text = (ROOT / "docs" / "jobs.md").read_text(encoding="utf-8")
    [code] = [code for code in re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S) if "hmac" in code]
    defined: dict[str, Any] = {}
    exec(code, defined)
    return defined


@pytest.mark.parametrize("secret", ["whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQ=", "a plain secret of mine"])
def test_the_documented_way_to_verify_webhooks(secret: str) -> None:
    verify = webhook_example()["verify"]
    body, now = b'{"type": "job.completed"}', int(time.time())
    headers = {
        "webhook-id": "msg_job_1",
        "webhook-timestamp": str(now),
        "webhook-signature": signature(secret, "msg_job_1", now, body),
    }
    assert verify(headers, body, secret)
    older = {**headers, "webhook-signature": "v1,AAAA " + headers["webhook-signature"]}
    assert verify(older, body, secret)
    assert not verify(headers, body + b" ", secret)
    assert not verify(headers, body, "another secret")
    late = now - 3600
    replayed = {
        **headers,
        "webhook-timestamp": str(late),
        "webhook-signature": signature(secret, "msg_job_1", late, body),
    }
    assert not verify(replayed, body, secret)


def test_signatures_are_as_standard_webhooks_has_them() -> None:
    """The example of https://github.com/standard-webhooks/standard-webhooks, computed by hand."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    message, at, body = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    signed = b".".join((message.encode(), str(at).encode(), body))
    assert expected == "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    assert signature("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", message, at, body) == expected


@pytest.mark.server
def test_a_job_from_its_upload_to_its_end(server_url: str, samples: list[Sample]) -> None:
    sample = next(sample for sample in samples if sample.path.name == "meeting.wav")
    key = {"idempotency-key": uuid.uuid4().hex}
    with httpx.Client(base_url=server_url, timeout=60, trust_env=False) as client:

        def send(path: str, data: dict[str, str], **headers: str) -> httpx.Response:
            with sample.path.open("rb") as file:
                return client.post(path, files={"file": file}, data=data, headers=headers)

        first = send("/v1/jobs", {"metadata[a]": "b"}, **key)
        assert first.status_code == 202, first.text
        links = first.json()["links"]
        events = events_in(client.get(links["events"], params={"sentences": "true"}).text)
        assert events[-1]["event"] == "completed"
        said = [json.loads(event["data"])["text"] for event in events if event["event"] == "sentence"]
        assert "".join(said) == sample.written
        job = client.get(links["self"]).json()
        assert (job["status"], job["filename"], job["metadata"]) == ("completed", "meeting.wav", {"a": "b"})
        assert job["progress"]["seconds_done"] == job["progress"]["seconds_total"] > 10
        assert job["expires_at"] > job["finished_at"] >= job["started_at"] >= job["created_at"]
        for shape in ("json", "text", "srt", "vtt", "verbose_json", "diarized_json"):
            at_once = send("/v1/audio/transcriptions", {"response_format": shape})
            later = client.get(links["result"], params={"response_format": shape})
            assert later.content == at_once.content
            assert later.headers["content-type"] == at_once.headers["content-type"]
        assert send("/v1/jobs", {"metadata[a]": "b"}, **key).json()["id"] == job["id"]
        assert send("/v1/jobs", {"metadata[a]": "c"}, **key).status_code == 409
        assert job["id"] in [item["id"] for item in client.get("/v1/jobs").json()["data"]]
        assert client.delete(links["self"]).json()["deleted"]
        assert error(client.get(links["result"]), 404)["code"] == "not_found"


@pytest.mark.server
def test_a_url_that_may_not_be_fetched_makes_its_job_fail(server_url: str) -> None:
    with httpx.Client(base_url=server_url, timeout=60, trust_env=False) as client:
        body = {"url": "http://127.0.0.1:1/a.wav", "channels": "split"}
        links = client.post("/v1/jobs", json=body).json()["links"]
        last = events_in(client.get(links["events"]).text)[-1]
        assert last["event"] == "failed"
        assert json.loads(last["data"])["error"]["code"] == "download_failed"
        assert error(client.get(links["result"]), 409)["code"] == "download_failed"
        assert client.delete(links["self"]).status_code == 200
