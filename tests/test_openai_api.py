"""The ``/v1`` routes over a scripted graph: every field, every format, every error."""

import base64
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any, BinaryIO

import httpx
import openai
import pytest
from fastapi import APIRouter, FastAPI
from openai.types.audio import Transcription, TranscriptionDiarized, TranscriptionVerbose

from serve_app import errors
from serve_app.api.openai.wire import TranscriptionForm
from serve_app.fetching import Fetcher
from serve_app.pipeline.finishing import Correction
from tests.openai_world import SENTENCES, TEXT, ScriptedGraph, app_of, recording, serving

TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
CLIP = "data:audio/wav;base64," + base64.b64encode(b"RIFF" * 9).decode()

Fields = Mapping[str, str | list[str]]


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
def graph() -> ScriptedGraph:
    return ScriptedGraph()


@pytest.fixture
async def client(graph: ScriptedGraph) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app_of(graph)) as client:
        yield client


async def ask(client: httpx.AsyncClient, fields: Fields | None = None) -> httpx.Response:
    return await client.post(TRANSCRIPTIONS, files={"file": recording()}, data=dict(fields or {}))


def check_envelope(response: httpx.Response) -> dict[str, Any]:
    """The ``error`` of a body in which both families of clients find what they look for."""
    body = response.json()
    assert set(body) == {"error", "error_code", "message", "task_id", "timestamp", "details"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["message"] == body["error"]["message"]
    assert body["message"].endswith(".")
    assert body["task_id"] == response.headers["x-request-id"]
    error: dict[str, Any] = body["error"]
    return error


async def test_json(client: httpx.AsyncClient) -> None:
    body = (await ask(client)).json()
    assert body == {"text": TEXT, "usage": {"type": "duration", "seconds": 9}}
    assert Transcription.model_validate(body).usage is not None


async def test_text_has_the_text_and_a_line_break(client: httpx.AsyncClient) -> None:
    response = await ask(client, {"response_format": "text"})
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.text == TEXT + "\n"


@pytest.mark.parametrize(("format_", "kind", "head"), [("srt", "plain", "1\n"), ("vtt", "vtt", "WEBVTT\n")])
async def test_subtitles(client: httpx.AsyncClient, format_: str, kind: str, head: str) -> None:
    response = await ask(client, {"response_format": format_})
    assert response.headers["content-type"] == f"text/{kind}; charset=utf-8"
    assert response.text.startswith(head)
    assert all(sentence in response.text for sentence in SENTENCES)


async def test_diarized_json(client: httpx.AsyncClient) -> None:
    body = (await ask(client, {"response_format": "diarized_json"})).json()
    assert set(body) == {"task", "duration", "text", "segments", "usage"}
    assert (body["task"], body["duration"], body["text"]) == ("transcribe", 9.0, TEXT)
    assert body["segments"][1] == {
        "type": "transcript.text.segment",
        "id": "seg_1",
        "start": 0.15,
        "end": 0.25,
        "text": "hello you.",
        "speaker": "A",
    }
    assert [segment["text"] for segment in body["segments"]] == SENTENCES
    assert TranscriptionDiarized.model_validate(body).segments[0].speaker == "A"


@pytest.mark.parametrize("format_", ["json", "verbose_json", "diarized_json"])
async def test_log_probabilities_are_the_models(client: httpx.AsyncClient, format_: str) -> None:
    body = (await ask(client, {"include[]": "logprobs", "response_format": format_})).json()
    tokens = body["logprobs"]
    assert "".join(item["token"] for item in tokens) == body["text"]
    assert all(bytes(item["bytes"]).decode() == item["token"] for item in tokens)
    known = {item["token"]: item["logprob"] for item in tokens}
    assert (known["今"], known["天"], known["好。"], known[" morning,"]) == (-0.125, -0.25, -0.5, -1.5)


async def test_languages_are_told_to_those_who_send_some(client: httpx.AsyncClient) -> None:
    body = (await ask(client, {"languages[]": ["en", "zh"]})).json()
    assert body["languages"] == [{"code": "zh"}]
    assert "languages" not in (await ask(client, {"language": "zh"})).json()


@pytest.mark.parametrize(
    ("fields", "keys"),
    [
        ({}, {"text", "usage"}),
        ({"enable_speaker_diarization": "false"}, {"segments"}),
        ({"word_timestamps": "true"}, {"segments", "words"}),
        ({"word_timestamps": "false"}, {"segments"}),
        ({"word_timestamps": "true", "response_format": "json"}, {"text", "usage"}),
        ({"timestamp_granularities[]": "word"}, {"words"}),
        ({"timestamp_granularities": ["word", "segment"]}, {"segments", "words"}),
        ({"response_format": "verbose_json"}, {"segments"}),
    ],
)
async def test_what_the_answer_holds(client: httpx.AsyncClient, fields: Fields, keys: set[str]) -> None:
    body = (await ask(client, fields)).json()
    verbose = {"task", "language", "duration", "text", "usage"}
    assert set(body) == (keys if "text" in keys else verbose | keys)
    if "segments" in keys:
        assert TranscriptionVerbose.model_validate(body).segments
        told = {segment.get("speaker") for segment in body["segments"]}
        assert told == ({None} if "enable_speaker_diarization" in fields else {"说话人1"})


async def test_corrections_wherever_they_may_be_sent(client: httpx.AsyncClient) -> None:
    fields: Fields = {
        "corrections": ["hello=>hi", "friend=>pal"],
        "keywords[]": "you=>all",
        "prompt": "明天=>后天",
    }
    assert (await ask(client, fields)).json()["text"] == "今天好。hi all. good morning, pal.后天？"


async def test_punctuation_can_be_left_out(client: httpx.AsyncClient) -> None:
    text = (await ask(client, {"punctuation": "false"})).json()["text"]
    assert text == "今天好hello you good morning friend明天"


async def test_empty_fields_are_fields_that_were_not_sent(client: httpx.AsyncClient) -> None:
    names = ["model", "language", "response_format", "stream", "temperature", "prompt", "word_timestamps"]
    lists = ["timestamp_granularities[]", "include[]", "known_speaker_names[]", "chunking_strategy"]
    body = (await ask(client, dict.fromkeys([*names, *lists], ""))).json()
    assert set(body) == {"text", "usage"}


@pytest.mark.parametrize(
    ("fields", "end_silence_ms", "threshold"),
    [
        ({}, 800, None),
        ({"chunking_strategy": "auto"}, 800, None),
        ({"chunking_strategy[type]": "server_vad"}, 800, None),
        (
            {"chunking_strategy[type]": "server_vad", "chunking_strategy[silence_duration_ms]": "500"},
            500,
            None,
        ),
        ({"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "0.5"}, 800, None),
        ({"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "0.25"}, 800, -0.15),
        ({"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "0.75"}, 800, 0.79),
        ({"chunking_strategy": '{"type": "server_vad", "silence_duration_ms": 300}'}, 300, None),
    ],
)
async def test_chunking_strategy_reaches_detection(
    client: httpx.AsyncClient,
    graph: ScriptedGraph,
    fields: Fields,
    end_silence_ms: int,
    threshold: float | None,
) -> None:
    assert (await ask(client, fields)).status_code == 200
    options = graph.vad_options[0]
    assert options.max_end_silence_ms == end_silence_ms
    assert options.speech_noise_threshold == (None if threshold is None else pytest.approx(threshold))


def test_a_higher_threshold_takes_less_for_speech() -> None:
    def margin(step: int) -> float:
        fields = {"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": str(step / 20)}
        found = TranscriptionForm.parse(fields).transcription_options().speech_noise_threshold
        return 0.6 if found is None else found

    margins = [margin(step) for step in range(21)]
    assert margins == sorted(set(margins))
    assert -1 < margins[0] < margins[-1] < 1


@pytest.mark.parametrize(
    ("fields", "language"),
    [
        ({"language": "zh"}, "zh"),
        ({"languages": ["en"]}, "en"),
        ({"languages": ["en", "zh"]}, None),
        ({"languages": ["en"], "language": "zh"}, "zh"),
        ({"language": "auto"}, "auto"),
    ],
)
def test_languages(fields: Fields, language: str | None) -> None:
    assert TranscriptionForm.parse(fields).transcription_options().language == language


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"keywords": ["ZyntriQix", "New York City", "a=>b"]}, ["ZyntriQix", "New York City"]),
        ({"prompt": "ZyntriQix, Digique Plus, CynapseFive."}, ["ZyntriQix", "Digique Plus", "CynapseFive"]),
        ({"prompt": "阿里巴巴、通义千问\n魔搭社区"}, ["阿里巴巴", "通义千问", "魔搭社区"]),
        ({"prompt": "This is a talk about music. It was recorded in May."}, []),
        ({"prompt": "and then, as I have already told all of you, we went home"}, []),
        ({"prompt": "甲=>乙\n丙", "keywords": ["丙", "丁"]}, ["丙", "丁"]),
    ],
)
def test_words_to_listen_for(fields: Fields, words: list[str]) -> None:
    options = TranscriptionForm.parse(fields).transcription_options()
    assert [word.text for word in options.hotwords] == words


def test_all_text_options() -> None:
    fields: Fields = {
        "itn": "false",
        "punctuation": "0",
        "drop_fillers": "yes",
        "corrections": ["甲=>乙\n丙=>丁"],
    }
    text = TranscriptionForm.parse(fields).transcription_options().text
    assert (text.itn, text.punctuation, text.drop_fillers) == (False, False, True)
    assert text.corrections == (Correction("甲", "乙"), Correction("丙", "丁"))
    default = TranscriptionForm.parse({}).transcription_options().text
    assert (default.itn, default.punctuation, default.drop_fillers) == (True, True, False)


BAD_FIELDS: list[tuple[dict[str, str | list[str]], str]] = [
    ({"response_format": "yaml"}, "response_format"),
    ({"timestamp_granularities[]": "phrase"}, "timestamp_granularities"),
    ({"include[]": "secrets"}, "include"),
    ({"include[]": "logprobs", "response_format": "srt"}, "include"),
    ({"language": "tlh"}, "language"),
    ({"languages[]": "tlh"}, "languages"),
    ({"languages[]": ["tlh", "vo"]}, "languages"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": "1.1"}, "temperature"),
    ({"temperature": "nan"}, "temperature"),
    ({"stream": "maybe"}, "stream"),
    ({"stream": "true", "response_format": "srt"}, "stream"),
    ({"stream": "true", "response_format": "vtt"}, "stream"),
    ({"chunking_strategy": "manual"}, "chunking_strategy"),
    ({"chunking_strategy": "{"}, "chunking_strategy"),
    ({"chunking_strategy": "[1]"}, "chunking_strategy"),
    ({"chunking_strategy[type]": "manual"}, "chunking_strategy[type]"),
    ({"chunking_strategy[threshold]": "0.5"}, "chunking_strategy[type]"),
    (
        {"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "2"},
        "chunking_strategy[threshold]",
    ),
    (
        {"chunking_strategy[type]": "server_vad", "chunking_strategy[prefix_padding_ms]": "-1"},
        "chunking_strategy[prefix_padding_ms]",
    ),
    (
        {"chunking_strategy[type]": "server_vad", "chunking_strategy[silence_duration_ms]": "soon"},
        "chunking_strategy[silence_duration_ms]",
    ),
    (
        {"chunking_strategy[type]": "server_vad", "chunking_strategy[silence_duration_ms]": "7000"},
        "chunking_strategy[silence_duration_ms]",
    ),
    ({"known_speaker_names[]": "agent"}, "known_speaker_references"),
    ({"known_speaker_references[]": CLIP}, "known_speaker_references"),
    (
        {"known_speaker_names[]": list("abcde"), "known_speaker_references[]": [CLIP] * 5},
        "known_speaker_names",
    ),
    (
        {"known_speaker_names[]": "agent", "known_speaker_references[]": "https://example.com/a.wav"},
        "known_speaker_references",
    ),
    (
        {"known_speaker_names[]": "agent", "known_speaker_references[]": "data:audio/wav;base64,&&"},
        "known_speaker_references",
    ),
    ({"keywords[]": "a=>b=>c"}, "keywords"),
    ({"corrections": "no arrow"}, "corrections"),
    ({"prompt": "=>b"}, "prompt"),
    ({"enable_speaker_diarization": "perhaps"}, "enable_speaker_diarization"),
    ({"word_timestamps": "perhaps"}, "word_timestamps"),
    ({"itn": "perhaps"}, "itn"),
    ({"format": "mp3"}, "format"),
    ({"format": "pcm", "sample_rate": "1"}, "sample_rate"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_FIELDS, ids=lambda value: str(value)[:60])
async def test_bad_fields_are_named(client: httpx.AsyncClient, fields: Fields, param: str) -> None:
    response = await ask(client, fields)
    assert response.status_code == 400
    error = check_envelope(response)
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_value", param)
    assert response.headers["x-should-retry"] == "false"


async def test_known_speakers_are_taken(client: httpx.AsyncClient) -> None:
    fields = {"known_speaker_names[]": ["a", "b"], "known_speaker_references[]": [CLIP, CLIP]}
    assert (await ask(client, fields)).json()["text"] == TEXT


class Web(Fetcher):
    """Has one recording behind one URL."""

    @asynccontextmanager
    async def fetch(self, url: str, *, param: str) -> AsyncIterator[BinaryIO]:
        if url != "https://example.com/a.wav":
            raise errors.DownloadFailed("There is nothing there.", param)
        yield BytesIO(recording())


@pytest.fixture
async def with_web(graph: ScriptedGraph, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setattr("serve_app.http.Fetcher", Web)
    async with client_of(app_of(graph)) as client:
        yield client


def as_form(**fields: str) -> dict[str, Any]:
    return {"files": {name: (None, value) for name, value in fields.items()}}


def as_url_encoded(**fields: str) -> dict[str, Any]:
    return {"data": fields}


@pytest.mark.parametrize("encode", [as_form, as_url_encoded])
async def test_a_recording_by_url(with_web: httpx.AsyncClient, encode: Callable[..., dict[str, Any]]) -> None:
    sent = encode(audio_address="https://example.com/a.wav")
    response = await with_web.post(TRANSCRIPTIONS, **sent)
    body = response.json()
    assert (body["text"], body["task"]) == (TEXT, "transcribe")
    streamed = encode(audio_address="https://example.com/a.wav", stream="true")
    assert "[DONE]" in (await with_web.post(TRANSCRIPTIONS, **streamed)).text


async def test_the_file_wins_over_the_url(with_web: httpx.AsyncClient) -> None:
    body = (await ask(with_web, {"audio_address": "https://example.com/missing.wav"})).json()
    assert body["text"] == TEXT


@pytest.mark.parametrize("encode", [as_form, as_url_encoded])
@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"audio_address": "https://example.com/missing.wav"}, "audio_address", "download_failed"),
        ({"model": "x"}, "file", "invalid_value"),
        ({"file": "text", "model": "x"}, "file", "invalid_value"),
    ],
)
async def test_no_recording(
    with_web: httpx.AsyncClient,
    encode: Callable[..., dict[str, Any]],
    fields: dict[str, str],
    param: str,
    code: str,
) -> None:
    response = await with_web.post(TRANSCRIPTIONS, **encode(**fields))
    assert response.status_code == 400
    error = check_envelope(response)
    assert (error["param"], error["code"]) == (param, code)


@pytest.mark.parametrize("body", [b"a=%FF%FE", b"&".join(b"a=b" for _ in range(300))])
async def test_a_url_encoded_form_that_cannot_be_read(client: httpx.AsyncClient, body: bytes) -> None:
    kind = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    response = await client.post(TRANSCRIPTIONS, content=body, headers=kind)
    assert response.status_code == 400
    check_envelope(response)


async def test_translations_say_that_no_model_can(client: httpx.AsyncClient) -> None:
    response = await client.post(TRANSLATIONS, files={"file": recording()}, data={"model": "whisper-1"})
    assert response.status_code == 400
    error = check_envelope(response)
    assert (error["code"], error["param"]) == ("unsupported", None)
    assert "None of the loaded models translates" in error["message"]
    for name, value in (("response_format", "diarized_json"), ("temperature", "9")):
        response = await client.post(TRANSLATIONS, files={"file": recording()}, data={name: value})
        assert check_envelope(response)["param"] == name
    response = await client.post(TRANSLATIONS, files={"model": (None, "x")})
    assert check_envelope(response)["param"] == "file"


ERRORS: list[tuple[Exception, int, type[openai.APIStatusError], str, bool]] = [
    (errors.InvalidAudio("Bad."), 400, openai.BadRequestError, "invalid_audio", False),
    (errors.AudioTooLarge("Bad."), 413, openai.APIStatusError, "audio_too_large", False),
    (errors.NotFound("Bad."), 404, openai.NotFoundError, "not_found", False),
    (errors.Conflict("Bad."), 409, openai.ConflictError, "conflict", False),
    (errors.Unsupported("Bad."), 400, openai.BadRequestError, "unsupported", False),
    (errors.Unauthenticated("Bad."), 401, openai.AuthenticationError, "invalid_api_key", False),
    (errors.Overloaded("Bad.", 0.01), 429, openai.RateLimitError, "overloaded", True),
    (errors.RateLimited("Bad.", 0.01), 429, openai.RateLimitError, "rate_limit_exceeded", True),
    (errors.UpstreamLost("Bad."), 503, openai.InternalServerError, "model_unavailable", True),
    (errors.Internal("Bad."), 500, openai.InternalServerError, "internal_error", False),
    (RuntimeError("secret"), 500, openai.InternalServerError, "internal_error", False),
]


@pytest.mark.parametrize(("fault", "status", "kind", "code", "again"), ERRORS, ids=lambda v: type(v).__name__)
async def test_the_sdk_raises_its_own_errors_and_repeats_only_what_may_succeed(
    fault: Exception, status: int, kind: type[openai.APIStatusError], code: str, again: bool
) -> None:
    graph = ScriptedGraph()
    graph.fault = fault
    async with serving(app_of(graph)) as url:
        client = openai.AsyncOpenAI(base_url=url + "/v1", api_key="any", max_retries=1)
        with pytest.raises(kind) as caught:
            await client.audio.transcriptions.create(model="x", file=recording())
        await client.close()
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert caught.value.request_id
    assert "secret" not in str(caught.value)
    assert graph.requests == (2 if again else 1)
    assert ("retry-after" in caught.value.response.headers) == (status == 429)


async def test_what_fastapi_finds_wrong_has_the_envelope_too(graph: ScriptedGraph) -> None:
    app = app_of(graph)
    router = APIRouter()

    @router.get("/numbers/{number}")
    async def number(number: int, least: int) -> int:
        return number

    app.router.routes[:0] = router.routes
    async with client_of(app) as client:
        for path, param in (
            ("/numbers/x?least=1", "number"),
            ("/numbers/1?least=x", "least"),
            ("/numbers/1", "least"),
        ):
            response = await client.get(path)
            assert response.status_code == 400
            assert check_envelope(response)["param"] == param


async def test_the_openapi_document_names_every_field_and_every_error(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    operation = paths[TRANSCRIPTIONS]["post"]
    assert {"200", "400", "401", "413", "429", "503"} <= set(operation["responses"])
    content = operation["requestBody"]["content"]
    properties = content["multipart/form-data"]["schema"]["properties"]
    sent = {"file", "timestamp_granularities[]", "include[]", "languages[]", "keywords[]", "stream"}
    speakers = {"known_speaker_names[]", "known_speaker_references[]", "chunking_strategy[threshold]"}
    assert sent | speakers | {"audio_address", "corrections[]"} <= set(properties)
    assert "$ref" not in str(content)
    assert "'type': 'null'" not in str(content)
    translation = paths[TRANSLATIONS]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert translation["required"] == ["file"]
    for path in (TRANSCRIPTIONS, TRANSLATIONS, "/v1/models", "/v1/models/{model_id}"):
        for described in paths[path].values():
            assert "422" not in described["responses"]


async def test_languages_of_which_one_is_recognized_are_taken(client: httpx.AsyncClient) -> None:
    assert (await ask(client, {"languages[]": ["tlh", "zh"]})).status_code == 200
