"""``/stream/v1/asr`` as Aliyun's clients and funasr-api's call it, over a graph in which tones speak."""

import re
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from serve_app.api.aliyun.wire import parse_vocabulary, parse_word_filter
from serve_app.errors import UpstreamLost
from serve_app.pipeline.finishing import Correction
from serve_app.pipeline.hotwords import Hotword, HotwordList
from serve_app.rendering.filetrans import CODES
from tests import audio_files
from tests.aliyun_world import TEXTS, ToneGraph, World, said, world
from tests.conftest import ROOT

URL = "/stream/v1/asr"
WAV = audio_files.wav(said(400), 16_000)
SILENCE = audio_files.wav(np.zeros(16_000, np.float32), 16_000)
TWO = np.concatenate([said(400), np.zeros(48_000, np.float32), said(800)])
BARE = {400: "北京的天气", 800: "喂你好吗"}


async def asr(here: World, content: bytes = WAV, query: str = "", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await here.client.post(f"{URL}?{query}", content=content, headers=named)


async def test_the_answer_holds_the_fields_of_both() -> None:
    async with world() as here:
        response = await asr(here)
    body = response.json()
    assert response.status_code == 200
    assert re.fullmatch("[0-9a-f]{32}", body["task_id"])
    assert response.headers["task_id"] == body["task_id"]
    assert body.pop("task_id")
    assert 0 < body.pop("processing_time") < 60
    times = [0.5, 0.9, 1.3, 1.7, 2.1, 2.5]
    assert body == {
        "result": TEXTS[400],
        "status": 20000000,
        "message": "SUCCESS",
        "segments": [
            {
                "text": TEXTS[400],
                "start_time": 0.5,
                "end_time": 2.5,
                "speaker_id": "说话人1",
                "speaker_confidence": 1.0,
                "word_tokens": [
                    {"text": word, "start_time": begin, "end_time": end}
                    for word, begin, end in zip(BARE[400], times, times[1:], strict=False)
                ],
            }
        ],
        "duration": 3.0,
    }


async def test_the_status_of_a_success_can_be_funasr_apis() -> None:
    async with world(aliyun_success_status=200) as here:
        assert (await asr(here)).json()["status"] == 200
        assert (await asr(here, b"")).json()["status"] == 40000002


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", f"{TEXTS[400]}\n{TEXTS[800]}"),
        ("appkey=x", BARE[400] + BARE[800]),
        ("token=abc", BARE[400] + BARE[800]),
        ("appkey=x&enable_punctuation_prediction=true", TEXTS[400] + TEXTS[800]),
        ("appkey=x&enable_punctuation_prediction=True", TEXTS[400] + TEXTS[800]),
        ("appkey=x&enable_punctuation_prediction=1", TEXTS[400] + TEXTS[800]),
        ("enable_punctuation_prediction=false", f"{BARE[400]}\n{BARE[800]}"),
    ],
)
async def test_defaults_are_those_of_the_api_that_the_client_knows(query: str, text: str) -> None:
    async with world() as here:
        assert (await asr(here, audio_files.wav(TWO, 16_000), query)).json()["result"] == text


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", "嗯5%。"),
        ("disfluency=true", "5%。"),
        ("appkey=x", "嗯百分之五"),
        ("appkey=x&disfluency=1", "百分之五"),
        ("appkey=x&enable_inverse_text_normalization=True", "嗯5%"),
        ("enable_inverse_text_normalization=false", "嗯百分之五。"),
    ],
)
async def test_numbers_and_fillers(query: str, text: str) -> None:
    async with world() as here:
        response = await asr(here, audio_files.wav(said(1600), 16_000), query)
    assert response.json()["result"] == text


async def test_corrections_come_with_the_vocabulary() -> None:
    async with world() as here:
        response = await here.client.post(URL, params={"vocabulary_id": "天气 20 北京=>南京"}, content=WAV)
    assert response.json()["result"] == "南京的天气。"


