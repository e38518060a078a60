"""Qwen's realtime protocol, message by message, over models that hear what the audio's levels spell."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import pytest

from serve_app.errors import UpstreamLost
from tests.dashscope_clients import (
    CLEAR,
    COMMIT,
    FINISH,
    REALTIME,
    Event,
    Socket,
    append,
    dashscope,
    names,
    sessions_of,
    text_of,
    update,
)
from tests.live_sessions import PAUSE, tones
from tests.nls_clients import nls_server
from tests.test_nls_protocol import HearingGraph

ONE = tones([1, 2, 3])
TWO = tones([1, 2, 3, *PAUSE, 4, 5])
FIRST, SECOND = "丁丂七", "丄丅"
MODEL = "qwen3-asr-flash-realtime"
PATH = f"{REALTIME}?model={MODEL}"
TRANSCRIPTION = "conversation.item.input_audio_transcription"
MANUAL = update(turn_detection=None)

ITEM = [
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.created",
    f"{TRANSCRIPTION}.completed",
]


@pytest.fixture
def graph() -> HearingGraph:
    return HearingGraph()


@pytest.fixture
async def url(graph: HearingGraph) -> AsyncIterator[str]:
    async with nls_server(graph, qwen3_model="none") as address:
        yield address
        assert await sessions_of(address) == 0
        assert graph.streams == {}


async def say(client: Socket, audio: bytes, size: int = 3200) -> None:
    for begin in range(0, len(audio), size):
        await client.send(append(audio[begin : begin + size]))


async def whole_session(url: str, *messages: Any) -> list[Event]:
    """All that is told when these are sent, and then the finish."""
    async with dashscope(url, PATH) as client:
        for message in (*messages, FINISH):
            await client.send(message)
        events, closed = await client.closed()
    assert closed == 1000
    assert names(events)[0] == "session.created"
    assert names(events)[-1] == "session.finished"
    ids = [event["event_id"] for event in events]
    assert len(set(ids)) == len(ids)
    return events


def named(events: Sequence[Event], name: str) -> list[Event]:
    """Events of one type, without their ids."""
    return [
        {key: value for key, value in event.items() if key not in ("event_id", "type")}
        for event in events
        if event["type"] == name
    ]


def errors_of(events: Sequence[Event]) -> list[dict[str, Any]]:
    errors = [event["error"] for event in events if event["type"] == "error"]
    for error in errors:
        assert set(error) == {"type", "code", "message", "param", "event_id"}
        assert error["message"].endswith(".")
    return errors


async def test_every_field_of_every_event_with_pauses_as_ends(url: str) -> None:
    events = await whole_session(url, append(TWO.tobytes()))
    told = [name for name in names(events) if name != f"{TRANSCRIPTION}.text"]
    assert told == ["session.created", *ITEM, *ITEM, "session.finished"]
    assert named(events, "session.created")[0]["session"] | {"id": ""} == {
        "id": "",
        "object": "realtime.session",
        "model": MODEL,
        "modalities": ["text"],
        "input_audio_format": "pcm",
        "sample_rate": 16000,
        "input_audio_transcription": {"model": MODEL},
        "turn_detection": {"type": "server_vad", "threshold": 0.2, "silence_duration_ms": 800},
    }
    started = named(events, "input_audio_buffer.speech_started")
    first, second = (event["item_id"] for event in started)
    assert first != second
    assert [event["audio_start_ms"] for event in started] == [0, 2000]
    assert named(events, "input_audio_buffer.speech_stopped") == [
        {"audio_end_ms": 1000, "item_id": first},
        {"audio_end_ms": 2700, "item_id": second},
    ]
    assert named(events, "input_audio_buffer.committed") == [
        {"previous_item_id": None, "item_id": first},
        {"previous_item_id": first, "item_id": second},
    ]
    created = named(events, "conversation.item.created")
    assert [(event["previous_item_id"], event["item"]["id"]) for event in created] == [
        (None, first),
        (first, second),
    ]
    assert created[0]["item"] == {
        "id": first,
        "object": "realtime.item",
        "type": "message",
        "status": "in_progress",
        "role": "user",
        "content": [{"type": "input_audio", "transcript": None}],
    }
    common = {"content_index": 0, "language": "zh", "emotion": None}
    assert named(events, f"{TRANSCRIPTION}.completed") == [
        {"item_id": first, **common, "transcript": FIRST + "，", "usage": {"duration": 1}},
        {"item_id": second, **common, "transcript": SECOND + "。", "usage": {"duration": 1}},
    ]
    texts = named(events, f"{TRANSCRIPTION}.text")
    assert {event["item_id"] for event in texts} == {first, second}
    for event in texts:
        assert set(event) == {"item_id", "text", "stash", *common}
        assert {first: FIRST, second: SECOND}[event["item_id"]].startswith(event["text"] + event["stash"])


async def test_text_comes_while_somebody_speaks(url: str) -> None:
    async with dashscope(url, PATH) as client:
        await say(client, ONE.tobytes())
        text = (await client.until(f"{TRANSCRIPTION}.text"))[-1]
        assert FIRST.startswith(text["text"] + text["stash"])
        await client.send(FINISH)
        events, _ = await client.closed()
    assert text_of(events) == FIRST + "。"


async def test_commits_end_turns_where_the_client_says_so(url: str) -> None:
    audio = append(TWO.tobytes())
    events = await whole_session(url, MANUAL, audio, COMMIT, audio, audio, COMMIT)
    told = [name for name in names(events) if name != f"{TRANSCRIPTION}.text"]
    assert told == ["session.created", "session.updated", *ITEM[2:], *ITEM[2:], "session.finished"]
    assert named(events, "session.updated")[0]["session"]["turn_detection"] is None
    items = [event["item_id"] for event in named(events, "input_audio_buffer.committed")]
    whole = f"{FIRST}，{SECOND}"
    done = named(events, f"{TRANSCRIPTION}.completed")
    assert [event["item_id"] for event in done] == items
    assert [event["transcript"] for event in done] == [f"{whole}。", f"{whole}{whole}。"]
    assert [event["usage"]["duration"] for event in done] == [3, 6]
    for event in named(events, f"{TRANSCRIPTION}.text"):
        assert f"{whole}{whole}".startswith(event["text"] + event["stash"])


async def test_nothing_is_told_before_a_commit(url: str) -> None:
    async with dashscope(url, PATH) as client:
        await client.send(MANUAL)
        await say(client, TWO.tobytes())
        await client.until("session.updated")
        with pytest.raises(TimeoutError):
            await client.event(0.5)
        await client.send(COMMIT)
        assert names([await client.event(), await client.event()]) == ITEM[2:4]
        assert text_of(await client.until(ITEM[-1])) == f"{FIRST}，{SECOND}。"


@pytest.mark.parametrize("silence", [bytes(3200), bytes(64_000)])
async def test_a_committed_silence_is_an_empty_text(url: str, silence: bytes) -> None:
    events = await whole_session(url, MANUAL, append(silence), COMMIT)
    (done,) = named(events, ITEM[-1])
    assert (done["transcript"], errors_of(events)) == ("", [])
    assert names(await whole_session(url, append(silence))) == ["session.created", "session.finished"]


async def test_what_is_not_committed_at_the_end_is_told(url: str) -> None:
    assert text_of(await whole_session(url, MANUAL, append(ONE.tobytes()))) == FIRST + "。"


async def test_a_commit_without_audio(url: str) -> None:
    events = await whole_session(url, MANUAL, {**COMMIT, "event_id": "mine"})
    (error,) = errors_of(events)
    assert (error["code"], error["event_id"]) == ("input_audio_buffer_commit_empty", "mine")
    assert errors_of(await whole_session(url, COMMIT)) == [], "with pauses as ends, it is for nothing"


async def test_a_commit_beside_pauses_ends_the_sentence(url: str) -> None:
    audio = append(ONE.tobytes())
    events = await whole_session(url, audio, COMMIT, COMMIT, audio)
    assert [event["transcript"] for event in named(events, ITEM[-1])] == [FIRST + "。"] * 2
    assert [event["audio_start_ms"] for event in named(events, ITEM[0])] == [0, 900]


async def test_clear_forgets(url: str) -> None:
    audio = append(ONE.tobytes())
    for first in (MANUAL, update(turn_detection={"type": "server_vad"})):
        events = await whole_session(url, first, audio, CLEAR, append(tones([4, 5]).tobytes()))
        assert text_of(events) == SECOND + "。"
        assert names(events).count("input_audio_buffer.cleared") == 1
    assert "input_audio_buffer.cleared" in names(await whole_session(url, CLEAR))


async def test_the_session_is_as_the_client_wants_it(url: str, graph: HearingGraph) -> None:
    events = await whole_session(
        url,
        update(
            modalities=["text"],
            voice=None,
            input_audio_format="pcm16",
            output_audio_format="pcm16",
            sample_rate=8000,
            input_audio_transcription={
                "model": None,
                "language": "en",
                "corpus": {"text": "丁=>万\n车站，火车"},
            },
            turn_detection={
                "type": "server_vad",
                "threshold": 0.5,
                "prefix_padding_ms": 300,
                "silence_duration_ms": 400,
            },
        ),
        append(ONE[::2].tobytes()),
    )
    session = named(events, "session.updated")[0]["session"]
    assert session["input_audio_format"] == "pcm16"
    assert session["sample_rate"] == 8000
    assert session["input_audio_transcription"]["language"] == "en"
    assert session["turn_detection"] == {
        "type": "server_vad",
        "threshold": 0.5,
        "silence_duration_ms": 400,
    }
    assert text_of(events).startswith("万")
    assert named(events, ITEM[-1])[0]["language"] == "en"
    assert {options.max_end_silence_ms for options in graph.vad_options} == {400}
    assert {options.speech_noise_threshold for options in graph.vad_options} == {0.3}


async def test_the_default_threshold_is_that_of_the_server(url: str, graph: HearingGraph) -> None:
    vad = {"type": "server_vad", "threshold": 0.2, "silence_duration_ms": 800}
    await whole_session(url, update(turn_detection=vad), append(ONE.tobytes()))
    await whole_session(url, update(turn_detection={"threshold": -1}), append(ONE.tobytes()))
    assert {options.speech_noise_threshold for options in graph.vad_options} == {None, -1.0}


async def test_the_newer_form_of_the_format(url: str) -> None:
    three = np.repeat(ONE, 3).tobytes()
    events = await whole_session(
        url, update(audio={"input": {"format": {"type": "pcm", "sample_rate": 48000}}}), append(three)
    )
    assert named(events, "session.updated")[0]["session"]["sample_rate"] == 48000
    (stopped,) = named(events, ITEM[1])
    assert abs(stopped["audio_end_ms"] - 900) <= 120


async def test_an_update_between_sentences_holds_for_what_follows(url: str) -> None:
    audio = append(ONE.tobytes())
    corpus = {"corpus": {"text": "丁=>万"}}
    events = await whole_session(url, audio, update(input_audio_transcription=corpus), update(), audio)
    assert [event["transcript"] for event in named(events, ITEM[-1])] == [FIRST + "。", "万丂七。"]
    assert len(named(events, "session.updated")) == 2


BAD: list[tuple[Any, str | None]] = [
    ("", None),
    ("{", None),
    ("[" * 100_000, None),
    ("7", None),
    (b"\0\0", None),
    ({}, "type"),
    ({"type": []}, "type"),
    ({"type": "response.create"}, "type"),
    ({"type": "input_image_buffer.append", "image": "AAAA"}, "type"),
    ({"type": "input_audio_buffer.append"}, "audio"),
    ({"type": "input_audio_buffer.append", "audio": 7}, "audio"),
    ({"type": "input_audio_buffer.append", "audio": "no base64!"}, "audio"),
    ({"type": "input_audio_buffer.append", "audio": "QUJ"}, "audio"),
    ({"type": "session.update"}, "session"),
    ({"type": "session.update", "session": []}, "session"),
    (update(input_audio_format="midi"), "input_audio_format"),
    (update(input_audio_format=7), "input_audio_format"),
    (update(sample_rate="fast"), "sample_rate"),
    (update(sample_rate=10), "input_audio_format"),
    (update(turn_detection={"type": "semantic_vad"}), "turn_detection.type"),
    (update(turn_detection={"threshold": 2}), "turn_detection.threshold"),
    (update(turn_detection={"silence_duration_ms": 100}), "turn_detection.silence_duration_ms"),
    (update(turn_detection="server_vad"), "turn_detection"),
    (update(input_audio_transcription={"language": 7}), "input_audio_transcription.language"),
    (update(input_audio_transcription={"corpus": {"text": "=>b"}}), "corpus"),
]


@pytest.mark.parametrize(("message", "param"), BAD, ids=range(len(BAD)))
async def test_bad_messages_disturb_nothing(url: str, message: Any, param: str | None) -> None:
    before, after = np.split(ONE, [7000])
    events = await whole_session(url, append(before.tobytes()), message, append(after.tobytes()))
    (error,) = errors_of(events)
    assert (error["type"], error["code"][:7]) in [
        ("invalid_request_error", "Invalid"),
        ("invalid_request_error", "UNSUPPO"),
    ]
    assert error["param"] == param
    if isinstance(message, dict):
        assert error["event_id"] == message.get("event_id")
    assert text_of(events) == FIRST + "。"


@pytest.mark.parametrize("size", [1601, 1 << 22])
async def test_packets_of_any_size(url: str, size: int) -> None:
    audio = TWO.tobytes()
    parts = [append(audio[begin : begin + size]) for begin in range(0, len(audio), size)]
    assert text_of(await whole_session(url, *parts, append(b""))) == f"{FIRST}，{SECOND}。"


async def test_audio_that_comes_faster_than_it_is_heard(url: str) -> None:
    """More messages than may wait as texts: audio waits as bytes."""
    audio = np.concatenate([ONE, *[TWO] * 20]).tobytes()
    parts = [append(audio[begin : begin + 640]) for begin in range(0, len(audio), 640)]
    assert len(parts) > 2000
    events = await whole_session(url, *parts)
    assert text_of(events).count(SECOND) == 20


async def test_a_turn_that_fails_is_told_and_the_next_one_works(url: str, graph: HearingGraph) -> None:
    graph.fault = UpstreamLost("A model was lost.")
    async with dashscope(url, PATH) as client:
        await client.send(append(ONE.tobytes()))
        await client.send(COMMIT)
        events = await client.until(f"{TRANSCRIPTION}.failed", "error")
        (failed,) = named(events, f"{TRANSCRIPTION}.failed")
        assert failed["item_id"] == named(events, ITEM[0])[0]["item_id"]
        assert failed["error"] == {
            "type": "server_error",
            "code": "ServiceUnavailable",
            "message": "A model was lost.",
            "param": None,
        }
        graph.fault = None
        await client.send(append(ONE.tobytes()))
        await client.send(FINISH)
        events, closed = await client.closed()
    assert (text_of(events), closed) == (FIRST + "。", 1000)


async def test_damaged_audio(url: str) -> None:
    events = await whole_session(url, update(input_audio_format="opus"), append(ONE.tobytes()), FINISH)
    (error,) = errors_of(events)
    assert error["code"] == "DECODE_ERROR"


async def test_more_sessions_than_there_may_be(graph: HearingGraph) -> None:
    async with nls_server(graph, max_live_sessions=1, qwen3_model="none") as url:
        async with dashscope(url, PATH) as first, dashscope(url, PATH) as second:
            await first.send(append(ONE.tobytes()))
            await first.until(f"{TRANSCRIPTION}.text")
            await second.send(append(ONE.tobytes()))
            events, closed = await second.closed()
            assert [error["code"] for error in errors_of(events)] == ["Throttling"]
            assert closed == 1013
        assert await sessions_of(url) == 0


async def test_idle_clients_are_told_and_closed(graph: HearingGraph) -> None:
    async with nls_server(graph, live_idle_timeout_sec=0.3, qwen3_model="none") as url:
        async with dashscope(url, PATH) as client:
            await client.send(append(ONE.tobytes()))
            events, closed = await client.closed()
        assert text_of(events) == FIRST + "。"
        assert [error["code"] for error in errors_of(events)] == ["ResponseTimeout"]
        assert closed == 1000
        assert await sessions_of(url) == 0


async def test_clients_that_go_in_the_middle(url: str) -> None:
    async with dashscope(url, PATH) as client:
        await client.send(append(ONE.tobytes()))
        await client.until(f"{TRANSCRIPTION}.text")
        client.connected.transport.abort()


async def test_without_a_model_it_is_that_of_the_server(url: str) -> None:
    async with dashscope(url, REALTIME + "/") as client:
        assert (await client.event())["session"]["model"] == "paraformer-starter"
