"""``/ws/v1/asr/qwen`` message by message, over a model that writes what the audio's levels spell."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deployments.messages import AudioSlice, Hypothesis, Pcm
from serve_app.api.qwen.intake import without_header
from serve_app.errors import UpstreamLost
from tests.dashscope_clients import Event, Socket, dashscope, names, sessions_of
from tests.funasr_world import wav_file
from tests.generative_graph import WritingGraph
from tests.live_graph import samples_of
from tests.live_sessions import PAUSE, characters, tones
from tests.nls_clients import nls_server

PATH = "/ws/v1/asr/qwen"
STOP = {"type": "stop"}
LONG = [*range(1, 26)]
"""7.5 seconds without a pause."""


@pytest.fixture
def graph() -> WritingGraph:
    return WritingGraph()


@pytest.fixture
async def url(graph: WritingGraph) -> AsyncIterator[str]:
    async with nls_server(graph) as address:
        yield address
        assert await sessions_of(address) == 0


def start(**payload: Any) -> Event:
    return {"type": "start", "payload": payload}


async def say(client: Socket, audio: bytes, size: int = 6400, pause: float = 0.01) -> None:
    for begin in range(0, len(audio), size):
        await client.send(audio[begin : begin + size])
        await asyncio.sleep(pause)


async def recognized(
    url: str, audio: bytes, size: int = 6400, pause: float = 0.01, **payload: Any
) -> list[Event]:
    """All that is told of one recognition."""
    async with dashscope(url, PATH) as client:
        await client.send(start(**payload))
        await say(client, audio, size, pause)
        await client.send(STOP)
        events, closed = await client.closed()
    assert closed == 1000
    assert names(events)[0] == "started"
    assert names(events)[-1] == "final"
    return events


def final_of(events: list[Event]) -> Event:
    result: Event = events[-1]["result"]
    return result


def errors_of(events: list[Event]) -> list[str]:
    return [event["error_code"] for event in events if event["type"] == "error"]


async def test_every_field_of_every_message(url: str) -> None:
    said = [[1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12], [13, 14]]
    audio = tones([*said[0], *PAUSE, *said[1], *PAUSE, *said[2]])
    async with dashscope(url, f"{PATH}?task_id=mine") as client:
        await client.send(start(chunk_size_sec=1, context="names"))
        await say(client, audio.tobytes())
        await client.send(STOP)
        events, closed = await client.closed()
    assert closed == 1000
    assert {event["task_id"] for event in events} == {"mine"}
    assert events[0]["params"] == {
        "format": "pcm",
        "sample_rate": 16000,
        "language": None,
        "context": "names",
        "chunk_size_sec": 1.0,
        "unfixed_chunk_num": 2,
        "unfixed_token_num": 5,
        "enable_inverse_text_normalization": True,
        "max_sentence_silence": 800,
    }
    texts = [characters(levels) + "。" for levels in said]
    for index in (0, 1):
        confirmed = texts[:index]
        results = [event for event in events if event["type"] == "result" and event["segment_index"] == index]
        assert results
        for event in results:
            (result,) = event["results"]
            assert event["confirmed_segments_count"] == index
            current = result["current_segment_text"]
            assert characters(said[index]).startswith(current)
            assert result["text"] == "\n".join((*confirmed, current))
            assert (result["language"], result["is_partial"]) == ("Chinese", True)
            assert result["segment_index"] == index
            assert 0 <= result["stable_length"] <= len(current)
    chunks = [event["results"][0]["chunk_id"] for event in events if event["type"] == "result"]
    assert chunks == [*range(1, len(chunks) + 1)]
    ends = [event for event in events if event["type"] == "segment_end"]
    assert [(end["segment_index"], end["reason"]) for end in ends] == [(0, "silence"), (1, "silence")]
    assert [end["confirmed_texts"] for end in ends] == [texts[:1], texts[:2]]
    second = ends[1]["result"]
    assert (second["text"], second["segment_text"]) == ("\n".join(texts[:2]), texts[1])
    assert second["language"] == "Chinese"
    assert [word["text"] for word in second["words"]] == [*characters(said[1])]
    assert [word["punctuation"] for word in second["words"]] == ["", "", "", "", "。"]
    assert second["begin_time"] <= second["words"][0]["begin_time"] == 3300
    assert second["words"][-1]["end_time"] <= second["end_time"]
    starts = [event["segment_index"] for event in events if event["type"] == "segment_start"]
    assert starts == [1, 2]
    order = [event["type"] for event in events if event["type"] != "result"]
    assert order == ["started", *["segment_end", "segment_start"] * 2, "final"]
    final = final_of(events)
    assert (final["text"], final["full_text"]) == (texts[2], "\n".join(texts))
    assert (final["language"], final["total_chunks"], final["total_segments"]) == ("Chinese", len(chunks), 3)
    segments = [
        {key: segment[key] for key in ("index", "text", "language", "reason")}
        for segment in final["segments"]
    ]
    reasons = ["silence", "silence", "final"]
    assert segments == [
        {"index": index, "text": text, "language": "Chinese", "reason": reason}
        for index, (text, reason) in enumerate(zip(texts, reasons, strict=True))
    ]
    assert [word["text"] for word in final["segments"][2]["words"]] == [*characters(said[2])]


async def test_what_a_start_asks_for_reaches_the_model(url: str, graph: WritingGraph) -> None:
    events = await recognized(
        url,
        tones(LONG).tobytes(),
        language="四川话",
        context="阿里",
        chunk_size_sec=0.5,
        unfixed_chunk_num=1,
        unfixed_token_num=2,
        enable_inverse_text_normalization=False,
        max_sentence_silence=600,
        unknown="ignored",
        sample_rate=None,
    )
    params = events[0]["params"]
    assert (params["language"], params["max_sentence_silence"]) == ("Chinese", 600)
    first, second = graph.decodings[:2]
    assert (first.options.model, first.options.language, first.options.context) == (
        "qwen3-asr-starter",
        "zh",
        "阿里",
    )
    assert (first.samples, first.prefix) == (9600, ())
    assert second.prefix == ()
    assert graph.decodings[3].prefix
    (final,) = graph.finals
    assert replace(final, itn=first.options.itn) == first.options
    assert final.word_times


@pytest.mark.parametrize(
    ("payload", "param", "code"),
    [
        ({"format": "mp3"}, "format", "INVALID_PARAMETER"),
        ({"sample_rate": 1000}, "sample_rate", "UNSUPPORTED_SAMPLE_RATE"),
        ({"sample_rate": "fast"}, "sample_rate", "INVALID_PARAMETER"),
        ({"language": "Klingon"}, "language", "INVALID_PARAMETER"),
        ({"language": 5}, "language", "INVALID_PARAMETER"),
        ({"context": "x" * 20_000}, "context", "INVALID_PARAMETER"),
        ({"chunk_size_sec": 0}, "chunk_size_sec", "INVALID_PARAMETER"),
        ({"chunk_size_sec": float("nan")}, "chunk_size_sec", "INVALID_PARAMETER"),
        ({"unfixed_chunk_num": -1}, "unfixed_chunk_num", "INVALID_PARAMETER"),
        ({"unfixed_token_num": 1.5}, "unfixed_token_num", "INVALID_PARAMETER"),
    ],
)
async def test_a_bad_parameter_is_named_and_the_next_start_counts(
    url: str, payload: dict[str, Any], param: str, code: str
) -> None:
    async with dashscope(url, PATH) as client:
        await client.send(start(**payload))
        error = await client.event()
        await client.send(start())
        assert (await client.event())["type"] == "started"
    assert set(error) == {"type", "error_code", "code", "message", "task_id", "timestamp", "details"}
    assert (error["type"], error["error_code"], error["code"]) == ("error", code, code)
    assert error["details"] == {"param": param}
    assert error["message"].endswith(".")
    assert len(error["task_id"]) == 8
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", error["timestamp"])


async def test_messages_that_do_not_fit_are_told_and_change_nothing(url: str) -> None:
    async with dashscope(url, PATH) as client:
        for _ in range(3):
            await client.send(tones([1]).tobytes())
        for message in (STOP, "hello", "[]", {"type": "pause"}, {"type": "start", "payload": [1]}):
            await client.send(message)
        await client.send({"type": "start"})
        await client.send(start())
        await say(client, tones([1, 2, 3]).tobytes())
        await client.send({"kind": "stop"})
        await client.send(STOP)
        events, _ = await client.closed()
    assert errors_of(events) == ["INVALID_STATE"] * 2 + ["INVALID_MESSAGE"] * 4 + [
        "INVALID_STATE",
        "INVALID_MESSAGE",
    ]
    assert final_of(events)["text"] == characters([1, 2, 3]) + "。"


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("headers", ["none", "one", "each"])
async def test_samples_come_with_headers_and_without(
    url: str, graph: WritingGraph, rate: int, headers: str
) -> None:
    heard: list[Pcm] = []
    hear = graph.transcribe

    async def listen(audio: AudioSlice, **options: Any) -> Any:
        heard.append(samples_of(audio))
        return await hear(audio, **options)

    graph.transcribe = listen  # type: ignore[method-assign]  # to see what reaches the model
    audio = np.repeat(np.array([5, 9, 13], np.int16) * 1000, rate // 2)
    frames = [part.tobytes() for part in np.array_split(audio, 20)]
    if headers == "each":
        frames = [wav_file(frame, rate) for frame in frames]
    elif headers == "one":
        frames[0] = wav_file(audio.tobytes(), rate)[:44] + frames[0]
    async with dashscope(url, PATH) as client:
        await client.send(start(format="WAV", sample_rate=rate if headers == "none" else 16000))
        for frame in frames:
            await client.send(frame)
        await client.send(STOP)
        events, closed = await client.closed()
    assert closed == 1000
    assert final_of(events)["text"]
    (samples,) = heard
    assert len(samples) == pytest.approx(24_000, abs=200)
    assert samples[4000::8000].tolist() == pytest.approx([5000, 9000, 13_000], rel=0.02)


def test_only_whole_headers_are_taken_off_frames() -> None:
    samples = tones([1]).tobytes()
    assert without_header(wav_file(samples)) == samples
    longer = wav_file(samples)
    longer = longer[:36] + b"LIST\x04\0\0\0abcd" + longer[36:]
    assert without_header(longer) == samples
    for frame in (samples, b"RIFF", wav_file(samples)[:20], b"RIFF" + samples):
        assert without_header(frame) == frame


async def test_frames_of_any_size_and_all_at_once(url: str) -> None:
    audio = tones([*LONG, *PAUSE, 1, 2, 3]).tobytes()
    texts = [characters(LONG) + "。", characters([1, 2, 3]) + "。"]
    for size, pause in ((len(audio), 0.0), (4001, 0.001)):
        events = await recognized(url, audio, size, pause)
        assert final_of(events)["full_text"] == "\n".join(texts)


async def test_long_speech_is_cut(graph: WritingGraph) -> None:
    async with nls_server(graph, live_max_sentence_sec=5) as url:
        events = await recognized(url, tones([*LONG[:13], 0, *LONG[13:]]).tobytes())
    (end,) = [event for event in events if event["type"] == "segment_end"]
    assert end["reason"] == "max_duration"
    assert final_of(events)["full_text"].replace("。\n", "") == characters(LONG) + "。"


async def test_nobody_speaks(url: str) -> None:
    events = await recognized(url, bytes(64_000))
    assert names(events) == ["started", "final"]
    assert final_of(events) == {
        "text": "",
        "full_text": "",
        "language": None,
        "total_chunks": 0,
        "total_segments": 0,
        "segments": [],
    }


async def test_what_nobody_understands_is_no_segment(url: str, graph: WritingGraph) -> None:
    hear = graph.transcribe

    async def deaf(audio: AudioSlice, **options: Any) -> Any:
        heard = await hear(audio, **options)
        return heard if len(heard.words) > 1 else replace(heard, words=())

    graph.transcribe = deaf  # type: ignore[method-assign]  # of one kind of speech
    events = await recognized(url, tones([1, *PAUSE, 2, 3, *PAUSE, 4, 5]).tobytes())
    assert [event["segment_index"] for event in events if event["type"] == "segment_end"] == [0]
    assert [segment["text"] for segment in final_of(events)["segments"]] == ["丂七。", "丄丅。"]


async def test_two_clients_at_once_hear_their_own(url: str) -> None:
    audios = [tones([*LONG[begin : begin + 12], *PAUSE, 1]).tobytes() for begin in (0, 12)]
    heard = await asyncio.gather(*(recognized(url, audio) for audio in audios))
    for begin, events in zip((0, 12), heard, strict=True):
        assert final_of(events)["full_text"].split("\n")[0] == characters(LONG[begin : begin + 12]) + "。"


async def test_a_key_is_asked_for_where_there_is_one(graph: WritingGraph) -> None:
    async with nls_server(graph, api_key="secret-key") as url:
        async with dashscope(url, PATH) as stranger:
            events, closed = await stranger.closed()
            assert (errors_of(events), closed) == (["AUTHENTICATION_FAILED"], 1008)
        async with dashscope(url, PATH, "secret-key") as client:
            await client.send(start())
            assert (await client.event())["type"] == "started"
        async with dashscope(url, f"{PATH}?token=secret-key") as client:
            await client.send(start())
            assert (await client.event())["type"] == "started"
        assert await sessions_of(url) == 0


async def test_without_the_model_the_start_is_refused(graph: WritingGraph) -> None:
    async with nls_server(graph, qwen3_model="none") as url, dashscope(url, PATH) as client:
        await client.send(start())
        events, closed = await client.closed()
    assert (errors_of(events), closed) == (["DEFAULT_SERVER_ERROR"], 1000)
    assert "QWEN3_MODEL" in events[0]["message"]


async def test_more_sessions_than_there_may_be(graph: WritingGraph) -> None:
    async with nls_server(graph, max_live_sessions=1) as url:
        async with dashscope(url, PATH) as first, dashscope(url, PATH) as second:
            await first.send(start())
            await first.event()
            await second.send(start())
            events, closed = await second.closed()
            assert (errors_of(events), closed) == (["TOO_MANY_REQUESTS"], 1013)
        assert await sessions_of(url) == 0


@pytest.mark.parametrize("limit", ["live_idle_timeout_sec", "live_max_connection_sec"])
async def test_who_is_silent_or_there_for_too_long_gets_what_was_said(
    graph: WritingGraph, limit: str
) -> None:
    async with nls_server(graph, **{limit: 0.4}) as url:
        async with dashscope(url, PATH) as client:
            await client.send(start())
            await client.send(tones([1, 2, 3]).tobytes())
            events, closed = await client.closed()
        assert names(events)[-2:] == ["final", "error"]
        assert events[-2]["result"]["text"] == characters([1, 2, 3]) + "。"
        assert (errors_of(events), closed) == (["IDLE_TIMEOUT"], 1000)
        assert await sessions_of(url) == 0


async def test_damaged_audio_ends_the_recognition(url: str) -> None:
    async with dashscope(url, PATH) as client:
        await client.send(start(format="wav"))
        await client.send(wav_file(b"")[:30])
        await client.send(STOP)
        events, closed = await client.closed()
    assert errors_of(events) == ["DEFAULT_CLIENT_ERROR"]
    assert closed == 1000


class Lost(WritingGraph):
    async def transcribe(self, *given: Any, **options: Any) -> Any:
        raise UpstreamLost("The model was lost.")


async def test_a_lost_model_is_told() -> None:
    async with nls_server(Lost()) as url:
        async with dashscope(url, PATH) as client:
            await client.send(start())
            await client.send(tones([1, 2, 3]).tobytes())
            await client.send(STOP)
            events, closed = await client.closed()
        assert (errors_of(events), closed) == (["DEFAULT_SERVER_ERROR"], 1011)
        assert events[-1]["message"] == "The model was lost."
        assert await sessions_of(url) == 0


class Slow(WritingGraph):
    """Steps never end."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()

    async def decode(self, audio: AudioSlice, tail: Pcm, *given: Any, **options: Any) -> Hypothesis:
        async with self._call("decode"):
            self.begun.set()
            await asyncio.sleep(3600)
        raise AssertionError


async def test_clients_that_go_in_the_middle_leave_nothing_behind() -> None:
    graph = Slow()
    async with nls_server(graph) as url:
        async with dashscope(url, PATH) as client:
            await client.send(start(chunk_size_sec=0.2))
            await client.send(tones(LONG).tobytes())
            await graph.begun.wait()
            client.connected.transport.abort()
        assert await sessions_of(url) == 0
        assert graph.running["decode"] == 0


async def test_a_task_id_may_be_anything(url: str) -> None:
    async with dashscope(url, f"{PATH}?task_id={'%F0%9F%98%80' * 100}") as client:
        await client.send(json.dumps({"type": "pause"}))
        assert (await client.event())["task_id"].startswith("😀")
