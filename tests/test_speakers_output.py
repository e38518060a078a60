"""Speakers in the answers of all protocols for recordings, over graphs in which each sound is a voice."""

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import httpx
import numpy as np
import pytest

from serve_app.jobs.types import JobStatus
from serve_app.pipeline.types import Sentence, Speaker, Transcript
from tests import aliyun_world, audio_files, memory_jobs, openai_world
from tests import test_dashscope_files as dashscope
from tests.aliyun_world import TEXTS, World, said
from tests.memory_jobs import MemoryJobs, sentence
from tests.openai_world import SENTENCES, TEXT, ScriptedGraph, recording
from tests.test_jobs_api import events_in
from tests.voices import by_level

PATH = "/v1/audio/transcriptions"
TALK = audio_files.wav(np.concatenate([said(400), np.zeros(48_000, np.float32), said(800)]), 16_000)

Fields = Mapping[str, Any]


def two_voices() -> ScriptedGraph:
    graph = ScriptedGraph()
    graph.voice = partial(by_level, together=1)
    return graph


@asynccontextmanager
async def openai_client(**settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = openai_world.app_of(two_voices(), **settings)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


async def ask(client: httpx.AsyncClient, audio: bytes = b"", **fields: Any) -> httpx.Response:
    named = {name.replace("__", "[]"): value for name, value in fields.items()}
    return await client.post(PATH, files={"file": audio or recording()}, data=named)


def speakers(response: httpx.Response) -> list[Any]:
    assert response.status_code == 200, response.text
    return [segment.get("speaker", "-") for segment in response.json()["segments"]]


def reference(level: int) -> str:
    """Three seconds of the voice of one of the tones, as a data URL."""
    samples = np.full(48_000, level * 1000 / 32768, np.float32)
    wav = audio_files.wav(np.concatenate([samples, np.zeros(16_000, np.float32)]), 16_000)
    return "data:audio/wav;base64," + base64.b64encode(wav).decode()


@pytest.mark.parametrize(
    ("settings", "fields", "expected"),
    [
        ({}, {"response_format": "verbose_json"}, ["说话人1", "说话人1", "说话人2", "说话人2"]),
        ({}, {"enable_speaker_diarization": "true"}, ["说话人1", "说话人1", "说话人2", "说话人2"]),
        ({}, {"num_speakers": "1"}, ["说话人1"] * 4),
        ({}, {"max_speakers": "1"}, ["说话人1"] * 4),
        ({}, {"response_format": "verbose_json", "enable_speaker_diarization": "false"}, ["-"] * 4),
        ({}, {"response_format": "diarized_json"}, ["A", "A", "B", "B"]),
        ({}, {"response_format": "diarized_json", "enable_speaker_diarization": "false"}, ["A"] * 4),
        (
            {"speaker_labels": "en"},
            {"response_format": "verbose_json"},
            ["Speaker 1"] * 2 + ["Speaker 2"] * 2,
        ),
        ({"enable_speaker_diarization": False}, {"response_format": "verbose_json"}, ["-"] * 4),
        ({"enable_speaker_diarization": False}, {"response_format": "diarized_json"}, ["A", "A", "B", "B"]),
        ({"enable_speaker_diarization": False}, {"num_speakers": "1"}, ["说话人1"] * 4),
        ({"speaker_model": "none"}, {"response_format": "verbose_json"}, ["-"] * 4),
        ({"speaker_model": "none"}, {"response_format": "diarized_json"}, ["A"] * 4),
    ],
)
async def test_who_gets_speakers(settings: Fields, fields: Fields, expected: list[str]) -> None:
    async with openai_client(**settings) as client:
        response = await ask(client, **fields)
    assert speakers(response) == expected
    assert response.json()["text"] == TEXT


async def test_subtitles_have_labels() -> None:
    async with openai_client() as client:
        labeled = (await ask(client, response_format="srt")).text
        plain = (await ask(client, response_format="srt", enable_speaker_diarization="false")).text
    lines = [line for line in labeled.splitlines() if line.startswith("[")]
    assert lines == [
        *(f"[说话人1] {text}" for text in SENTENCES[:2]),
        *(f"[说话人2] {text}" for text in SENTENCES[2:]),
    ]
    assert labeled.replace("[说话人1] ", "").replace("[说话人2] ", "") == plain


@pytest.mark.parametrize(("format_", "last"), [("diarized_json", "王芳"), ("verbose_json", "王芳")])
async def test_known_voices_have_their_names(format_: str, last: str) -> None:
    async with openai_client() as client:
        response = await ask(
            client,
            response_format=format_,
            known_speaker_names__=["王芳", "Nobody"],
            known_speaker_references__=[reference(2), reference(7)],
        )
    found = speakers(response)
    assert found[2:] == [last, last]
    assert found[0] not in ("王芳", "Nobody")


async def test_segments_come_after_the_text_in_a_stream() -> None:
    async with openai_client() as client:
        text = (await ask(client, response_format="diarized_json", stream="true")).text
        plain = (await ask(client, response_format="diarized_json")).json()
        off = (
            await ask(client, response_format="diarized_json", stream="true", enable_speaker_diarization="0")
        ).text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    kinds = [event["type"].rpartition(".")[2] for event in events]
    assert kinds == [*["delta"] * 4, *["segment"] * 4, "done"]
    assert "".join(event["delta"] for event in events[:4]) == events[-1]["text"] == TEXT
    assert all("segment_id" not in event for event in events[:4])
    assert events[4:8] == plain["segments"]
    assert [event["speaker"] for event in events[4:8]] == ["A", "A", "B", "B"]
    assert '"segment_id":"seg_0"' in off


def stereo() -> bytes:
    """Each channel has a tone of its own, one after the other."""
    quiet, rate = np.zeros(8000, np.float32), 16_000
    tones = [np.full(rate, level * 1000 / 32768, np.float32) for level in (2, 1)]
    left = np.concatenate([quiet, tones[0], np.zeros(4 * rate, np.float32)])
    right = np.concatenate([quiet, np.zeros(4 * rate, np.float32), tones[1]])
    return audio_files.wav(np.stack([left, right], axis=1), rate)


async def test_channels_as_speakers() -> None:
    async with openai_client(speaker_model="none") as client:
        response = await ask(client, stereo(), channels="speakers")
        mixed = await ask(client, stereo())
    said_by = [(item["speaker"], item["text"]) for item in response.json()["segments"]]
    assert said_by == [
        ("说话人1", "good morning, friend."),
        ("说话人1", "明天？"),
        ("说话人2", "今天好。"),
        ("说话人2", "hello you."),
    ]
    assert set(mixed.json()) == {"text", "usage"}


@pytest.mark.parametrize(
    ("settings", "fields", "param"),
    [
        ({}, {"num_speakers": "0"}, "num_speakers"),
        ({}, {"num_speakers": "51"}, "num_speakers"),
        ({}, {"num_speakers": "two"}, "num_speakers"),
        ({}, {"min_speakers": "3", "max_speakers": "2"}, "max_speakers"),
        ({}, {"response_format": "json", "max_speakers": "-1"}, "max_speakers"),
        ({}, {"channels": "split"}, "channels"),
        ({}, {"channels": "speakers", "enable_speaker_diarization": "false"}, "channels"),
        ({"speaker_model": "none"}, {"enable_speaker_diarization": "true"}, "enable_speaker_diarization"),
        ({"speaker_model": "none"}, {"num_speakers": "2"}, "num_speakers"),
        (
            {},
            {
                "response_format": "diarized_json",
                "known_speaker_names__": "a",
                "known_speaker_references__": "data:audio/wav;base64,UklGRg==",
            },
            "known_speaker_references",
        ),
        (
            {},
            {
                "response_format": "diarized_json",
                "known_speaker_names__": "a\nb",
                "known_speaker_references__": reference(1),
            },
            "known_speaker_names",
        ),
    ],
)
async def test_what_cannot_be_is_named(settings: Fields, fields: Fields, param: str) -> None:
    async with openai_client(**settings) as client:
        response = await ask(client, **fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, "invalid_value")
    assert error["message"].endswith(".")


async def asr(here: World, query: str, audio: bytes = TALK) -> dict[str, Any]:
    body: dict[str, Any] = (await here.client.post(f"/stream/v1/asr?{query}", content=audio)).json()
    return body


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("", True),
        ("enable_speaker_diarization=false", False),
        ("appkey=x&enable_punctuation_prediction=true", False),
        ("token=t&enable_punctuation_prediction=true", False),
        ("appkey=x&enable_punctuation_prediction=true&enable_speaker_diarization=true", True),
    ],
)
async def test_the_rest_api_tells_speakers_as_funasr_api_does(query: str, told: bool) -> None:
    async with aliyun_world.world() as here:
        body = await asr(here, query)
    found = [segment.get("speaker_id") for segment in body["segments"]]
    assert found == (["说话人1", "说话人2"] if told else [None, None])
    assert [segment["text"] for segment in body["segments"]] == [TEXTS[400], TEXTS[800]]
    one_line = (not told and "=x" in query) or "token" in query
    assert body["result"] == ("" if one_line else "\n").join([TEXTS[400], TEXTS[800]])
    assert all(0 <= segment.get("speaker_confidence", 0) <= 1 for segment in body["segments"])


