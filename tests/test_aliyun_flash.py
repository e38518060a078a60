"""``/stream/v1/FlashRecognizer``: channels, times, its own parameters and errors."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any, BinaryIO

import httpx
import numpy as np
import pytest

from serve_app.api.aliyun.recording import shared
from serve_app.errors import UpstreamLost
from tests import audio_files
from tests.aliyun_world import TEXTS, World, said, world
from tests.test_aliyun_asr import check_error

URL = "/stream/v1/FlashRecognizer"
SILENCE = np.zeros(24_000, np.float32)


def call(rate: int, left: int = 400, right: int = 800) -> bytes:
    """A call whose channels say different things, the right one a second later."""
    first, second = said(left, rate), said(right, rate, lead=1.5)
    first = np.pad(first, (0, len(second) - len(first)))
    return audio_files.wav(np.stack([first, second], axis=1), rate)


async def flash(here: World, content: bytes, query: str = "") -> httpx.Response:
    return await here.client.post(
        f"{URL}?appkey=x&token=t&format=wav&{query}",
        content=content,
        headers={"content-type": "application/octet-stream"},
    )


def spoken(response: httpx.Response) -> list[tuple[int, str]]:
    sentences: list[dict[str, Any]] = response.json()["flash_result"]["sentences"]
    return [(item["channel_id"], item["text"]) for item in sentences]


async def test_the_answer_in_full() -> None:
    async with world() as here:
        response = await flash(here, audio_files.wav(said(800), 16_000), "enable_word_level_result=true")
    body = response.json()
    assert response.headers["task_id"] == body.pop("task_id")
    result = body["flash_result"]
    assert isinstance(result.pop("latency"), int)
    words = [("喂", "500", "1000", "，"), ("你", "1000", "1500", ""), ("好", "1500", "2000", "")]
    assert body == {
        "status": 20000000,
        "message": "SUCCESS",
        "flash_result": {
            "duration": 3000,
            "completed": True,
            "sentences": [
                {
                    "text": TEXTS[800],
                    "begin_time": 500,
                    "end_time": 2500,
                    "channel_id": 0,
                    "words": [
                        {"text": word, "begin_time": begin, "end_time": end, "punc": mark}
                        for word, begin, end, mark in [*words, ("吗", "2000", "2500", "？")]
                    ],
                }
            ],
        },
    }


async def test_words_only_if_asked_for() -> None:
    async with world() as here:
        (sentence,) = (await flash(here, audio_files.wav(said(800), 16_000))).json()["flash_result"][
            "sentences"
        ]
    assert "words" not in sentence


BOTH = [(0, TEXTS[400]), (1, TEXTS[800])]


@pytest.mark.parametrize(
    ("rate", "query", "expected"),
    [
        (8000, "", BOTH),
        (8000, "first_channel_only=false", BOTH),
        (8000, "first_channel_only=true", BOTH[:1]),
        (16_000, "", BOTH[:1]),
        (16_000, "first_channel_only=false", BOTH),
    ],
)
async def test_channels(rate: int, query: str, expected: list[tuple[int, str]]) -> None:
    async with world() as here:
        assert spoken(await flash(here, call(rate), query)) == expected


async def test_channels_of_a_compressed_file() -> None:
    samples = np.stack([said(400, 8000), said(800, 8000)], axis=1)
    async with world() as here:
        found = spoken(await flash(here, audio_files.mp3(samples, 8000, kbits=64), ""))
    assert sorted(found) == BOTH


async def test_a_long_call_is_read_by_two_at_once() -> None:
    """Long enough for several blocks and for a file on disk, so that readers get in each other's way."""
    pairs = [(400, 800), (800, 400), (400, 400), (800, 800)] * 12
    content = audio_files.wav(
        np.concatenate([np.stack([said(left, 8000), said(right, 8000)], axis=1) for left, right in pairs]),
        8000,
    )
    async with world(split_silence_sec=0.5, merge_segment_sec=0) as here:
        found = spoken(await flash(here, content))
    for channel in (0, 1):
        expected = "".join(TEXTS[pair[channel]] for pair in pairs)
        assert "".join(text for where, text in found if where == channel) == expected