async def test_words_can_be_left_out() -> None:
    async with world() as here:
        (segment,) = (await asr(here, query="word_timestamps=false")).json()["segments"]
    assert segment.keys() == {"text", "start_time", "end_time", "speaker_id", "speaker_confidence"}


@pytest.mark.parametrize(
    ("content", "query"),
    [
        (WAV, "format=wav"),
        (WAV, "format=pcm"),
        (WAV, "format=PCM&sample_rate=8000"),
        (WAV, "format=mp3"),
        (WAV, ""),
        (audio_files.pcm16(said(400)), "format=pcm"),
        (audio_files.pcm16(said(400)), "format=wav&sample_rate=16000"),
        (audio_files.pcm16(said(400)) + b"\x01", "format=wav"),
        (audio_files.pcm16(said(400)), ""),
        (audio_files.pcm16(said(400, 8000)), "format=pcm&sample_rate=8000"),
        (audio_files.pcm16(said(400, 22_050)), "format=pcm&sample_rate=22050"),
        (audio_files.pcm16(said(400, 24_000)), "sample_rate=24000"),
        (audio_files.mp3(said(400), 16_000), "format=mp3"),
        (audio_files.mp3(said(400), 16_000), "format=wav"),
        (audio_files.mp3(said(400), 16_000), ""),
        (audio_files.ogg_opus(said(400), 16_000), "format=opus"),
        (audio_files.adts(said(400), 16_000), "format=AAC"),
        (audio_files.amr_nb(said(400, 8000), 8000), "format=amr"),
    ],
    # Not the bytes, some of which are random: workers would disagree on what there is to run.
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
async def test_the_content_tells_what_it_is(content: bytes, query: str) -> None:
    async with world() as here:
        body = (await asr(here, content, query)).json()
    assert body["result"] == TEXTS[400], body
    assert body["duration"] == pytest.approx(3, abs=0.15)


async def test_a_body_may_come_in_chunks_of_unknown_number() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(WAV), 7001):
            yield WAV[at : at + 7001]

    async with world() as here:
        response = await here.client.post(URL, content=chunks())
    assert response.request.headers["transfer-encoding"] == "chunked"
    assert response.json()["result"] == TEXTS[400]


def silent_speex(seconds: float) -> bytes:
    """Ogg Speex of the silent kind, the only one that can be written by hand."""

    def page(packets: list[bytes], number: int, samples: int, flags: int) -> bytes:
        lengths = bytes(len(packet) for packet in packets)
        head = struct.pack("<4sBBqIII", b"OggS", 0, flags, samples, 7, number, 0)
        whole = head + bytes([len(lengths)]) + lengths + b"".join(packets)
        return whole[:22] + struct.pack("<I", ogg_checksum(whole)) + whole[26:]

    header = struct.pack("<8s20s13i", b"Speex   ", b"1.2", 1, 80, 8000, 0, 4, 1, -1, 160, 0, 1, 0, 0, 0)
    # Wide band: no (1 bit); submode 0 (4 bits); terminator 15 (5 bits).
    frames = [bytes([0b00000011, 0b11000000])] * round(seconds * 50)
    return b"".join(
        (
            page([header], 0, 0, 2),
            page([struct.pack("<I4sI", 4, b"test", 0)], 1, 0, 0),
            page(frames, 2, len(frames) * 160, 4),
        )
    )


def ogg_checksum(page: bytes) -> int:
    """RFC 3533: polynomial 0x04c11db7, nothing inverted."""
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFF_FFFF
    return value


async def test_speex_is_decoded() -> None:
    async with world() as here:
        body = (await asr(here, silent_speex(2), "format=speex&sample_rate=8000")).json()
    assert (body["status"], body["result"], body["duration"]) == (20000000, "", 2.0)


async def test_silence_is_an_empty_result() -> None:
    async with world() as here:
        body = (await asr(here, SILENCE)).json()
    assert (body["status"], body["result"], body["segments"]) == (20000000, "", [])


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_audio_by_address(method: str) -> None:
    async with world() as here:
        here.fetcher.files["http://files.test/a?b=c"] = WAV
        response = await here.client.request(
            method, URL, params={"audio_address": "http://files.test/a?b=c", "appkey": "x"}
        )
    assert response.json()["result"] == BARE[400]