async def test_the_rest_api_without_a_speaker_model() -> None:
    async with aliyun_world.world(speaker_model="none") as here:
        assert "speaker_id" not in (await asr(here, ""))["segments"][0]
        refused = await asr(here, "enable_speaker_diarization=true")
        order = {"file_link": "https://example.com/a.wav", "auto_split": True}
        task = await here.client.post("/?Action=SubmitTask", data={"Task": json.dumps(order)})
        spk = await here.client.post("/asr", files={"file": TALK}, data={"spk": "1"})
    assert (refused["status"], refused["details"]) == (40000003, {"param": "enable_speaker_diarization"})
    assert task.json()["StatusText"] == "REQUEST_PARAMETER_INVALID"
    assert (spk.status_code, [*spk.json()]) == (400, ["detail"])


def call() -> bytes:
    """Two people on two channels of a telephone."""
    first, second = said(400, 8000), said(800, 8000, lead=3.0)
    first = np.pad(first, (0, len(second) - len(first)))
    return audio_files.wav(np.stack([first, second], axis=1), 8000)


@pytest.mark.parametrize("asked", [True, False])
async def test_flash_tells_speakers_if_asked(asked: bool) -> None:
    url = "/stream/v1/FlashRecognizer?appkey=x&token=t&format=wav&sample_rate=8000"
    async with aliyun_world.world() as here:
        query = "&enable_speaker_diarization=true" if asked else ""
        response = await here.client.post(url + query, content=call())
    found = response.json()["flash_result"]["sentences"]
    told = [(item["channel_id"], item.get("speaker_id")) for item in found]
    assert told == ([(0, "说话人1"), (1, "说话人2")] if asked else [(0, None), (1, None)])


