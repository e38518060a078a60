"""DashScope's tasks for recordings, over jobs that go on when a test says so."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from serve_app.api.access import Access
from serve_app.api.dashscope.files import links
from serve_app.api.dashscope.router import dashscope_router
from serve_app.errors import Overloaded
from serve_app.jobs.types import Job, JobError, JobSpec, JobStatus
from serve_app.live import LiveService
from serve_app.pipeline.finishing import Correction
from serve_app.pipeline.types import Sentence, TimedWord, Transcript
from serve_app.services import Services
from serve_app.settings import Settings
from serve_app.speakers.service import SpeakerService
from serve_app.transcriber import Transcriber
from tests.aliyun_world import MemoryFetcher, MemoryJobs, ToneGraph
from tests.conftest import ROOT
from tests.test_docs import blocks

ORDER = "/api/v1/services/audio/asr/transcription"
ASYNC = {"X-DashScope-Async": "enable"}
URLS = ["https://example.com/a.wav", "https://example.com/b.mp3"]
KEY = {"Authorization": "Bearer right"}


def service(jobs: MemoryJobs, **settings: Any) -> FastAPI:
    """The routes over ``jobs``."""
    chosen, graph = Settings(**settings), ToneGraph()

    async def readiness() -> dict[str, str]:
        return {}

    services = Services(
        settings=chosen,
        access=Access(chosen),
        transcriber=Transcriber(graph, chosen),
        live=LiveService(graph, chosen),
        fetcher=MemoryFetcher(),
        jobs=jobs,
        speakers=SpeakerService(chosen, graph),
        readiness=readiness,
    )
    app = FastAPI()
    app.include_router(dashscope_router(services))
    return app


def client_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers=ASYNC)


@pytest.fixture
def jobs() -> MemoryJobs:
    return MemoryJobs()


@pytest.fixture
async def client(jobs: MemoryJobs) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(service(jobs)) as client:
        yield client


def order(*urls: str, **parameters: Any) -> dict[str, Any]:
    return {"model": "paraformer-v2", "input": {"file_urls": list(urls or URLS)}, "parameters": parameters}


def transcript(text: str, begin: float = 0.5) -> Transcript:
    words = tuple(TimedWord(char, begin + at / 5, begin + at / 5 + 0.2) for at, char in enumerate(text))
    return Transcript.of(4.0, [Sentence((*words[:-1], TimedWord(text[-1], 0.9, 1.1, mark="。")))])


async def ordered(client: httpx.AsyncClient, **parameters: Any) -> str:
    response = await client.post(ORDER, json=order(**parameters))
    assert response.status_code == 200, response.text
    body = response.json()
    assert set(body) == {"request_id", "output"}
    assert body["output"].keys() == {"task_id", "task_status"}
    assert body["output"]["task_status"] == "PENDING"
    return str(body["output"]["task_id"])


async def state(client: httpx.AsyncClient, task_id: str) -> dict[str, Any]:
    response = await client.get(f"/api/v1/tasks/{task_id}")
    # DashScope's documents ask in the one way, its SDK in the other.
    posted = await client.post(f"/api/v1/tasks/{task_id}")
    assert posted.json()["output"]["task_status"] == response.json()["output"]["task_status"]
    output: dict[str, Any] = response.json()["output"]
    return output


async def test_a_task_of_two_recordings_from_order_to_transcripts(
    client: httpx.AsyncClient, jobs: MemoryJobs
) -> None:
    task_id = await ordered(client)
    (other,) = set(jobs.jobs) - {task_id}
    assert (await state(client, task_id))["task_status"] == "PENDING"
    jobs.change(other, JobStatus.COMPLETED)
    jobs.results[other] = (transcript("再见"),)
    assert (await state(client, task_id))["task_status"] == "RUNNING"
    jobs.change(task_id, JobStatus.COMPLETED)
    jobs.results[task_id] = (transcript("你好"),)
    output = await state(client, task_id)
    assert output["task_status"] == "SUCCEEDED"
    assert output["submit_time"] == "2026-01-02 08:00:00.000"
    assert output["end_time"] == "2026-01-02 08:00:05.000"
    assert output["task_metrics"] == {"TOTAL": 2, "SUCCEEDED": 2, "FAILED": 0}
    assert [item["file_url"] for item in output["results"]] == URLS
    assert {item["subtask_status"] for item in output["results"]} == {"SUCCEEDED"}
    body = (await client.get(output["results"][0]["transcription_url"])).json()
    assert body == {
        "file_url": URLS[0],
        "properties": {"channels": [0], "original_duration_in_milliseconds": 4000},
        "transcripts": [
            {
                "channel_id": 0,
                "content_duration_in_milliseconds": 600,
                "text": "你好。",
                "sentences": [
                    {
                        "sentence_id": 1,
                        "begin_time": 500,
                        "end_time": 1100,
                        "text": "你好。",
                        "words": [
                            {"begin_time": 500, "end_time": 700, "text": "你", "punctuation": ""},
                            {"begin_time": 900, "end_time": 1100, "text": "好", "punctuation": "。"},
                        ],
                    }
                ],
            }
        ],
    }
    other_body = (await client.get(output["results"][1]["transcription_url"])).json()
    assert other_body["transcripts"][0]["text"] == "再见。"


async def test_one_recording_may_fail(client: httpx.AsyncClient, jobs: MemoryJobs) -> None:
    task_id = await ordered(client)
    (other,) = set(jobs.jobs) - {task_id}
    jobs.change(task_id, JobStatus.FAILED, JobError("download_failed", "It is not there."))
    jobs.change(other, JobStatus.COMPLETED)
    output = await state(client, task_id)
    assert output["task_status"] == "SUCCEEDED"
    assert output["results"][0] == {
        "file_url": URLS[0],
        "subtask_status": "FAILED",
        "code": "FILE_DOWNLOAD_FAILED",
        "message": "It is not there.",
    }
    jobs.change(other, JobStatus.FAILED, JobError("strange", "It is odd."))
    output = await state(client, task_id)
    assert (output["task_status"], output["code"]) == ("FAILED", "FILE_DOWNLOAD_FAILED")
    assert output["results"][1]["code"] == "InternalError"


async def test_parameters_reach_the_jobs(client: httpx.AsyncClient, jobs: MemoryJobs) -> None:
    await ordered(
        client,
        channel_id=[1, 0],
        disfluency_removal_enabled=True,
        vocabulary_id="a=>b",
        language_hints=["zh"],
        diarization_enabled=True,
        speaker_count=None,
    )
    await ordered(client)
    both, _, first, _ = sorted(jobs.jobs.values(), key=lambda job: job.spec.first_channel_only)
    assert (both.spec.split_channels, both.spec.first_channel_only) == (True, False)
    assert both.spec.options.text.drop_fillers
    assert both.spec.options.text.corrections == (Correction("a", "b"),)
    assert first.spec.first_channel_only
    assert both.spec.options.text.itn


async def test_cancelling(client: httpx.AsyncClient, jobs: MemoryJobs) -> None:
    task_id = await ordered(client)
    assert (await client.post(f"/api/v1/tasks/{task_id}/cancel")).json().keys() == {"request_id"}
    assert {job.status for job in jobs.jobs.values()} == {JobStatus.CANCELED}
    assert (await state(client, task_id))["task_status"] == "CANCELED"


BAD: list[Any] = [
    b"",
    b"{",
    b"[]",
    b"\xff",
    {},
    {"model": "m"},
    {"input": {"file_urls": URLS}},
    {"model": 7, "input": {"file_urls": URLS}},
    {"model": "m", "input": {"file_urls": []}},
    {"model": "m", "input": {"file_urls": "https://example.com"}},
    {"model": "m", "input": {"file_urls": ["file:///etc/passwd"]}},
    {"model": "m", "input": {"file_urls": ["https://["]}},
    {"model": "m", "input": {"file_urls": URLS * 51}},
    {"model": "m", "input": {"file_urls": URLS}, "parameters": []},
    order(channel_id=[-1]),
    order(channel_id=[]),
    order(channel_id="0"),
    order(special_word_filter=7),
]


@pytest.mark.parametrize("body", BAD, ids=range(len(BAD)))
async def test_bad_orders(client: httpx.AsyncClient, jobs: MemoryJobs, body: Any) -> None:
    raw = {"content": body} if isinstance(body, bytes) else {"json": body}
    response = await client.post(ORDER, **raw)
    assert response.status_code == 400
    assert response.json().keys() == {"request_id", "code", "message"}
    assert response.json()["code"] == "InvalidParameter"
    assert jobs.jobs == {}


async def test_an_order_that_wants_to_wait(client: httpx.AsyncClient) -> None:
    response = await client.post(ORDER, json=order(), headers={"X-DashScope-Async": "disable"})
    assert response.status_code == 400
    assert "X-DashScope-Async" in response.json()["message"]


async def test_an_order_is_taken_whole_or_not_at_all(
    client: httpx.AsyncClient, jobs: MemoryJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit: Callable[..., Any] = jobs.submit

    async def once(*arguments: Any) -> Any:
        jobs.refusal = Overloaded("The queue is full.", 7) if jobs.jobs else None
        return await submit(*arguments)

    monkeypatch.setattr(jobs, "submit", once)
    response = await client.post(ORDER, json=order())
    assert (response.status_code, response.json()["code"]) == (429, "Throttling")
    assert response.headers["retry-after"] == "7"
    assert jobs.jobs == {}


async def test_keys_and_signed_urls(jobs: MemoryJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    async with client_of(service(jobs, api_key="right,other")) as client:
        for answer in (await client.post(ORDER, json=order()), await client.get("/api/v1/tasks/x")):
            assert (answer.status_code, answer.json()["code"]) == (401, "InvalidApiKey")
        client.headers.update(KEY)
        task_id = await ordered(client)
        for job_id in list(jobs.jobs):
            jobs.change(job_id, JobStatus.COMPLETED)
            jobs.results[job_id] = (transcript("你好"),)
        stranger = {"Authorization": "Bearer other"}
        assert (await client.get(f"/api/v1/tasks/{task_id}", headers=stranger)).status_code == 404
        results = (await client.get(f"/api/v1/tasks/{task_id}")).json()["output"]["results"]
        url = results[0]["transcription_url"]
        del client.headers["authorization"]
        assert (await client.get(url)).json()["transcripts"][0]["text"] == "你好。"
        for bad in (url.partition("?")[0], url[:-1] + "x", url.replace("expires=", "expires=9")):
            assert (await client.get(bad)).status_code == 401
        monkeypatch.setattr(links, "_VALID_SECONDS", -1)
        results = (await client.get(f"/api/v1/tasks/{task_id}", headers=KEY)).json()["output"]["results"]
        expired = await client.get(results[0]["transcription_url"])
        assert (expired.status_code, "expired" in expired.json()["message"]) == (401, True)


async def test_tasks_that_are_not_there(client: httpx.AsyncClient, jobs: MemoryJobs) -> None:
    response = await client.get("/api/v1/tasks/none")
    assert (response.status_code, response.json()["code"]) == (404, "NotFound")
    of_others, _ = await jobs.submit("anybody", JobSpec(url=URLS[0], protocol="aliyun"))
    assert (await client.get(f"/api/v1/tasks/{of_others.id}")).status_code == 404
    task_id = await ordered(client)
    jobs.change(task_id, JobStatus.RUNNING)
    query = links.Links(Settings()).signed("anybody", task_id)
    response = await client.get(f"/api/v1/tasks/{task_id}/transcription", params=query)
    assert response.status_code == 404


class PromptJobs(MemoryJobs):
    """Jobs that are completed when they are looked at."""

    async def get(self, owner: str, job_id: str) -> Job:
        job = await super().get(owner, job_id)
        self.results[job_id] = (transcript("你好"),)
        return job if job.status.is_final else self.change(job_id, JobStatus.COMPLETED)


@pytest.mark.skipif(find_spec("dashscope") is None, reason="DashScope's SDK is not installed")
async def test_the_sdk_transcribes_recordings_as_the_document_says() -> None:
    (program,) = [
        content
        for language, content in blocks(ROOT / "docs" / "dashscope.md")
        if language == "python" and "Transcription.async_call" in content
    ]
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(service(PromptJobs()), lifespan="off", log_level="error"))
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        result = await asyncio.to_thread(
            subprocess.run,
            [
                sys.executable,
                "-c",
                program.replace("localhost:8000", f"127.0.0.1:{listener.getsockname()[1]}"),
            ],
            env={**os.environ, "PYTHONIOENCODING": "utf-8", "NO_PROXY": "*", "no_proxy": "*"},
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        server.should_exit = True
        await running
    assert (result.returncode, result.stdout) == (0, "你好。\n"), result.stderr