@pytest.mark.parametrize("model", ["paraformer-starter", "paraformer-large", "qwen3-asr", "default", ""])
async def test_names_of_the_model(model: str) -> None:
    async with world() as here:
        assert (await asr(here, query=f"model_id={model}")).status_code == 200


def test_vocabulary_is_literal_hotwords_and_corrections() -> None:
    assert parse_vocabulary("阿里巴巴 20 通义 15.5 达摩院") == HotwordList(
        (Hotword("阿里巴巴", 20.0), Hotword("通义", 15.5), Hotword("达摩院"))
    )
    assert parse_vocabulary("110 20,警察") == HotwordList((Hotword("110", 20.0), Hotword("警察")))
    fixed = HotwordList((Hotword("天气", 3.0),), (Correction("北京", "南京"),))
    assert parse_vocabulary("北京=>南京 天气 3") == fixed
    kept_there = "0123456789abcdef0123456789abcdef"
    assert parse_vocabulary(kept_there) == HotwordList(elsewhere=kept_there)
    with pytest.raises(ValueError, match="=>"):
        parse_vocabulary("=>x")


def test_word_filters_become_corrections() -> None:
    rules = '{"filter_with_signed": {"word_list": ["测试"]}, "filter_with_empty": {"word_list": ["开始"]}}'
    assert parse_word_filter(rules) == (Correction("测试", "**"), Correction("开始", ""))
    for wrong in ("[]", "x", '{"filter_with_signed": {"word_list": [1]}}', '{"y": 1}'):
        with pytest.raises(ValueError, match=r"must be|unknown"):
            parse_word_filter(wrong)
    with pytest.raises(ValueError, match="no list of sensitive words"):
        parse_word_filter({"system_reserved_filter": True})