@pytest.mark.parametrize(
    ("task", "told", "counts"),
    [
        ({}, False, (None, None)),
        ({"auto_split": True}, True, (None, None)),
        ({"auto_split": True, "speaker_num": 2}, True, (2, None)),
        ({"auto_split": True, "speaker_num": 3, "supervise_type": 1}, True, (3, None)),
        ({"auto_split": True, "speaker_num": 4, "supervise_type": 2}, True, (None, 4)),
        ({"auto_split": True, "speaker_num": 100}, True, (None, None)),
        ({"auto_split": False, "speaker_num": 2}, False, (None, None)),
    ],
)
async def test_file_transcription_splits_if_ordered(
    task: Fields, told: bool, counts: tuple[int | None, int | None]
) -> None:
    order = json.dumps({"file_link": "https://example.com/a.wav", **task})
    async with aliyun_world.world() as here:
        response = await here.client.post("/?Action=SubmitTask", data={"Task": order})
        assert response.json()["StatusText"] == "SUCCESS"
        (job,) = here.jobs.jobs.values()
    wanted = job.spec.options.speakers
    assert (wanted is not None) == told
    assert wanted is None or (wanted.count, wanted.most) == counts


async def test_the_result_of_file_transcription() -> None:
    order = json.dumps({"file_link": "https://example.com/a.wav", "auto_split": True, "enable_words": True})
    async with aliyun_world.world() as here:
        task = (await here.client.post("/?Action=SubmitTask", data={"Task": order})).json()["TaskId"]
        talk = [by(1, sentence("你好", 0.0)), by(2, sentence("再见", 3.0))]
        here.jobs.results[task] = (Transcript(5.0, "zh", tuple(talk)),)
        here.jobs.change(task, JobStatus.COMPLETED)
        body = (await here.client.get(f"/?Action=GetTaskResult&TaskId={task}")).json()["Result"]
    assert [(item["ChannelId"], item["SpeakerId"]) for item in body["Sentences"]] == [
        (0, "说话人1"),
        (1, "说话人2"),
    ]
    assert [item["ChannelId"] for item in body["Words"]] == [0, 0, 1, 1]