class SlowFile(BytesIO):
    """Leaves time between finding a place and reading there."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        position = super().seek(offset, whence)
        time.sleep(0.001)
        return position


def test_readers_of_one_file_do_not_get_in_each_others_way() -> None:
    content = bytes(range(256)) * 8192
    readers = shared(SlowFile(content), 4)
    with ThreadPoolExecutor(4) as pool:
        assert all(data == content for data in pool.map(read_in_pieces, readers))
    reader = readers[0]
    assert (reader.seek(-3, 2), reader.read(), reader.seek(5), reader.read(1)) == (
        *(len(content) - 3, content[-3:], 5, content[5:6]),
    )


def read_in_pieces(reader: BinaryIO) -> bytes:
    return b"".join(iter(lambda: reader.read(100_000), b""))


async def test_a_fault_in_one_channel_is_the_answer() -> None:
    async with world() as here:
        here.graph.fault = UpstreamLost("The Vad model was lost.")
        response = await flash(here, call(8000))
        check_error(response, 503, 50000001, "INTERNAL_GRPC_ERROR", "The Vad model was lost.")
        here.graph.fault = None
        assert (await flash(here, call(8000))).status_code == 200


async def test_nobody_spoke() -> None:
    async with world() as here:
        body = check_error(
            await flash(here, audio_files.wav(SILENCE, 16_000)), 400, 40270002, "DEFAULT_CLIENT_ERROR", ""
        )
    assert body["message"] == "vad silent"


async def test_one_silent_channel_is_no_error() -> None:
    samples = np.stack([np.zeros(24_000, np.float32), said(800, 8000)], axis=1)
    async with world() as here:
        assert spoken(await flash(here, audio_files.wav(samples, 8000))) == [(1, TEXTS[800])]


async def test_audio_by_address_with_its_content_type() -> None:
    async with world() as here:
        here.fetcher.files["http://files.test/call.wav"] = call(8000)
        response = await here.client.post(
            URL,
            params={"appkey": "x", "audio_address": "http://files.test/call.wav"},
            headers={"content-type": "application/text"},
        )
    assert spoken(response) == BOTH


@pytest.mark.parametrize(
    ("query", "http", "status", "name", "message"),
    [
        ("sentence_max_length=3", 400, 40000003, "INVALID_PARAMETER", "Gateway:PARAMETER_INVALID:"),
        ("sentence_max_length=51", 400, 40000003, "INVALID_PARAMETER", "Gateway:PARAMETER_INVALID:"),
        ("special_word_filter=x", 400, 40000003, "INVALID_PARAMETER", "Gateway:PARAMETER_INVALID:"),
        ("speech_noise_threshold=-1.1", 400, 40000003, "INVALID_PARAMETER", "Gateway:PARAMETER_INVALID:"),
        ("sample_rate=11025", 400, 41010101, "UNSUPPORTED_SAMPLE_RATE", "The sample rate 11025"),
        ("format=doc", 400, 40270001, "INVALID_PARAMETER", "The format 'doc'"),
        ("audio_address=http://x/", 400, 40270006, "INVALID_PARAMETER", "The server of the recording"),
    ],
)
async def test_errors(query: str, http: int, status: int, name: str, message: str) -> None:
    async with world() as here:
        response = await here.client.post(f"{URL}?{query}", content=call(8000))
    check_error(response, http, status, name, message)


async def test_errors_of_the_body() -> None:
    async with world(api_key="right") as here:
        check_error(await flash(here, b"x"), 400, 40000001, "AUTHENTICATION_FAILED", "Gateway:ACCESS_DENIED:")
    async with world() as here:
        check_error(await flash(here, b""), 400, 40000002, "INVALID_MESSAGE", "Gateway:MESSAGE_INVALID:")
        check_error(await flash(here, call(8000)[:30]), 400, 40000009, "INVALID_PARAMETER", "The WAV file")


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ({"filter_with_signed": {"word_list": ["北京"]}}, "**的天气。"),
        ({"filter_with_empty": {"word_list": ["北京的"]}}, "天气。"),
    ],
)
async def test_words_are_masked_or_left_out(rules: dict[str, Any], text: str) -> None:
    async with world() as here:
        response = await here.client.post(
            URL,
            params={"special_word_filter": json.dumps(rules)},
            content=audio_files.wav(said(400), 16_000),
        )
    assert spoken(response) == [(0, text)]


async def test_sentences_are_split_where_they_get_too_long() -> None:
    async with world() as here:
        found = spoken(await flash(here, audio_files.wav(said(400), 16_000), "sentence_max_length=4"))
    assert "".join(text for _, text in found) == TEXTS[400]
    assert len(found) > 1