ERRORS: list[tuple[int, int, str, str, bytes, str, dict[str, str]]] = [
    (400, 40000002, "INVALID_MESSAGE", "Gateway:MESSAGE_INVALID:音频数据为空", b"", "", {}),
    (400, 40000003, "INVALID_PARAMETER", "Gateway:PARAMETER_INVALID:", WAV, "sample_rate=fast", {}),
    (400, 40000003, "INVALID_PARAMETER", "Gateway:PARAMETER_INVALID:", WAV, "disfluency=perhaps", {}),
    (400, 40000003, "INVALID_PARAMETER", "Gateway:PARAMETER_INVALID:", WAV, "model_id=whisper-1", {}),
    (400, 40000003, "INVALID_PARAMETER", "Gateway:PARAMETER_INVALID:", WAV, "vocabulary_id=%3D%3Ex", {}),
    (400, 40000003, "INVALID_PARAMETER", "Gateway:PARAMETER_INVALID:", WAV, "vocabulary_id=" + "a" * 513, {}),
    (400, 40000003, "INVALID_PARAMETER", "Gateway:PARAMETER_INVALID:", WAV, "speech_noise_threshold=2", {}),
    (
        400,
        40000003,
        "INVALID_PARAMETER",
        "Gateway:PARAMETER_INVALID:",
        b"--x\r\n",
        "",
        {"content-type": "multipart/form-data; boundary=x"},
    ),
    (400, 40000009, "INVALID_PARAMETER", "The WAV file is truncated", WAV[:20], "format=wav", {}),
    (400, 40000009, "INVALID_PARAMETER", "The WAV header announces", WAV[: len(WAV) // 2], "", {}),
    (400, 40270001, "INVALID_PARAMETER", "The format 'xyz' is not supported", WAV, "format=xyz", {}),
    (400, 40270001, "INVALID_PARAMETER", "Monkey's Audio files", b"MAC " + bytes(4000), "format=pcm", {}),
    (
        400,
        40270003,
        "INVALID_PARAMETER",
        "The file is not audio: its content looks like text",
        b"{}" * 500,
        "",
        {},
    ),
    (
        400,
        40270003,
        "INVALID_PARAMETER",
        "The file is not audio in any known",
        audio_files.pcm16(said(400)),
        "format=mp3",
        {},
    ),
    (400, 40270003, "INVALID_PARAMETER", "The FLAC file is ", audio_files.flac(TWO, 16_000)[:9000], "", {}),
    (400, 40270003, "INVALID_PARAMETER", "", bytes(200), "format=pcm", {}),
    (
        400,
        40270004,
        "INVALID_PARAMETER",
        "The MP4/M4A file holds no audio track",
        audio_files.video(None),
        "",
        {},
    ),
    (400, 40270006, "INVALID_PARAMETER", "The server of the recording", b"", "audio_address=http://x/", {}),
    (400, 41010101, "UNSUPPORTED_SAMPLE_RATE", "The sample rate 44100", WAV, "sample_rate=44100", {}),
]


@pytest.mark.parametrize(
    ("http", "status", "name", "message", "content", "query", "headers"),
    ERRORS,
    ids=lambda value: str(value)[:24] if isinstance(value, int | str) else "",
)
async def test_errors_field_by_field(
    http: int, status: int, name: str, message: str, content: bytes, query: str, headers: dict[str, str]
) -> None:
    async with world() as here:
        response = await here.client.post(f"{URL}?{query}", content=content, headers=headers)
    check_error(response, http, status, name, message)


def check_error(response: httpx.Response, http: int, status: int, name: str, message: str) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    assert body.keys() == {
        *("task_id", "result", "status", "message", "error_code", "timestamp", "details"),
    }
    assert response.status_code == http
    assert response.headers["task_id"] == body["task_id"]
    assert re.fullmatch("[0-9a-f]{32}", body["task_id"])
    assert (body["status"], body["error_code"], body["result"]) == (status, name, "")
    assert body["message"].startswith(message)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body["timestamp"])
    return body


def test_the_document_lists_these_errors() -> None:
    text = (ROOT / "docs" / "aliyun.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d{8}) \| (\d{3}) \| `(\w+)` \|", text, re.MULTILINE)
    listed = {(int(http), int(status), name) for status, http, name in rows}
    assert {error[:3] for error in ERRORS} <= listed
    assert all(f"`{name}`" in text and str(code) in text for name, code in CODES.items())


async def test_an_error_names_its_parameter() -> None:
    async with world() as here:
        body = (await asr(here, query="disfluency=perhaps")).json()
    assert body["details"] == {"param": "disfluency"}
    assert "'perhaps' of 'disfluency'" in body["message"]


async def test_an_upload_that_is_too_large() -> None:
    async with world(max_audio_size=0.01) as here:
        check_error(await asr(here), 400, 40000000, "DEFAULT_CLIENT_ERROR", "The upload is larger than")


@pytest.mark.parametrize(
    ("headers", "query"),
    [({}, ""), ({"X_NLS_Token": "a-wrong-token"}, "appkey=x"), ({}, "token=a-wrong-token")],
)
async def test_a_token_that_is_not_valid(headers: dict[str, str], query: str) -> None:
    async with world(api_key="the-right-key") as here:
        response = await asr(here, WAV, query, **headers)
    sent = "a-wrong-token" if headers or query else ""
    message = f"Gateway:ACCESS_DENIED:The token '{sent}' is invalid!"
    body = check_error(response, 400, 40000001, "AUTHENTICATION_FAILED", message)
    assert body["message"] == message


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"X_NLS_Token": "the-right-key"}, ""),
        ({"Authorization": "Bearer the-right-key"}, ""),
        ({}, "token=the-right-key"),
    ],
)
async def test_a_token_may_come_in_any_place(headers: dict[str, str], query: str) -> None:
    async with world(api_key="the-right-key") as here:
        assert (await asr(here, WAV, query, **headers)).json()["result"] == BARE[400]


