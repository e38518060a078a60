"""Which model a request gets, for which language and with what context; and what becomes of its answer.

The graph stands in for the models: it tells what it was asked, and answers in the language of a script.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.messages import (
    AudioSlice,
    Priority,
    Recognition,
    RecognitionOptions,
    SpeechSpan,
    VadOptions,
    VadResult,
    VadState,
    Word,
)
from serve_app.errors import ModelNotFound
from serve_app.jobs.codec import dump_recognition, dump_spec, load_recognition, load_spec
from serve_app.jobs.types import JobSpec, JobStatus
from serve_app.models import ServedModels
from serve_app.pipeline.graph import DEFAULT_RECOGNITION
from serve_app.settings import Settings
from serve_app.transcriber import TranscriptionOptions
from tests import audio_files
from tests.jobs_world import OWNER, CountingGraph, JobsWorld
from tests.test_http_app import SilentGraph, client_of

SECOND = 16_000
WAV = audio_files.wav(np.full(6 * SECOND, 0.1, np.float32), SECOND)
PARAFORMER, QWEN3 = "paraformer-starter", "qwen3-asr-starter"


@dataclass
class Said:
    """A segment as a model with marks of its own writes it."""

    language: str
    words: Sequence[tuple[str, str]]
    begin_ms: int = 0
    end_ms: int = 2000


@dataclass
class Asked:
    options: RecognitionOptions
    priority: Priority


@dataclass
class PolyglotGraph(SilentGraph):
    """Paraformer's stand-in says 你好; Qwen3-ASR's what is scripted, a segment for each."""

    script: Sequence[Said] = (Said("zh", [("你", ""), ("好", "。")]),)
    asked: list[Asked] = field(default_factory=list)
    punctuated: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    async def detect(
        self, audio: AudioSlice, state: VadState | None, final: bool, options: VadOptions
    ) -> VadResult:
        spans = tuple(SpeechSpan(said.begin_ms, said.end_ms) for said in self.script)
        return VadResult(spans, None, None if final else VadState(b""))

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        number = len(self.asked)
        self.asked.append(Asked(options, priority))
        if options.model == PARAFORMER:
            return Recognition((Word("你", 0, 200), Word("好", 200, 400)))
        said = self.script[number]
        words = [
            Word(text, 200 * at, 200 * at + 200, 0.0, mark) for at, (text, mark) in enumerate(said.words)
        ]
        return Recognition(tuple(words), options.language or said.language, punctuated=True)

    async def punctuate(self, words: Sequence[str]) -> list[str]:
        self.punctuated.append(list(words))
        return [*[""] * (len(words) - 1), "。"]

    @property
    def options(self) -> RecognitionOptions:
        return self.asked[-1].options


async def transcribe(
    graph: PolyglotGraph, form: dict[str, Any] | None = None, **settings: Any
) -> httpx.Response:
    settings = {"merge_segment_sec": 0, "enable_speaker_diarization": False, **settings}
    async with client_of(graph, **settings) as client:
        return await client.post("/v1/audio/transcriptions", data=form, files={"file": WAV})


async def verbose(graph: PolyglotGraph, form: dict[str, Any] | None = None) -> dict[str, Any]:
    fields = {"model": "qwen3-asr", "response_format": "verbose_json", **(form or {})}
    response = await transcribe(graph, fields)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("", PARAFORMER),
        ("whisper-1", PARAFORMER),
        ("gpt-4o-transcribe", PARAFORMER),
        ("string", PARAFORMER),
        ("paraformer-large", PARAFORMER),
        ("iic/speech_paraformer-large", PARAFORMER),
        (QWEN3, QWEN3),
        ("qwen3-asr", QWEN3),
        ("QWEN3-ASR-1.7B", QWEN3),
        ("Qwen/Qwen3-ASR-0.6B", QWEN3),
        ("qwen3-asr-flash", QWEN3),
    ],
)
async def test_names_of_models_over_openai(name: str, model: str) -> None:
    graph = PolyglotGraph()
    assert (await transcribe(graph, {"model": name})).status_code == 200
    assert graph.options.model == model


async def post(client: httpx.AsyncClient, path: str, field: str, model: str) -> httpx.Response:
    if path.startswith("/stream"):
        return await client.post(path, params={field: model}, content=WAV)
    name = {"/recognition": "audio"}.get(path, "file")
    return await client.post(path, data={field: model}, files={name: WAV})


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/stream/v1/asr", "model_id"),
        ("/stream/v1/FlashRecognizer", "model"),
        ("/asr", "model"),
        ("/recognition", "model"),
    ],
)
async def test_every_api_chooses_the_model(path: str, field: str) -> None:
    graph = PolyglotGraph()
    async with client_of(graph) as client:
        for name, model in (("qwen3-asr-0.6b", QWEN3), ("paraformer", PARAFORMER), ("", PARAFORMER)):
            response = await post(client, path, field, name)
            assert response.status_code == 200, response.text
            assert graph.options.model == model
            graph.asked.clear()


async def test_the_default_model_is_a_setting() -> None:
    graph = PolyglotGraph()
    await transcribe(graph, {"model": "whisper-1"}, default_model="qwen3-asr")
    assert graph.options.model == QWEN3
    async with client_of(graph, default_model="qwen3-asr") as client:
        models = (await client.get("/stream/v1/asr/models")).json()["models"]
    assert [(model["id"], model["default"]) for model in models] == [(PARAFORMER, False), (QWEN3, True)]


def test_a_default_model_that_is_not_served_is_told_with_those_that_are() -> None:
    with pytest.raises(
        ModelNotFound, match=f"'whisper' is not served here; there are: {PARAFORMER}, {QWEN3}"
    ):
        ServedModels(Settings(default_model="whisper"))


async def test_models_are_listed_with_their_languages() -> None:
    async with client_of(PolyglotGraph()) as client:
        listed = (await client.get("/v1/models")).json()["data"]
        one = await client.get(f"/v1/models/{QWEN3}")
        none = await client.get("/v1/models/whisper-1")
    assert [model["id"] for model in listed] == [PARAFORMER, QWEN3]
    assert listed[0]["languages"] == ["zh", "en"]
    assert {"yue", "ar", "fil"} < set(listed[1]["languages"])
    assert one.json() == listed[1]
    assert none.status_code == 404
    assert none.json()["error"]["code"] == "model_not_found"


async def test_without_the_model_its_names_mean_what_unknown_names_mean() -> None:
    graph = PolyglotGraph()
    await transcribe(graph, {"model": "qwen3-asr"}, qwen3_model="none")
    assert graph.options.model == PARAFORMER
    async with client_of(graph, qwen3_model="none") as client:
        assert len((await client.get("/v1/models")).json()["data"]) == 1
        refused = await client.post("/stream/v1/asr", params={"model_id": "qwen3-asr"}, content=WAV)
    assert refused.status_code == 400
    assert PARAFORMER in refused.json()["message"]


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("de", "de"),
        ("German", "de"),
        ("德语", "de"),
        ("pt-BR", "pt"),
        ("Sichuan", "zh"),
        ("四川话", "zh"),
        ("Cantonese", "yue"),
        ("auto", None),
        ("", None),
    ],
)
async def test_languages_go_by_many_names(language: str, code: str | None) -> None:
    graph = PolyglotGraph()
    response = await transcribe(graph, {"model": "qwen3-asr", "language": language})
    assert response.status_code == 200
    assert graph.options.language == code


@pytest.mark.parametrize(
    ("model", "language", "known"), [("qwen3-asr", "tlh", "zh, en, yue, ar"), ("paraformer", "de", "zh, en")]
)
async def test_a_language_that_the_model_does_not_know_is_told_with_those_it_does(
    model: str, language: str, known: str
) -> None:
    response = await transcribe(PolyglotGraph(), {"model": model, "language": language})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "language"
    assert known in error["message"]


async def test_words_and_prose_become_context_for_models_that_read_it() -> None:
    form = {
        "keywords[]": ["Zhang Wei", "云效=>云笑"],
        "prompt": "A call about the river. It was recorded in Wuhan.\n阿里云, Kubernetes\nfoo=>bar",
    }
    graph = PolyglotGraph()
    await transcribe(graph, {"model": "qwen3-asr", **form})
    prose = "A call about the river. It was recorded in Wuhan.\n阿里云, Kubernetes"
    assert graph.options.context == f"Zhang Wei\n{prose}"
    await transcribe(graph, {"model": "paraformer", **form})
    assert graph.options.context == ""


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ({"response_format": "json"}, False),
        ({"response_format": "text"}, False),
        ({"response_format": "json", "stream": "true"}, False),
        ({"response_format": "verbose_json"}, True),
        ({"response_format": "srt"}, True),
        ({"response_format": "verbose_json", "stream": "true"}, True),
        ({"response_format": "text", "enable_speaker_diarization": "true"}, True),
    ],
)
async def test_times_of_words_are_asked_for_where_they_count(form: dict[str, str], wanted: bool) -> None:
    graph = PolyglotGraph()
    response = await transcribe(graph, {"model": "qwen3-asr", **form})
    assert response.status_code == 200
    assert graph.options.word_times is wanted


KOREAN = Said("ko", [("안녕하세요", "，"), ("여러분", "。")])
RUSSIAN = Said("ru", [("Добрый", ""), ("день", "！"), ("Как", ""), ("дела", "？")], 4000, 6000)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (KOREAN, "안녕하세요, 여러분."),
        (RUSSIAN, "Добрый день! Как дела?"),
        (Said("th", [("สวัสดีครับ", ""), ("ผมชื่อสมชาย", "")]), "สวัสดีครับ ผมชื่อสมชาย"),
        (Said("ar", [("مرحبا", "،"), ("كيف", ""), ("حالك", "؟")]), "مرحبا، كيف حالك؟"),
        (Said("hi", [("नमस्ते", "।"), ("आप", ""), ("कैसे", ""), ("हैं", "？")]), "नमस्ते। आप कैसे हैं?"),
        (Said("ja", [("今", ""), ("日", ""), ("は", "、"), ("1", ""), ("人", "。")]), "今日は、1人。"),
        (Said("fr", [("six", ""), ("heures", "。")]), "six heures."),
        (Said("de", [("um", ""), ("sieben", "。")]), "um sieben."),
    ],
    ids=lambda value: value.language if isinstance(value, Said) else "",
)
async def test_other_scripts_are_printed_as_they_are_written(said: Said, text: str) -> None:
    graph = PolyglotGraph([said])
    body = await verbose(graph, {"drop_fillers": "true"})
    assert (body["text"], body["language"]) == (text, said.language)
    assert graph.punctuated == []


async def test_marks_of_the_model_end_sentences() -> None:
    body = await verbose(PolyglotGraph([KOREAN, RUSSIAN]))
    texts = [segment["text"] for segment in body["segments"]]
    assert texts == ["안녕하세요, 여러분.", "Добрый день!", "Как дела?"]


async def test_the_language_is_what_most_of_the_speech_was_in() -> None:
    longer = Said("ko", KOREAN.words, 0, 3000)
    assert (await verbose(PolyglotGraph([longer, RUSSIAN])))["language"] == "ko"
    named = await verbose(PolyglotGraph([longer, RUSSIAN]), {"language": "Russian"})
    assert named["language"] == "ru"


async def test_numbers_of_chinese_and_english_are_still_written_in_digits() -> None:
    said = Said("zh", [(char, "") for char in "百分之五"])
    assert (await verbose(PolyglotGraph([said])))["text"] == "5%"


def test_a_recognition_comes_back_whole_from_the_database() -> None:
    for recognition in (
        Recognition((Word("你", 0, 100, -0.5), Word("好", 100, 200))),
        Recognition((Word("Ja", 0, 100, -0.5, "。"),), "de", punctuated=True),
        Recognition((), None, punctuated=True),
    ):
        assert load_recognition(dump_recognition(recognition)) == recognition
    assert load_recognition('[["你",0,100,-0.5]]') == Recognition((Word("你", 0, 100, -0.5),))


def test_orders_of_older_servers_are_still_read() -> None:
    order = json.loads(dump_spec(JobSpec()))
    for name in ("model", "context", "word_times"):
        del order["options"][name]
    assert load_spec(json.dumps(order)) == JobSpec()


class NotingGraph(CountingGraph):
    """Remembers what it was asked, and tells a language."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[RecognitionOptions] = []

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        self.asked.append(options)
        heard = await super().transcribe(audio, priority=priority, options=options)
        return Recognition(heard.words, "yue", punctuated=True)


