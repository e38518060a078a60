"""Enrolled speakers, and those that come with a request: over tones, each ten of which are one voice."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.transport.serialization import Binary
from sqlalchemy import select

from deployments.messages import (
    AudioSlice,
    Embeddings,
    Priority,
    Recognition,
    RecognitionOptions,
    VadOptions,
    VadResult,
    VadState,
)
from serve_app.errors import InvalidParameter
from serve_app.http import create_app
from serve_app.jobs.database import Database, database_url
from serve_app.jobs.schema import jobs, speakers, versions
from serve_app.jobs.types import JobSpec
from serve_app.pipeline.graph import DEFAULT_RECOGNITION
from serve_app.pipeline.speakers.types import SpeakerTuning
from serve_app.settings import Settings
from serve_app.speakers import SpeakerService
from serve_app.transcriber import TranscriptionOptions
from tests import audio_files
from tests.jobs_world import OWNER, JobsWorld
from tests.test_file_pipeline import ToneGraph, recording
from tests.test_http_app import SilentGraph

ANN, BOB = (3, 5), (13, 15)
"""Tones of two people."""

TALK = (4, 14, 6)
"""Ann, Bob and Ann again, in tones that neither was enrolled with."""


class VoicesGraph(SilentGraph):
    """Hears a character in each tone; ten neighboring tones are one voice."""

    def __init__(self) -> None:
        super().__init__()
        self._tones = ToneGraph()
        self.embedding = self.most_embedding = 0

    async def detect(
        self, audio: AudioSlice, state: VadState | None, final: bool, options: VadOptions
    ) -> VadResult:
        return await self._tones.detect(audio, state, final, options)

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        return await self._tones.transcribe(audio, priority=priority, options=options)

    async def embed(
        self, audio: AudioSlice, windows: Sequence[tuple[int, int]], *, priority: Priority = Priority.REQUEST
    ) -> Embeddings:
        self.embedding += 1
        self.most_embedding = max(self.most_embedding, self.embedding)
        await asyncio.sleep(0.01)
        self.embedding -= 1
        return await self._tones.embed(audio, windows, priority=priority)

    async def punctuate(self, words: Sequence[str]) -> list[str]:
        return ["。" for _ in words]


def wav(tones: Sequence[int], tone: float = 2.0, pause: float = 0.5) -> bytes:
    return audio_files.wav((recording(tones, pause, tone) / 32768).astype(np.float32), 16_000)


def data_url(data: bytes) -> str:
    return "data:audio/wav;base64," + base64.b64encode(data).decode()


@asynccontextmanager
async def client_of(
    directory: Path, graph: SilentGraph | None = None, tuning: SpeakerTuning | None = None, **configured: Any
) -> AsyncIterator[httpx.AsyncClient]:
    async def readiness() -> dict[str, str]:
        return {"Vad": "READY"}

    chosen = Settings(data_dir=directory, **configured)
    app = create_app(chosen, graph or VoicesGraph(), readiness, tuning=tuning)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def enroll(client: httpx.AsyncClient, name: str, *recordings: bytes, **headers: str) -> httpx.Response:
    files = [("file", ("voice.wav", data)) for data in recordings]
    return await client.post("/v1/speakers", data={"name": name}, files=files, headers=headers)


async def spoken_by(client: httpx.AsyncClient, data: Any = None, **headers: str) -> list[str]:
    """Who says the parts of :data:`TALK`."""
    form = {"response_format": "verbose_json", **(data or {})}
    sent = {"file": ("talk.wav", wav(TALK))}
    response = await client.post("/v1/audio/transcriptions", data=form, files=sent, headers=headers)
    assert response.status_code == 200, response.text
    return [segment["speaker"] for segment in response.json()["segments"]]


def error(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()["error"]
    assert found["message"].endswith(".")
    return found


async def test_a_voice_is_enrolled_and_named(tmp_path: Path) -> None:
    async with client_of(tmp_path) as client:
        assert await spoken_by(client) == ["说话人1", "说话人2", "说话人1"]
        response = await enroll(client, "  李  Ann ", wav(ANN))
        assert response.status_code == 201
        speaker = response.json()
        assert response.headers["location"] == f"/v1/speakers/{speaker['id']}"
        assert speaker["id"].startswith("spk_")
        assert speaker | {"id": "", "created_at": 0, "model": ""} == {
            "id": "",
            "object": "speaker",
            "name": "李 Ann",
            "created_at": 0,
            "recordings": 1,
            "seconds": 4.0,
            "model": "",
            "usable": True,
        }
        assert (await client.get(response.headers["location"])).json() == speaker
        assert await spoken_by(client) == ["李 Ann", "说话人2", "李 Ann"]
        assert (await client.delete(response.headers["location"])).json() == {
            "id": speaker["id"],
            "object": "speaker.deleted",
            "deleted": True,
        }
        assert await spoken_by(client) == ["说话人1", "说话人2", "说话人1"]
        assert error(await client.delete(response.headers["location"]), 404)["code"] == "not_found"
        assert error(await client.get(response.headers["location"]), 404)["code"] == "not_found"


async def test_speakers_outlive_the_server(tmp_path: Path) -> None:
    async with client_of(tmp_path) as client:
        await enroll(client, "Ann", wav(ANN))
    async with client_of(tmp_path) as client:
        assert (await client.get("/v1/speakers")).json()["data"][0]["name"] == "Ann"
        assert await spoken_by(client) == ["Ann", "说话人2", "Ann"]


async def test_nobody_meets_the_speakers_of_another_key(tmp_path: Path) -> None:
    one, other = ({"authorization": f"Bearer {key}"} for key in ("key-one", "key-two"))
    async with client_of(tmp_path, api_key="key-one,key-two") as client:
        path = (await enroll(client, "Ann", wav(ANN), **one)).headers["location"]
        assert (await client.get("/v1/speakers", headers=other)).json()["data"] == []
        for method in ("GET", "DELETE"):
            error(await client.request(method, path, headers=other), 404)
        error(await client.get("/v1/speakers?after=" + path.rpartition("/")[2], headers=other))
        assert await spoken_by(client, **other) == ["说话人1", "说话人2", "说话人1"]
        assert (await enroll(client, "Ann", wav(BOB), **other)).status_code == 201
        assert await spoken_by(client, **one) == ["Ann", "说话人2", "Ann"]
        assert await spoken_by(client, **other) == ["说话人1", "Ann", "说话人1"]
        error(await enroll(client, "Ann", wav(ANN)), 401)


async def test_more_recordings_of_a_name_are_averaged(tmp_path: Path) -> None:
    tuning = SpeakerTuning(similarity=0.8)
    async with client_of(tmp_path, tuning=tuning, expose_voiceprints=True) as client:
        first = (await enroll(client, "Ann", wav((3, 13), tone=2.0), wav((3,), tone=6.0))).json()
        assert (first["recordings"], first["seconds"]) == (2, 10.0)
        response = await enroll(client, "Ann", wav((3,), tone=4.0))
        assert response.status_code == 200
        second = response.json()
        assert second == first | {"recordings": 3, "seconds": 14.0}
        voices = [
            (await client.get(f"/v1/speakers/{first['id']}", params=query)).json().get("embedding")
            for query in ({}, {"include[]": "embedding"}, {"include": "embedding"})
        ]
        assert voices[0] is None
        assert voices[1] == voices[2]
        assert np.linalg.norm(voices[1]) == pytest.approx(1)
        # Four seconds of both voices in equal parts and six of the first one; then four more of that.
        middle = np.array([4 * 0.5**0.5 + 6, 4 * 0.5**0.5])
        middle = 10 * middle / np.linalg.norm(middle) + [4, 0]
        assert voices[1][:2] == pytest.approx(middle / np.linalg.norm(middle), abs=1e-5)
        assert len((await client.get("/v1/speakers")).json()["data"]) == 1


async def test_another_voice_is_not_taken_for_the_same_name(tmp_path: Path) -> None:
    async with client_of(tmp_path) as client:
        first = (await enroll(client, "Ann", wav(ANN))).json()
        refused = error(await enroll(client, "Ann", wav(BOB)), 409)
        assert "does not sound like" in refused["message"]
        assert (await client.get("/v1/speakers")).json()["data"] == [first]
        refused = error(await enroll(client, "Bob", wav(BOB), wav(BOB), wav(ANN)))
        assert (refused["param"], "Recording 3" in refused["message"]) == ("file", True)


async def test_what_another_model_made_is_not_used(tmp_path: Path) -> None:
    async with client_of(tmp_path, tuning=SpeakerTuning(model="old")) as client:
        old = (await enroll(client, "Ann", wav(BOB))).json()
        assert (old["model"], old["usable"]) == ("old", True)
    async with client_of(tmp_path, tuning=SpeakerTuning(model="new")) as client:
        listed = (await client.get("/v1/speakers")).json()["data"]
        assert listed == [old | {"usable": False}]
        assert await spoken_by(client) == ["说话人1", "说话人2", "说话人1"]
        response = await enroll(client, "Ann", wav(ANN))
        assert response.status_code == 200
        assert response.json() == old | {"model": "new"}
        assert await spoken_by(client) == ["Ann", "说话人2", "Ann"]


async def test_pages(tmp_path: Path) -> None:
    async with client_of(tmp_path) as client:
        ids = [(await enroll(client, name, wav(ANN))).json()["id"] for name in ("A", "B", "C")][::-1]
        first = (await client.get("/v1/speakers?limit=2")).json()
        assert ([item["id"] for item in first["data"]], first["has_more"]) == (ids[:2], True)
        assert (first["first_id"], first["last_id"]) == (ids[0], ids[1])
        rest = (await client.get(f"/v1/speakers?limit=2&after={ids[1]}")).json()
        assert ([item["id"] for item in rest["data"]], rest["has_more"]) == (ids[2:], False)
        named = (await client.get("/v1/speakers", params={"name": " B "})).json()["data"]
        assert [item["id"] for item in named] == [ids[1]]
        assert error(await client.get("/v1/speakers?after=spk_0"))["param"] == "after"
        assert error(await client.get("/v1/speakers?limit=0"))["param"] == "limit"


async def test_a_client_has_so_many_speakers(tmp_path: Path) -> None:
    async with client_of(tmp_path, max_speakers_per_key=1) as client:
        assert (await enroll(client, "Ann", wav(ANN))).status_code == 201
        assert "1 speakers, the limit" in error(await enroll(client, "Bob", wav(BOB)), 409)["message"]
        assert (await enroll(client, "Ann", wav(ANN))).status_code == 200


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "missing"),
        ("   ", "must not be empty"),
        ("a\nb", "on one line"),
        ("a\u202eb", "cannot be seen"),
        ("[a]", "brackets"),
        ("<v a>", "brackets"),
        ("说话人 1", "without a name are called"),
        ("speaker 12", "without a name are called"),
        ("x" * 65, "64 characters"),
    ],
)
async def test_names_that_are_refused(tmp_path: Path, name: str, told: str) -> None:
    async with client_of(tmp_path) as client:
        refused = error(await enroll(client, name, wav(ANN)))
        assert (refused["param"], told in refused["message"]) == ("name", True), refused


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty"),
        (b"no audio at all", ""),
        (audio_files.wav(np.zeros(32_000, np.float32), 16_000), "Nobody speaks"),
        (wav((3,), tone=0.9), "0.9 s of speech"),
        (wav((3,), tone=61), "60 s"),
        (wav((3, 13, 3, 13), tone=4), "More than one person"),
    ],
    ids=["empty", "no-audio", "silence", "short", "long", "two-people"],
)
async def test_recordings_that_are_refused(tmp_path: Path, data: bytes, told: str) -> None:
    async with client_of(tmp_path) as client:
        assert told in error(await enroll(client, "Ann", data))["message"]
        refused = error(await enroll(client, "Ann", wav(ANN), data))
        assert (refused["param"], refused["message"].startswith("Recording 2: ")) == ("file", True)
        assert (await client.get("/v1/speakers")).json()["data"] == []


async def test_requests_that_are_refused(tmp_path: Path) -> None:
    async with client_of(tmp_path) as client:
        assert error(await enroll(client, "Ann", *[wav(ANN)] * 5))["code"] == "invalid_value"
        response = await client.post("/v1/speakers", data={"name": "Ann"})
        assert error(response)["param"] == "file"
        response = await client.post("/v1/speakers", data={"name": "Ann", "file": "text"}, files={"x": b""})
        assert "sent as text" in error(response)["message"]
        response = await client.post("/v1/speakers", json={"name": "Ann"})
        assert "multipart/form-data" in error(response)["message"]
        url = {"name": "Ann", "audio_address": "http://127.0.0.1/a.wav"}
        assert error(await client.post("/v1/speakers", data=url))["param"] == "audio_address"
        path = (await enroll(client, "Ann", wav(ANN))).headers["location"]
        assert error(await client.get(path + "?include[]=embedding"))["param"] == "include[]"
        assert error(await client.get(path + "?include[]=other"))["param"] == "include[]"
        assert "embedding" not in (await client.get(path)).text


async def test_without_a_speaker_model(tmp_path: Path) -> None:
    async with client_of(tmp_path, speaker_model="none") as client:
        assert error(await enroll(client, "Ann", wav(ANN)))["code"] == "unsupported"
        assert (await client.get("/v1/speakers")).json()["data"] == []
    service = SpeakerService(Settings(data_dir=tmp_path, speaker_model="none"), VoicesGraph())
    assert await service.options("x", wanted=None, shown=True) is None
    assert (await service.options("x", wanted=None, shown=True, by_channel=True)) is not None
    for wanted, count, param in ((True, None, "spk"), (None, 2, "num_speakers")):
        with pytest.raises(InvalidParameter, match="no speaker model") as caught:
            await service.options("x", wanted=wanted, shown=True, count=count, param="spk")
        assert caught.value.param == param


@pytest.mark.parametrize(
    ("asked", "is_on"),
    [
        ({"wanted": None, "shown": True}, True),
        ({"wanted": None, "shown": False}, False),
        ({"wanted": True, "shown": False}, True),
        ({"wanted": False, "shown": True, "count": 2}, False),
        ({"wanted": None, "shown": False, "count": 2}, False),
    ],
)
async def test_when_speakers_are_told_apart(tmp_path: Path, asked: dict[str, Any], is_on: bool) -> None:
    service = SpeakerService(Settings(data_dir=tmp_path), VoicesGraph())
    assert (await service.options("x", **asked) is not None) == is_on
    off = SpeakerService(Settings(data_dir=tmp_path, enable_speaker_diarization=False), VoicesGraph())
    by_default = asked["wanted"] is None and "count" not in asked
    assert (await off.options("x", **asked) is not None) == (is_on and not by_default)
    assert not (tmp_path / "jobs.sqlite3").exists()


@pytest.mark.parametrize(
    ("numbers", "param"),
    [
        ({"count": 0}, "num_speakers"),
        ({"least": 51}, "min_speakers"),
        ({"most": 0}, "max_speakers"),
        ({"least": 3, "most": 2}, "min_speakers"),
    ],
)
async def test_numbers_of_speakers_that_do_not_fit(
    tmp_path: Path, numbers: dict[str, Any], param: str
) -> None:
    service = SpeakerService(Settings(data_dir=tmp_path), VoicesGraph())
    with pytest.raises(InvalidParameter) as caught:
        await service.options("x", wanted=False, shown=True, **numbers)
    assert caught.value.param == param


async def test_references_of_a_request(tmp_path: Path) -> None:
    references = {
        "known_speaker_names[]": ["agent", "customer"],
        "known_speaker_references[]": [data_url(wav(BOB)), data_url(wav((25, 27)))],
    }
    graph = VoicesGraph()
    async with client_of(tmp_path, graph) as client:
        assert await spoken_by(client, references) == ["说话人1", "agent", "说话人1"]
        diarized = {**references, "response_format": "diarized_json"}
        assert await spoken_by(client, diarized) == ["A", "agent", "A"]
        await enroll(client, "Ann", wav(ANN))
        assert await spoken_by(client, references) == ["Ann", "agent", "Ann"]
        assert graph.most_embedding > 1
        # What comes with a request goes before what is enrolled under the same name.
        own = {"known_speaker_names[]": "Ann", "known_speaker_references[]": data_url(wav(BOB))}
        assert await spoken_by(client, own) == ["说话人1", "Ann", "说话人1"]
        # Nothing of it stays.
        assert await spoken_by(client) == ["Ann", "说话人2", "Ann"]


@pytest.mark.parametrize(
    ("name", "recorded", "told"),
    [
        ("agent", wav((3,), tone=1.0, pause=0.2), "too short"),
        ("agent", wav((3,), tone=11.0), "10"),
        ("agent", audio_files.wav(np.zeros(48_000, np.float32), 16_000), "Nobody speaks"),
        ("agent", b"no audio at all", "The reference of 'agent'"),
        ("agent", wav((3, 13), tone=4.0), "More than one person"),
        ("a\nb", wav(ANN), "on one line"),
    ],
)
async def test_references_that_are_refused(tmp_path: Path, name: str, recorded: bytes, told: str) -> None:
    references = {"known_speaker_names[]": name, "known_speaker_references[]": data_url(recorded)}
    async with client_of(tmp_path) as client:
        form = {"response_format": "diarized_json", **references}
        sent = {"file": ("talk.wav", wav(TALK))}
        refused = error(await client.post("/v1/audio/transcriptions", data=form, files=sent))
        assert refused["param"] == ("known_speaker_references" if "\n" not in name else "known_speaker_names")
        assert told in refused["message"]


async def test_a_database_of_before_gets_its_table(tmp_path: Path) -> None:
    database = Database(database_url(Settings(data_dir=tmp_path)))
    with database.write() as connection:
        speakers.drop(connection)
        assert connection.scalar(select(versions.c.version)) == 1
    database.close()
    async with client_of(tmp_path) as client:
        assert (await enroll(client, "Ann", wav(ANN))).status_code == 201


async def test_transcripts_come_without_a_database(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "jobs.sqlite3").write_bytes(b"this is no database " * 100)
    async with client_of(tmp_path) as client:
        assert await spoken_by(client) == ["说话人1", "说话人2", "说话人1"]
    assert "enrolled speakers could not be read" in caplog.text


async def test_the_same_name_twice_at_once(tmp_path: Path) -> None:
    async with client_of(tmp_path) as client:
        responses = await asyncio.gather(*(enroll(client, "Ann", wav(ANN)) for _ in range(6)))
        assert sorted(response.status_code for response in responses) == [200] * 5 + [201]
        assert (await client.get("/v1/speakers")).json()["data"][0]["recordings"] == 6


async def test_voices_are_not_in_the_order_of_a_job(tmp_path: Path) -> None:
    """It is kept for days, and enrolled voices are to be gone when they are deleted."""
    references = {
        "known_speaker_names[]": ["agent"],
        "known_speaker_references[]": [data_url(wav(BOB))],
        "response_format": "srt",
    }
    database = Database(database_url(Settings(data_dir=tmp_path)))
    async with client_of(tmp_path) as client:
        await enroll(client, "Ann", wav(ANN))
        sent = {"file": ("talk.wav", wav(TALK))}
        assert (await client.post("/v1/jobs", data=references, files=sent)).status_code == 202
    with database.read() as connection:
        spec = json.loads(connection.scalar(select(jobs.c.spec)) or "")
    assert [voice["name"] for voice in spec["options"]["speakers"]["known"]] == ["agent"]


async def test_jobs_look_for_the_voices_that_are_enrolled_when_they_run(tmp_path: Path) -> None:
    world = JobsWorld.at(tmp_path)
    service = SpeakerService(world.settings, world.graph)
    early, _ = await service.enroll(OWNER, "Early", [BytesIO(wav(ANN))])
    options = await service.options(OWNER, wanted=True, shown=True)
    job = await world.submit(TALK, JobSpec(options=TranscriptionOptions(speakers=options)))
    await service.delete(OWNER, early.id)
    await service.enroll(OWNER, "Late", [BytesIO(wav(BOB))])
    await service.enroll("somebody else", "Other", [BytesIO(wav(ANN))])
    async with world.running():
        await world.ended(job)
    [transcript] = await world.jobs.transcripts(OWNER, job.id)
    labels = [sentence.speaker.label for sentence in transcript.sentences if sentence.speaker]
    assert list(dict.fromkeys(labels)) == ["说话人1", "Late"]


def test_answers_are_as_the_schema_says(tmp_path: Path) -> None:
    async def readiness() -> dict[str, str]:
        return {}

    app = create_app(Settings(data_dir=tmp_path, expose_voiceprints=True), VoicesGraph(), readiness)
    routes = schemathesis.openapi.from_asgi("/openapi.json", app).include(path_regex="^/v1/speakers")
    operations = [result.ok() for result in routes.get_all_operations() if isinstance(result, Ok)]
    assert len(operations) == 4
    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
        response_headers_conformance,
    ]
    enrolled: list[str] = []
    answered: set[int] = set()

    @settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.one_of([operation.as_strategy() for operation in operations]), st.booleans())
    def send(case: Case[Any], sensible: bool) -> None:
        body: Any = case.body
        if sensible and isinstance(body, dict) and "file" in body:
            body |= {"file": [Binary(wav(ANN))], "name": "Ann"}
            body.pop("audio_address", None)
        if sensible and enrolled and "speaker_id" in case.path_parameters:
            case.path_parameters["speaker_id"] = enrolled[-1]
        response = case.call_and_validate(checks=checks)
        answered.add(response.status_code)
        if case.method == "POST" and response.status_code < 300:
            enrolled.append(response.json()["id"])

    send()
    assert answered >= {200, 201, 400, 404}