async def test_overload_says_when_to_come_back() -> None:
    async with world(max_concurrent_files=1) as here:
        with here.transcriber.admit():
            response = await asr(here)
        check_error(response, 429, 40000005, "TOO_MANY_REQUESTS", "Gateway:TOO_MANY_REQUESTS:")
        assert int(response.headers["retry-after"]) >= 1
        assert (await asr(here)).status_code == 200


async def test_a_client_that_sends_more_than_its_share() -> None:
    async with world(rate_limit="1/hour") as here:
        assert (await asr(here)).status_code == 200
        response = await asr(here)
    check_error(response, 429, 40000005, "TOO_MANY_REQUESTS", "Gateway:TOO_MANY_REQUESTS:")
    assert int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("fault", "http", "status", "name", "message"),
    [
        (
            UpstreamLost("The Vad model was lost."),
            503,
            50000001,
            "INTERNAL_GRPC_ERROR",
            "The Vad model was lost.",
        ),
        (RuntimeError("secret"), 500, 50000000, "DEFAULT_SERVER_ERROR", "The server met an unexpected fault"),
    ],
)
async def test_faults_of_the_server(
    fault: Exception, http: int, status: int, name: str, message: str
) -> None:
    async with world() as here:
        here.graph.fault = fault
        response = await asr(here)
    check_error(response, http, status, name, message)
    assert "secret" not in response.text


async def test_the_noise_threshold_reaches_detection() -> None:
    async with world() as here:
        await asr(here, query="speech_noise_threshold=0.5")
        assert last_threshold(here.graph) == 0.5


def last_threshold(graph: ToneGraph) -> float | None:
    return graph.vad_options[-1].speech_noise_threshold


async def test_models_have_the_fields_of_both_generations() -> None:
    async with world() as here:
        body = (await here.client.get(f"{URL}/models")).json()
        here.states["Paraformer"] = "UPDATING"
        later = (await here.client.get(f"{URL}/models")).json()
    (model, other), (entry, _) = body["models"], body["declared_entries"]
    assert model.keys() == {
        *("id", "name", "engine", "description", "languages", "default", "loaded", "supports_realtime"),
        *("offline_model", "realtime_model", "asr_model_mode", "capabilities"),
    }
    assert entry.keys() == model.keys() - {"loaded", "asr_model_mode"} | {"kind"}
    assert model["offline_model"] == {"path": "models/starter/paraformer", "exists": True}
    assert (body["total"], body["loaded_count"], body["declared_count"]) == (2, 2, 2)
    assert other.keys() == model.keys()
    assert (other["id"], other["engine"], other["default"]) == ("qwen3-asr-starter", "qwen3", False)
    assert len(other["languages"]) == 30
    assert {"context", "hotwords"} <= set(other["capabilities"])
    assert model["capabilities"] == ["word_times"]
    assert other["offline_model"]["path"] == "models/starter/qwen3-asr"
    assert body["asr_model_mode"] == "all"
    assert body["runtime"] == {
        "loaded_model_ids": ["paraformer-starter", "qwen3-asr-starter"],
        "loaded_count": 2,
        "default_offline_model_id": "paraformer-starter",
    }
    assert (later["models"][0]["loaded"], later["loaded_count"]) == (False, 1)
    assert later["runtime"]["loaded_model_ids"] == ["qwen3-asr-starter"]


async def test_health_tells_what_is_true() -> None:
    async with world(device="cpu") as here:
        body = (await here.client.get(f"{URL}/health")).json()
        here.states["Vad"] = "UNHEALTHY"
        later = await here.client.get(f"{URL}/health")
    assert body.pop("version")
    assert body == {
        "status": "healthy",
        "model_loaded": True,
        "device": "cpu",
        "message": "All models are ready.",
        "loaded_models": ["paraformer-starter", "qwen3-asr-starter"],
        "memory_usage": None,
    }
    assert later.status_code == 200
    assert later.json()["status"] == "unhealthy"
    assert "Vad is UNHEALTHY" in later.json()["message"]