async def test_a_job_keeps_its_model_its_context_and_what_was_heard(tmp_path: Path) -> None:
    world = JobsWorld.at(tmp_path, qwen3_model_name="qwen3-large")
    world.graph = graph = NotingGraph()
    order = JobSpec(TranscriptionOptions(model="qwen3-large", context="Wuhan", language="yue"))
    job = await world.submit([1, 2, 3], order)
    async with world.running():
        assert await world.text(job) == "".join(chr(0x4E00 + level) for level in (1, 2, 3))
    assert {(asked.model, asked.context, asked.language) for asked in graph.asked} == {
        ("qwen3-large", "Wuhan", "yue")
    }
    (transcript,) = await world.jobs.transcripts(OWNER, job.id)
    assert transcript.language == "yue"


async def test_the_language_that_a_job_heard_is_kept(tmp_path: Path) -> None:
    world = JobsWorld.at(tmp_path)
    world.graph = NotingGraph()
    job = await world.submit([1, 2], JobSpec(TranscriptionOptions(model="qwen3-asr")))
    async with world.running():
        await world.ended(job)
    (transcript,) = await world.jobs.transcripts(OWNER, job.id)
    assert transcript.language == "yue"


async def test_a_job_of_a_model_that_is_gone_fails_and_says_so(tmp_path: Path) -> None:
    world = JobsWorld.at(tmp_path, qwen3_model="none")
    job = await world.submit([1], JobSpec(TranscriptionOptions(model=QWEN3)))
    async with world.running():
        ended = await world.ended(job)
    assert ended.status is JobStatus.FAILED
    assert ended.error is not None
    assert ended.error.code == "model_not_found"
    assert f"'{QWEN3}' is not served here; there are: {PARAFORMER}" in ended.error.message


async def test_jobs_are_taken_in_for_the_model_that_they_name(tmp_path: Path) -> None:
    async with client_of(PolyglotGraph(), data_dir=tmp_path) as client:
        taken = await client.post(
            "/v1/jobs", data={"model": "qwen3-asr-1.7b", "language": "四川话"}, files={"file": WAV}
        )
        refused = await client.post(
            "/v1/jobs", data={"model": "paraformer", "language": "ko"}, files={"file": WAV}
        )
    assert taken.status_code == 202
    assert refused.status_code == 400
    assert json.loads(refused.text)["error"]["param"] == "language"