def by(number: int, said_by: Sentence, name: str | None = None) -> Sentence:
    return replace(said_by, speaker=Speaker(number, name or f"说话人{number}", name, 0.75))


async def test_funasrs_server_tells_speakers_by_its_own_flag() -> None:
    async with aliyun_world.world() as here:
        on = (await here.client.post("/asr", files={"file": TALK}, data={"spk": "true"})).json()
        off = (await here.client.post("/asr", files={"file": TALK})).json()
        plain = (await here.client.post("/recognition", files={"audio": TALK}, data={"spk": "true"})).json()
    assert [(item["speaker"], item["spk_name"]) for item in on["segments"]] == [
        (0, "说话人1"),
        (1, "说话人2"),
    ]
    assert all(0 <= item["spk_score"] <= 1 for item in on["segments"])
    assert all("speaker" not in item for item in off["segments"])
    assert on["text"] == off["text"] == plain["text"]


@pytest.mark.parametrize(
    ("parameters", "count"),
    [({}, None), ({"speaker_count": 2}, 2), ({"speaker_count": 100}, None), ({"speaker_count": None}, None)],
)
async def test_dashscope_tells_speakers_by_number(parameters: Fields, count: int | None) -> None:
    jobs = aliyun_world.MemoryJobs()
    async with dashscope.client_of(dashscope.service(jobs)) as client:
        task = await dashscope.ordered(client, diarization_enabled=True, **parameters)
        for job in jobs.jobs.values():
            assert job.spec.options.speakers is not None
            assert job.spec.options.speakers.count == count
        talk = [by(1, sentence("你好", 0.0)), by(2, sentence("再见", 3.0)), by(1, sentence("嗯", 4.0))]
        jobs.results[task] = (Transcript(5.0, "zh", tuple(talk)),)
        jobs.change(task, JobStatus.COMPLETED)
        for job_id in [job_id for job_id in jobs.jobs if job_id != task]:
            jobs.change(job_id, JobStatus.CANCELED)
        results = (await client.get(f"/api/v1/tasks/{task}")).json()["output"]["results"]
        link = next(item["transcription_url"] for item in results if "transcription_url" in item)
        (transcript,) = (await client.get(link)).json()["transcripts"]
    assert [item["speaker_id"] for item in transcript["sentences"]] == [0, 1, 0]


async def test_dashscope_tells_none_unless_asked() -> None:
    jobs = aliyun_world.MemoryJobs()
    async with dashscope.client_of(dashscope.service(jobs, speaker_model="none")) as client:
        await dashscope.ordered(client, speaker_count=2)
        assert all(job.spec.options.speakers is None for job in jobs.jobs.values())
        refused = await client.post(dashscope.ORDER, json=dashscope.order(diarization_enabled=True))
    assert (refused.status_code, refused.json()["code"]) == (400, "InvalidParameter")


@asynccontextmanager
async def jobs_client(jobs: MemoryJobs, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = memory_jobs.app_of(jobs, **settings)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


async def submitted(client: httpx.AsyncClient, **fields: Any) -> str:
    response = await client.post("/v1/jobs", files={"file": recording()}, data=fields)
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


@pytest.mark.parametrize(
    ("settings", "fields", "told"),
    [
        ({}, {}, True),
        ({}, {"response_format": "srt"}, True),
        ({}, {"response_format": "json"}, False),
        ({}, {"response_format": "text"}, False),
        ({}, {"response_format": "json", "enable_speaker_diarization": "true"}, True),
        ({}, {"enable_speaker_diarization": "false"}, False),
        ({"enable_speaker_diarization": False}, {}, False),
        ({"enable_speaker_diarization": False}, {"response_format": "diarized_json"}, True),
        ({"speaker_model": "none"}, {"response_format": "diarized_json"}, False),
    ],
)
async def test_which_jobs_tell_speakers(settings: Fields, fields: Fields, told: bool) -> None:
    jobs = MemoryJobs()
    async with jobs_client(jobs, **settings) as client:
        job_id = await submitted(client, **fields)
    assert (jobs.kept[job_id].job.spec.options.speakers is not None) == told


async def test_what_is_said_of_speakers_goes_with_the_job() -> None:
    jobs = MemoryJobs()
    async with jobs_client(jobs) as client:
        job_id = await submitted(client, num_speakers="3", min_speakers="2", max_speakers="4")
        shown = (await client.get(f"/v1/jobs/{await submitted(client, channels='speakers')}")).json()
        bad = await client.post("/v1/jobs", json={"url": "https://example.com/a.wav", "num_speakers": 0})
    wanted = jobs.kept[job_id].job.spec.options.speakers
    assert wanted is not None
    assert (wanted.count, wanted.least, wanted.most, wanted.by_channel) == (3, 2, 4, False)
    by_channel = jobs.kept[shown["id"]].job.spec.options.speakers
    assert by_channel is not None
    assert (by_channel.by_channel, shown["channels"]) == (True, "speakers")
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "num_speakers")


