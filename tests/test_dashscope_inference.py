"""DashScope's run-task protocol, message by message, over models that hear what the audio's levels spell."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from serve_app.api.dashscope import task
from serve_app.errors import Internal, UpstreamLost
from tests import audio_files
from tests.dashscope_clients import (
    INFERENCE,
    Event,
    Xiaozhi,
    action,
    dashscope,
    names,
    run_task,
    sentences,
    sessions_of,
    text_of,
    whole_task,
)
from tests.live_sessions import PAUSE, tones
from tests.nls_clients import nls_server
from tests.test_nls_protocol import HearingGraph

ONE = tones([1, 2, 3])
TWO = tones([1, 2, 3, *PAUSE, 4, 5])
FIRST, SECOND = "丁丂七", "丄丅"


@pytest.fixture
def graph() -> HearingGraph:
    return HearingGraph()


@pytest.fixture
async def url(graph: HearingGraph) -> AsyncIterator[str]:
    async with nls_server(graph) as address:
        yield address
        assert await sessions_of(address) == 0
        assert graph.streams == {}


def failure_of(event: Event) -> str:
    """The code of a ``task-failed``, all of whose fields are as they should be."""
    assert set(event) == {"header", "payload"}
    assert set(event["header"]) == {"task_id", "event", "error_code", "error_message", "attributes"}
    assert event["header"]["event"] == "task-failed"
    assert event["header"]["error_message"].endswith(".")
    assert event["payload"] == {}
    return str(event["header"]["error_code"])


async def test_every_field_of_every_event(url: str) -> None:
    events = await whole_task(url, TWO.tobytes())
    for event in events:
        assert set(event) == {"header", "payload"}
        assert event["header"]["task_id"] == "t" * 32
        assert event["header"]["attributes"] == {}
    assert names(events) == ["task-started", *["result-generated"] * (len(events) - 2), "task-finished"]
    assert events[0]["payload"] == {}
    assert events[-1]["payload"] == {"output": {}, "usage": {"duration": 3}}
    told = sentences(events)
    keys = {"sentence_id", "begin_time", "end_time", "text", "heartbeat", "sentence_end", "words"}
    assert {frozenset(sentence) for sentence in told} == {frozenset(keys)}
    assert not any(sentence["heartbeat"] for sentence in told)
    first, second = (sentence for sentence in told if sentence["sentence_end"])
    assert (first["sentence_id"], second["sentence_id"]) == (1, 2)
    assert (first["begin_time"], first["end_time"]) == (0, 1000)
    assert (second["begin_time"], second["end_time"]) == (2000, 2700)
    assert (first["text"], second["text"]) == (FIRST + "，", SECOND + "。")
    assert first["words"] == [
        {"begin_time": 0, "end_time": 100, "text": "丁", "punctuation": "", "fixed": True},
        {"begin_time": 300, "end_time": 400, "text": "丂", "punctuation": "", "fixed": True},
        {"begin_time": 600, "end_time": 700, "text": "七", "punctuation": "，", "fixed": True},
    ]
    usages = [event["payload"]["usage"] for event in events[1:-1]]
    ends = [sentence["end_time"] for sentence in told]
    assert [usage for usage in usages if usage] == [{"duration": 1}, {"duration": 3}]
    assert [usage is None for usage in usages] == [end is None for end in ends]


async def test_texts_are_cumulative_and_told_while_somebody_speaks(url: str) -> None:
    async with dashscope(url) as client:
        await client.send(run_task())
        await client.send(ONE.tobytes())
        partial = (await client.until("result-generated"))[-1]["payload"]["output"]["sentence"]
        assert (partial["end_time"], partial["sentence_end"]) == (None, False)
        assert FIRST.startswith(partial["text"])
        assert [word["text"] for word in partial["words"]] == list(partial["text"])
        assert not any(word["fixed"] for word in partial["words"])
        await client.send(action("finish-task"))
        events = await client.until("task-finished")
    assert text_of(events) == FIRST + "。"


@pytest.mark.parametrize("audio", [b"", bytes(32_000)])
async def test_nobody_speaks(url: str, audio: bytes) -> None:
    events = await whole_task(url, audio)
    assert names(events) == ["task-started", "task-finished"]
    assert events[-1]["payload"] == {"output": {}, "usage": {"duration": len(audio) // 32_000}}


async def test_parameters_reach_recognition(url: str, graph: HearingGraph) -> None:
    events = await whole_task(
        url,
        ONE.tobytes(),
        vocabulary_id=f"词 4 {FIRST[1]}=>零",
        special_word_filter={"filter_with_signed": {"word_list": [FIRST[2]]}},
        punctuation_prediction_enabled=False,
        max_sentence_silence="1200",
        speech_noise_threshold=0.5,
        language_hints=["zh", "en"],
        semantic_punctuation_enabled=True,
        multi_threshold_mode_enabled=True,
        diarization_enabled=True,
        speaker_count=2,
        timestamp_alignment_enabled=True,
        audio_event_detection_enabled=True,
        disfluency_removal_enabled=None,
        nobody_knows_this={"a": [1]},
    )
    assert text_of(events) == f"{FIRST[0]}零*"
    assert {options.max_end_silence_ms for options in graph.vad_options} == {1200}
    assert {options.speech_noise_threshold for options in graph.vad_options} == {0.5}


async def test_numbers_are_written_in_digits_unless_refused(url: str) -> None:
    """Level 3 is 七, 7 is 万."""
    audio = tones([3, 7]).tobytes()
    assert "7" in text_of(await whole_task(url, audio))
    plain = await whole_task(url, audio, inverse_text_normalization_enabled=False)
    assert text_of(plain) == "七万。"


async def test_vocabularies_beside_the_parameters(url: str) -> None:
    message = run_task(vocabulary_id="vocab-mine-0123456789abcdef0123456789abcdef")
    message["payload"]["resources"] = [
        {"resource_id": "丁=>万", "resource_type": "asr_phrase"},
        {"resource_id": "0123456789abcdef0123456789abcdef", "resource_type": "asr_phrase"},
    ]
    async with dashscope(url) as client:
        await client.send(message)
        await client.send(ONE.tobytes())
        await client.send(action("finish-task"))
        assert text_of(await client.until("task-finished")) == "万丂七。"


async def test_context_in_the_middle_is_accepted(url: str) -> None:
    async with dashscope(url) as client:
        await client.send(run_task())
        await client.send(ONE.tobytes())
        await client.send(action("continue-task", payload={"input": {"messages": [{"role": "user"}]}}))
        await client.send(action("finish-task"))
        assert text_of(await client.until("task-finished", "task-failed")) == FIRST + "。"


@pytest.mark.parametrize("size", [1, 3201, 1 << 22])
async def test_packets_of_any_size(url: str, size: int) -> None:
    audio = ONE.tobytes()[:28_000] if size == 1 else ONE.tobytes()
    assert text_of(await whole_task(url, audio, size=max(size, 7))) == FIRST + "。"


async def test_wav_whatever_was_announced(url: str) -> None:
    audio = audio_files.wav_header(len(ONE.tobytes())) + ONE.tobytes()
    for announced in ("wav", "pcm"):
        assert text_of(await whole_task(url, audio, format=announced, size=12_800)) == FIRST + "。"


async def test_narrowband_audio(url: str) -> None:
    events = await whole_task(url, TWO[::2].tobytes(), sample_rate=8000)
    ends = [sentence for sentence in sentences(events) if sentence["sentence_end"]]
    assert len(ends) == 2
    assert abs(ends[1]["begin_time"] - 2000) <= 20


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("opus", audio_files.ogg_opus),
        ("mp3", audio_files.mp3),
        ("aac", audio_files.adts),
        ("amr", audio_files.amr_nb),
    ],
)
async def test_compressed_audio(url: str, name: str, write: Any) -> None:
    """Levels that stand for characters do not survive compression, so only how much came out is looked at."""
    audio = write(np.tile(ONE, 2) / np.float32(32768), 16000)
    events = await whole_task(url, audio, format=name, size=1000)
    assert names(events)[-1] == "task-finished"
    assert 2 <= events[-1]["payload"]["usage"]["duration"] <= 3


BAD_PARAMETERS: list[tuple[dict[str, Any], str]] = [
    ({"format": "midi"}, "UNSUPPORTED_FORMAT"),
    ({"format": 7}, "InvalidParameter"),
    ({"sample_rate": "fast"}, "InvalidParameter"),
    ({"sample_rate": 0}, "UNSUPPORTED_FORMAT"),
    ({"sample_rate": 10**9}, "UNSUPPORTED_FORMAT"),
    ({"max_sentence_silence": 199}, "InvalidParameter"),
    ({"max_sentence_silence": 6001}, "InvalidParameter"),
    ({"disfluency_removal_enabled": "perhaps"}, "InvalidParameter"),
    ({"language_hints": "zh"}, "InvalidParameter"),
    ({"vocabulary_id": ["a"]}, "InvalidParameter"),
    ({"vocabulary_id": "=>b"}, "InvalidParameter"),
    ({"speech_noise_threshold": 2}, "InvalidParameter"),
    ({"special_word_filter": {"system_reserved_filter": True}}, "InvalidParameter"),
]


@pytest.mark.parametrize(("parameters", "code"), BAD_PARAMETERS)
async def test_bad_parameters(url: str, parameters: dict[str, Any], code: str) -> None:
    async with dashscope(url) as client:
        await client.send(run_task(**parameters))
        events, closed = await client.closed()
    assert [failure_of(event) for event in events] == [code]
    assert events[0]["header"]["task_id"] == "t" * 32
    assert closed == 1000


def without(message: Event, part: str, name: str) -> Event:
    return {**message, part: {key: value for key, value in message[part].items() if key != name}}


BAD_MESSAGES: list[Any] = [
    "",
    "{",
    "[" * 100_000,
    "[]",
    '"run-task"',
    "x" * (1 << 21),
    {},
    {"header": []},
    {"header": {"action": "run-task"}},
    {"header": {"action": "run-task", "task_id": 7}},
    {"header": {"action": "run-task", "task_id": "x" * 300}},
    action("start-task"),
    action("run-task", payload=[]),
    without(run_task(), "header", "action"),
    without(run_task(), "payload", "model"),
    {**run_task(), "header": {"action": "run-task", "task_id": "a", "streaming": "out"}},
    {**run_task(), "payload": {**run_task()["payload"], "task": "tts"}},
    {**run_task(), "payload": {**run_task()["payload"], "parameters": "pcm"}},
    {**run_task(), "payload": {**run_task()["payload"], "resources": {"a": 1}}},
    action("finish-task"),
    action("continue-task"),
    b"\0\0",
]


@pytest.mark.parametrize("message", BAD_MESSAGES, ids=range(len(BAD_MESSAGES)))
async def test_bad_messages(url: str, message: Any) -> None:
    async with dashscope(url) as client:
        await client.send(message)
        events, closed = await client.closed()
    assert [failure_of(event) for event in events] == ["InvalidParameter"]
    assert closed == 1000


@pytest.mark.parametrize(
    "message", [run_task("other"), run_task(), action("finish-task", "other"), "{", action("pause-task")]
)
async def test_what_was_said_before_a_mistake_is_told(url: str, message: Any) -> None:
    async with dashscope(url) as client:
        await client.send(run_task())
        await client.send(ONE.tobytes())
        await client.send(message)
        events, closed = await client.closed()
    assert text_of(events) == FIRST + "。"
    assert failure_of(events[-1]) == "InvalidParameter"
    assert (names(events).count("task-failed"), "task-finished" in names(events)) == (1, False)
    assert closed == 1000


async def test_tasks_follow_each_other_on_one_connection(url: str) -> None:
    async with dashscope(url) as client:
        for task_id, audio in (("one", TWO), ("two", ONE), ("two", ONE)):
            await client.send(run_task(task_id))
            await client.send(audio.tobytes())
            await client.send(action("finish-task", task_id))
            # What is late, and what is told twice, is no mistake.
            await client.send(audio.tobytes()[:3200])
            await client.send(action("finish-task", task_id))
            events = await client.until("task-finished", "task-failed")
            assert {event["header"]["task_id"] for event in events} == {task_id}
            assert names(events)[0] == "task-started"
            assert sentences(events)[0]["sentence_id"] == 1
            assert text_of(events).startswith(FIRST)


async def test_heartbeats_for_those_who_ask(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "HEARTBEAT_SECONDS", 0.05)
    async with dashscope(url) as client:
        await client.send(run_task(heartbeat=True))
        beats = sentences([*(await client.until("result-generated")), await client.event()])
        assert [(beat["heartbeat"], beat["end_time"], beat["sentence_end"]) for beat in beats] == [
            (True, None, False),
            (True, None, False),
        ]
        await client.send(ONE.tobytes())
        await client.send(action("finish-task"))
        assert text_of(await client.until("task-finished")) == FIRST + "。"
        await client.send(run_task())
        assert names([await client.event()]) == ["task-started"]
        with pytest.raises(TimeoutError):
            await client.event(0.3)


async def test_idle_clients_are_told_and_closed(graph: HearingGraph) -> None:
    async with nls_server(graph, live_idle_timeout_sec=0.3) as url:
        async with dashscope(url) as client:
            await client.send(run_task())
            await client.send(ONE.tobytes())
            events, closed = await client.closed()
        assert text_of(events) == FIRST + "。"
        assert (failure_of(events[-1]), closed) == ("ResponseTimeout", 1000)
        async with dashscope(url) as client:
            await client.send(run_task())
            await client.send(action("finish-task"))
            events, closed = await client.closed()
        assert (names(events), closed) == (["task-started", "task-finished"], 1000)
        assert await sessions_of(url) == 0


async def test_connections_have_a_lifetime(graph: HearingGraph) -> None:
    async with nls_server(graph, live_max_connection_sec=0.5) as url, dashscope(url) as client:
        await client.send(run_task())

        async def speak() -> None:
            for _ in range(20):
                await client.send(ONE.tobytes())
                await asyncio.sleep(0.1)

        speaking = asyncio.create_task(speak())
        events, closed = await client.closed()
        await asyncio.gather(speaking, return_exceptions=True)
    assert text_of(events).startswith(FIRST)
    assert (failure_of(events[-1]), closed) == ("ResponseTimeout", 1000)


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (UpstreamLost("A model was lost."), "ServiceUnavailable", "A model was lost."),
        (Internal("See the log."), "InternalError", "See the log."),
        (RuntimeError("secret"), "InternalError", None),
    ],
)
async def test_a_fault_of_the_server(
    url: str, graph: HearingGraph, fault: Exception, code: str, said: str | None
) -> None:
    graph.fault = fault
    async with dashscope(url) as client:
        await client.send(run_task())
        await client.send(TWO.tobytes())
        events, closed = await client.closed()
    assert failure_of(events[-1]) == code
    message = events[-1]["header"]["error_message"]
    assert message == said if said else "secret" not in message
    assert closed == 1011


async def test_more_sessions_than_there_may_be(graph: HearingGraph) -> None:
    async with nls_server(graph, max_live_sessions=1) as url:
        async with dashscope(url) as first, dashscope(url) as second:
            await first.send(run_task())
            await first.event()
            await second.send(run_task())
            events, closed = await second.closed()
            assert [failure_of(event) for event in events] == ["Throttling"]
            assert closed == 1013
            await first.send(ONE.tobytes())
            await first.send(action("finish-task"))
            assert text_of(await first.until("task-finished")) == FIRST + "。"
        assert await sessions_of(url) == 0


async def test_damaged_audio(url: str) -> None:
    events = await whole_task(url, b"RIFF\0\0\0\0WAVEfmt \1\0\0\0data" + bytes(64), format="wav")
    assert failure_of(events[-1]) == "DECODE_ERROR"
    events = await whole_task(url, ONE.tobytes(), format="opus")
    assert failure_of(events[-1]) == "DECODE_ERROR"
    events = await whole_task(url, b"fLaC" + bytes(64))
    assert failure_of(events[-1]) == "UNSUPPORTED_FORMAT"


@pytest.mark.parametrize("path", [INFERENCE, INFERENCE + "/", "/api-ws/v1/realtime"])
@pytest.mark.parametrize("key", [None, "wrong"])
async def test_who_has_no_key_gets_no_connection(graph: HearingGraph, path: str, key: str | None) -> None:
    async with nls_server(graph, api_key="right") as url:
        with pytest.raises(InvalidStatus) as refused:
            async with dashscope(url, path, key):
                pass
        assert refused.value.response.status_code == 401
        assert b'"InvalidApiKey"' in (refused.value.response.body or b"")
        async with dashscope(url, path, "right"):
            pass


async def test_a_client_with_all_its_places_taken(graph: HearingGraph) -> None:
    async with nls_server(graph, api_key="k", max_concurrent_per_key=1) as url, dashscope(url, key="k"):
        with pytest.raises(InvalidStatus) as refused:
            async with dashscope(url, key="k"):
                pass
        assert refused.value.response.status_code == 429
        assert "retry-after" in refused.value.response.headers


@pytest.mark.parametrize("code", [1000, 1001, None])
async def test_clients_that_go_in_the_middle(url: str, graph: HearingGraph, code: int | None) -> None:
    connected = await connect(url + INFERENCE, proxy=None, ping_interval=None)
    async with dashscope(url) as other:
        client = type(other)(connected)
        await client.send(run_task())
        await client.send(ONE.tobytes())
        await client.until("result-generated")
        if code is None:
            connected.transport.abort()
        else:
            await connected.close(code)


@pytest.mark.parametrize("manual", [False, True])
async def test_xiaozhi(url: str, manual: bool) -> None:
    audio = tones([1, 2, 3] if manual else [1, 2, 3, *PAUSE]).tobytes()
    frames = [audio[begin : begin + 1920] for begin in range(0, len(audio), 1920)]
    assert await Xiaozhi(manual=manual).talk(url, frames) == FIRST + "。，"[0 if manual else 1]