async def test_results_of_jobs_in_every_format() -> None:
    jobs = MemoryJobs()
    async with jobs_client(jobs) as client:
        job_id = await submitted(client)
        path = f"/v1/jobs/{job_id}/result"
        jobs.run(job_id, done=5.0)
        jobs.say(job_id, sentence("你好", 0.0))
        early = await client.get(path, params={"partial": "true", "response_format": "verbose_json"})
        jobs.kept[job_id].said = {0: [by(1, sentence("你好", 0.0)), by(2, sentence("再见", 3.0), "王芳")]}
        jobs.end(job_id, JobStatus.COMPLETED)
        shown = {
            shape: await client.get(path, params={"response_format": shape})
            for shape in ("json", "srt", "vtt", "verbose_json", "diarized_json")
        }
    assert speakers(early) == [None]
    assert shown["json"].json()["text"] == "你好。再见。"
    assert [line for line in shown["srt"].text.splitlines() if "。" in line] == [
        "[说话人1] 你好。",
        "[王芳] 再见。",
    ]
    assert "[王芳] 再见。" in shown["vtt"].text
    assert speakers(shown["verbose_json"]) == ["说话人1", "王芳"]
    assert shown["verbose_json"].json()["segments"][0]["speaker_confidence"] == 0.75
    assert speakers(shown["diarized_json"]) == ["A", "王芳"]


async def test_speakers_of_split_channels_are_told_apart() -> None:
    jobs = MemoryJobs()
    async with jobs_client(jobs) as client:
        job_id = await submitted(client, channels="split", response_format="verbose_json")
        jobs.run(job_id, done=10.0)
        jobs.say(job_id, by(1, sentence("你好", 0.0)))
        jobs.say(job_id, by(1, sentence("喂", 3.0)), channel=1)
        jobs.end(job_id, JobStatus.COMPLETED)
        whole = await client.get(f"/v1/jobs/{job_id}/result")
        second = await client.get(f"/v1/jobs/{job_id}/result", params={"channel": 1})
    assert speakers(whole) == ["说话人1", "说话人2"]
    assert [item["segments"][0]["speaker"] for item in whole.json()["channels"]] == ["说话人1", "说话人2"]
    assert speakers(second) == ["说话人2"]


async def test_events_tell_each_word_once_and_speakers_at_the_end() -> None:
    jobs = MemoryJobs()
    async with jobs_client(jobs) as client:
        job_id = await submitted(client)
        path = f"/v1/jobs/{job_id}/events"
        jobs.run(job_id, done=2.0)
        jobs.say(job_id, sentence("你好吗", 0.0))
        jobs.end(job_id, JobStatus.CANCELED)
        before = events_in((await client.get(path, params={"sentences": "true"})).text)
        split = [by(1, sentence("你好", 0.0)), by(2, sentence("吗", 0.4)), by(1, sentence("好", 3.0))]
        jobs.kept[job_id].said = {0: split}
        jobs.end(job_id, JobStatus.COMPLETED)
        seen = {"last-event-id": before[0]["id"]}
        after = events_in((await client.get(path, params={"sentences": "true"}, headers=seen)).text)
        quiet = events_in((await client.get(path)).text)
    assert [event["event"] for event in before] == ["sentence", "canceled"]
    assert [event["event"] for event in after] == ["sentence", "speakers", "completed"]
    assert [event["event"] for event in quiet] == ["completed"]
    assert json.loads(after[0]["data"]) == {
        "id": 2,
        "channel": 0,
        "start": 3.0,
        "end": 3.2,
        "text": "好。",
        "speaker": "说话人1",
        "speaker_confidence": 0.75,
    }
    told = json.loads(after[1]["data"])["sentences"]
    assert [(item["id"], item["text"], item["speaker"]) for item in told] == [
        (0, "你好。", "说话人1"),
        (1, "吗。", "说话人2"),
        (2, "好。", "说话人1"),
    ]
