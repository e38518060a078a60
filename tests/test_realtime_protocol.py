"""OpenAI's Realtime API, event by event, over models that hear what the audio's levels spell."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from serve_app.errors import Internal, UpstreamLost
from tests.live_sessions import PAUSE, characters, tones
from tests.realtime_world import (
    TRANSCRIPTION,
    Event,
    HearingGraph,
    Realtime,
    check_items,
    names,
    realtime,
    realtime_server,
    sessions_of,
    silence,
)

ONE = tones([1, 2, 3])
TWO = tones([1, 2, 3, *PAUSE, 4, 5, *PAUSE])
FIRST, SECOND = "丁丂七", "丄丅"
INPUT = "session.audio.input"
AS_HEARD: dict[str, Any] = {"transcription": {"delay": "low"}}
ITEM = ["committed", "conversation.item.added", "conversation.item.done", "delta", "completed"]


@pytest.fixture
def graph() -> HearingGraph:
    return HearingGraph()


@pytest.fixture
async def url(graph: HearingGraph) -> AsyncIterator[str]:
    async with realtime_server(graph) as address:
        yield address
        assert await sessions_of(address) == 0
        assert graph.streams == {}


@pytest.fixture
async def client(url: str) -> AsyncIterator[Realtime]:
    async with realtime(url) as connected:
        yield connected
        check_items(connected.events)


async def test_a_session_is_created_at_once_with_all_of_its_fields(url: str) -> None:
    async with realtime(url, rate=None) as client:
        event = client.events[0]
    session = event["session"]
    assert event["event_id"].startswith("event_")
    assert session.pop("id").startswith("sess_")
    assert session == {
        "type": "transcription",
        "object": "realtime.transcription_session",
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24000},
                "transcription": {"model": "paraformer-starter"},
                "noise_reduction": None,
                "turn_detection": {
                    "type": "server_vad",
                    "threshold": 0.5,
                    "prefix_padding_ms": 300,
                    "silence_duration_ms": 800,
                    "idle_timeout_ms": None,
                },
            }
        },
        "include": [],
        "expires_at": None,
    }


async def test_every_field_of_every_event_of_detected_speech(client: Realtime) -> None:
    await client.say(TWO)
    assert await client.completed(2) == [f"{FIRST}，", f"{SECOND}，"]
    events = client.events[2:]
    assert names(events) == 2 * ["speech_started", "speech_stopped", *ITEM]
    started, stopped, committed, added, done, delta, completed = events[7:]
    item_id = started["item_id"]
    assert item_id.startswith("item_")
    assert all(event.get("item_id", item_id) == item_id for event in events[7:])
    # The model's own begin is 100 ms before the speech, and the padding adds as much as it lacks.
    assert started["audio_start_ms"] == 1900
    assert stopped["audio_end_ms"] == 2800
    assert committed["previous_item_id"] == events[0]["item_id"]
    assert events[2]["previous_item_id"] is None
    assert added["item"] == done["item"]
    assert added["item"] == {
        "id": item_id,
        "object": "realtime.item",
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_audio", "transcript": None}],
    }
    assert added["previous_item_id"] == done["previous_item_id"] == events[0]["item_id"]
    assert (delta["content_index"], delta["delta"]) == (0, f"{SECOND}，")
    assert "logprobs" not in delta
    assert completed["content_index"] == 0
    assert completed["usage"] == {"type": "duration", "seconds": 0.9}
    assert not {"logprobs", "languages"} & completed.keys()


async def test_the_end_of_speech_is_told_before_it_is_recognized(
    client: Realtime, graph: HearingGraph
) -> None:
    graph.gate.clear()
    await client.say(TWO[: 3 * 16_000])
    await client.until("conversation.item.done")
    assert await client.quiet() == []
    graph.gate.set()
    assert await client.completed() == [f"{FIRST}，"]


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
async def test_samples_are_heard_at_the_rate_of_the_session(url: str, rate: int) -> None:
    levels = np.repeat(np.array([1, 2, 3], np.int16) * 1000, rate)
    async with realtime(url, rate=rate) as client:
        await client.update(turn_detection=None)
        await client.say(levels)
        await client.commit()
        (text,) = await client.completed()
    # Resampling rings a little where the level changes.
    assert text[0] == "丁"
    assert "丂" in text


@pytest.mark.parametrize("size", [1, 333, 1 << 20])
async def test_how_audio_is_cut_does_not_matter(client: Realtime, size: int) -> None:
    audio = tones([1, 2], seconds=0.2) if size == 1 else TWO
    await client.update(turn_detection=None)
    data = audio.tobytes()[: 4000 if size == 1 else None]
    await client.say(data, size)
    await client.commit()
    assert await client.completed() == ["丁。" if size == 1 else f"{FIRST}，{SECOND}，"]


async def test_a_commit_by_hand_makes_one_item_of_all_sentences(client: Realtime) -> None:
    await client.update(turn_detection=None)
    await client.say(tones([1, 2, 3, *PAUSE, 4, 5]))
    assert await client.quiet() == []
    await client.commit()
    assert await client.completed() == [f"{FIRST}，{SECOND}。"]
    await client.say(ONE)
    await client.commit()
    assert await client.completed() == [f"{FIRST}。"]
    committed = client.named("input_audio_buffer.committed")
    assert committed[1]["previous_item_id"] == committed[0]["item_id"]
    assert not client.named("input_audio_buffer.speech_started")
    completed = client.named(f"{TRANSCRIPTION}.completed")
    assert [event["usage"]["seconds"] for event in completed] == [2.7, 0.9]


async def test_a_commit_of_silence_is_an_item_without_text(client: Realtime) -> None:
    await client.update(turn_detection=None)
    await client.say(silence(1))
    await client.commit()
    assert await client.completed() == [""]
    assert not client.named(f"{TRANSCRIPTION}.delta")


@pytest.mark.parametrize("detection", [None, {"type": "server_vad"}])
async def test_an_empty_commit_is_an_error_with_the_clients_event_id(
    client: Realtime, detection: Event | None
) -> None:
    await client.update(turn_detection=detection)
    for audio in (silence(0), silence(0.09)):
        await client.say(audio)
        await client.send("input_audio_buffer.commit", event_id="mine")
        error = (await client.until("error"))["error"]
        assert (error["code"], error["event_id"]) == ("input_audio_buffer_commit_empty", "mine")
        assert error["type"] == "invalid_request_error"


async def test_a_commit_ends_detected_speech_now(client: Realtime) -> None:
    await client.say(ONE)
    await client.commit()
    assert await client.completed() == [f"{FIRST}。"]
    assert names(client.events[2:]) == ["speech_started", *ITEM]
    await client.say(TWO)
    assert await client.completed(2) == [f"{FIRST}，", f"{SECOND}，"]
    # All times count from the first audio of the connection.
    assert client.named("input_audio_buffer.speech_started")[1]["audio_start_ms"] == 900


async def test_a_commit_without_speech_is_an_item_too(client: Realtime) -> None:
    await client.say(silence(1))
    await client.commit()
    assert await client.completed() == [""]
    assert names(client.events[2:]) == [*ITEM[:3], "completed"]
    assert client.events[-1]["usage"] == {"type": "duration", "seconds": 1.0}


@pytest.mark.parametrize("detection", [None, {"type": "server_vad"}])
async def test_clear_forgets_what_was_not_committed(client: Realtime, detection: Event | None) -> None:
    await client.update(turn_detection=detection)
    await client.say(ONE)
    await client.send("input_audio_buffer.clear")
    await client.until("input_audio_buffer.cleared")
    await client.send("input_audio_buffer.commit")
    assert (await client.until("error"))["error"]["code"] == "input_audio_buffer_commit_empty"
    await client.say(tones([4, 5]))
    await client.commit()
    assert await client.completed() == [f"{SECOND}。"]
    assert len(client.named("input_audio_buffer.committed")) == 1


async def test_clear_keeps_what_was_committed(client: Realtime, graph: HearingGraph) -> None:
    graph.gate.clear()
    await client.say(tones([1, 2, 3, *PAUSE, 4, 5]))
    await client.until("conversation.item.done")
    await client.send("input_audio_buffer.clear")
    graph.gate.set()
    assert await client.completed() == [f"{FIRST}，"]
    await client.until("input_audio_buffer.cleared")
    assert len(client.named("input_audio_buffer.committed")) == 1


async def test_nobody_speaking_for_long_is_told(client: Realtime) -> None:
    await client.update(turn_detection={"type": "server_vad", "idle_timeout_ms": 5000})
    await client.say(np.concatenate((ONE, silence(9))))
    assert await client.completed(2) == [f"{FIRST}，", ""]
    assert names(client.events[3:])[7:] == ["timeout_triggered", *ITEM[:3], "completed"]
    timeout = client.named("input_audio_buffer.timeout_triggered")[0]
    assert (timeout["audio_start_ms"], timeout["audio_end_ms"]) == (1000, 6000)
    assert timeout["item_id"] == client.events[-1]["item_id"]
    assert client.events[-1]["usage"]["seconds"] == 5


@pytest.mark.parametrize("detection", [None, {"type": "server_vad"}])
async def test_text_can_be_had_while_it_is_spoken(client: Realtime, detection: Event | None) -> None:
    await client.update(turn_detection=detection, **AS_HEARD)
    await client.say(tones([1, 2, 3, 4, 5, 6, 7]))
    first = await client.until(f"{TRANSCRIPTION}.delta")
    assert not client.named("input_audio_buffer.committed")
    await client.say(tones([8, 9]))
    await client.commit()
    (text,) = await client.completed()
    assert text == "丁丂七丄丅丆万丈三"
    assert text.startswith(first["delta"])
    assert first["item_id"] == client.events[-1]["item_id"]


async def test_a_sentence_that_is_cut_says_nothing_twice(client: Realtime) -> None:
    await client.update(**AS_HEARD)
    levels = [1 + number % 25 for number in range(160)]
    audio = tones([level for spoken in levels for level in (spoken, 0)])
    await client.say(np.concatenate((audio, silence(1))), 1 << 16)
    texts = await client.completed(2)
    assert "".join(texts) == characters(levels)
    assert len(client.named(f"{TRANSCRIPTION}.delta")) > 5


async def test_logprobs_of_each_token(client: Realtime) -> None:
    await client.update(include=["item.input_audio_transcription.logprobs"])
    await client.say(TWO)
    (first, _) = await client.completed(2)
    completed = client.named(f"{TRANSCRIPTION}.completed")[0]
    assert "".join(entry["token"] for entry in completed["logprobs"]) == first
    assert completed["logprobs"][0] == {"token": "丁", "bytes": [*"丁".encode()], "logprob": -0.25}
    assert client.named(f"{TRANSCRIPTION}.delta")[0]["logprobs"] == completed["logprobs"]


async def test_languages_are_told_to_those_who_listed_them(client: Realtime) -> None:
    await client.update(transcription={"languages": ["zh", "de"]})
    await client.say(TWO)
    await client.completed(2)
    assert client.events[-1]["languages"] == [{"code": "zh"}]


async def test_corrections_come_from_prompt_and_keywords(client: Realtime) -> None:
    await client.update(transcription={"prompt": "丁=>one", "keywords": ["七=>three"]})
    await client.say(TWO)
    assert (await client.completed(2))[0] == "one丂three,"


async def test_what_detection_is_asked_for(client: Realtime, graph: HearingGraph) -> None:
    asked: list[Any] = []
    for detection in (
        {"type": "server_vad", "threshold": 0.9, "silence_duration_ms": 300},
        {"type": "semantic_vad", "eagerness": "low"},
        {"type": "semantic_vad", "eagerness": "high"},
        {"type": "semantic_vad", "eagerness": "auto"},
    ):
        await client.update(turn_detection=detection)
        await client.say(silence(0.5))
        await client.commit()
        await client.completed()
        asked.append((graph.vad_options[-1].max_end_silence_ms, graph.vad_options[-1].speech_noise_threshold))
    assert asked[0] == (300, pytest.approx(0.904))
    assert asked[1:] == [(2000, None), (400, None), (800, None)]


async def test_padding_makes_speech_begin_earlier(client: Realtime) -> None:
    begins = []
    for padding in (0, 1200):
        await client.update(turn_detection={"type": "server_vad", "prefix_padding_ms": padding})
        await client.say(np.concatenate((silence(2), ONE, silence(1.1))))
        await client.completed()
        begins.append(client.named("input_audio_buffer.speech_started")[-1]["audio_start_ms"] % 4000)
    assert begins[0] - begins[1] == 1000


async def test_noise_reduction_near_field_passes_over_those_far_away(url: str, graph: HearingGraph) -> None:
    quiet = (np.sign(ONE) * 200).astype(np.int16)
    async with realtime(url) as client:
        await client.update(noise_reduction={"type": "near_field"})
        await client.say(np.concatenate((quiet, silence(2))))
        assert await client.quiet() == []
        await client.update(noise_reduction={"type": "far_field", "strength": 0.5})
        await client.say(np.concatenate((quiet, silence(2))))
        await client.until("input_audio_buffer.speech_started")


async def test_an_update_changes_only_what_it_names(client: Realtime) -> None:
    await client.update(transcription={"model": "gpt-4o-transcribe", "language": "zh", "prompt": "丁=>one"})
    await client.update(
        transcription={"language": None}, turn_detection={"type": "server_vad", "threshold": 0.7}
    )
    event = await client.update(turn_detection={"silence_duration_ms": 500, "create_response": False})
    shown = event["session"]["audio"]["input"]
    assert shown["format"] == {"type": "audio/pcm", "rate": 16000}
    assert shown["transcription"] == {"model": "gpt-4o-transcribe", "prompt": "丁=>one"}
    assert shown["turn_detection"] == {
        "type": "server_vad",
        "threshold": 0.7,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
        "idle_timeout_ms": None,
        "create_response": False,
    }


async def test_an_update_during_speech_ends_it(client: Realtime) -> None:
    await client.say(ONE)
    await client.update(turn_detection={"type": "server_vad", "silence_duration_ms": 300})
    assert client.named(f"{TRANSCRIPTION}.completed")[0]["transcript"] == f"{FIRST}。"
    assert client.named("input_audio_buffer.speech_stopped")


async def test_an_update_that_changes_nothing_of_that_disturbs_nobody(client: Realtime) -> None:
    await client.say(tones([1, 2]))
    await client.update(include=[], transcription={"model": "other"})
    await client.say(tones([3, *PAUSE]))
    assert await client.completed() == [f"{FIRST}，"]


async def test_without_detection_an_update_holds_from_the_next_commit(client: Realtime) -> None:
    await client.update(turn_detection=None)
    await client.say(ONE)
    await client.update(transcription={"prompt": "丁=>one"}, format={"type": "audio/pcm", "rate": 8000})
    await client.say(silence(0.5))
    await client.commit()
    assert await client.completed() == [f"{FIRST}，"]
    await client.update(format={"type": "audio/pcm", "rate": 16000})
    await client.say(ONE)
    await client.update(turn_detection={"type": "server_vad"})
    assert client.named(f"{TRANSCRIPTION}.completed")[1]["transcript"] == "one丂七。"


BAD_FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"format": {"type": "audio/mp3"}}, f"{INPUT}.format.type", "invalid_value"),
    ({"format": {"type": "audio/pcm", "rate": 44100}}, f"{INPUT}.format.rate", "invalid_value"),
    ({"format": "pcm16"}, f"{INPUT}.format", "invalid_type"),
    ({"transcription": {"language": "xx"}}, f"{INPUT}.transcription.language", "invalid_value"),
    ({"transcription": {"language": 5}}, f"{INPUT}.transcription.language", "invalid_type"),
    ({"transcription": {"languages": ["de"]}}, f"{INPUT}.transcription.languages", "invalid_value"),
    ({"transcription": {"languages": ["zh", 1]}}, f"{INPUT}.transcription.languages[1]", "invalid_type"),
    ({"transcription": {"keywords": ["=>x"]}}, f"{INPUT}.transcription.keywords", "invalid_value"),
    ({"transcription": {"prompt": "a=>b=>c"}}, f"{INPUT}.transcription.prompt", "invalid_value"),
    ({"transcription": {"delay": "none"}}, f"{INPUT}.transcription.delay", "invalid_value"),
    ({"transcription": {"modle": "x"}}, f"{INPUT}.transcription.modle", "unknown_parameter"),
    ({"transcription": []}, f"{INPUT}.transcription", "invalid_type"),
    ({"turn_detection": {"type": "none"}}, f"{INPUT}.turn_detection.type", "invalid_value"),
    ({"turn_detection": {"threshold": 1.5}}, f"{INPUT}.turn_detection.threshold", "invalid_value"),
    ({"turn_detection": {"threshold": "0.5"}}, f"{INPUT}.turn_detection.threshold", "invalid_type"),
    ({"turn_detection": {"idle_timeout_ms": 1}}, f"{INPUT}.turn_detection.idle_timeout_ms", "invalid_value"),
    (
        {"turn_detection": {"type": "semantic_vad", "threshold": 0.5}},
        f"{INPUT}.turn_detection.threshold",
        "unknown_parameter",
    ),
    (
        {"turn_detection": {"silence_duration_ms": 99}},
        f"{INPUT}.turn_detection.silence_duration_ms",
        "invalid_value",
    ),
    ({"noise_reduction": {"type": "loud"}}, f"{INPUT}.noise_reduction.type", "invalid_value"),
    ({"noise_reduction": {}}, f"{INPUT}.noise_reduction.type", "missing_required_parameter"),
    ({"voice": "alloy"}, f"{INPUT}.voice", "unknown_parameter"),
]


@pytest.mark.parametrize(("fields", "param", "code"), BAD_FIELDS, ids=[row[1] for row in BAD_FIELDS])
async def test_a_bad_field_is_named_and_changes_nothing(
    client: Realtime, fields: dict[str, Any], param: str, code: str
) -> None:
    answer = await client.update(event_id="mine", **fields)
    error = answer["error"]
    assert (error["param"], error["code"], error["event_id"]) == (param, code, "mine")
    assert error["type"] == "invalid_request_error"
    assert param in error["message"] or "language" in param
    before = client.named("session.updated")[-1]["session"]
    assert (await client.update())["session"] == before


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"type": "realtime"}, "session.type"),
        ({"type": 5}, "session.type"),
        ({"audio": 5}, "session.audio"),
        ({"audio": {"output": {}}}, "session.audio.output"),
        ({"audio": {"input": []}}, "session.audio.input"),
        ({"include": ["everything"]}, "session.include[0]"),
        ({"instructions": "Be brief."}, "session.instructions"),
        ([], "session"),
        (None, "session"),
    ],
)
async def test_a_bad_session_is_named(client: Realtime, session: Any, param: str) -> None:
    await client.send("session.update", session=session)
    error = (await client.until("session.updated", "error"))["error"]
    assert error["param"] == param
    assert not await client.quiet()


BAD_MESSAGES = [
    ("{", None, "invalid_json"),
    ("[" * 100_000, None, "invalid_json"),
    ("[]", None, "invalid_json"),
    ("", None, "invalid_json"),
    ("{}", "type", "missing_required_parameter"),
    ('{"type": 5}', "type", "invalid_value"),
    ('{"type": "response.create"}', "type", "invalid_value"),
    ('{"type": "input_audio_buffer.commit", "event_id": 5}', "event_id", "invalid_type"),
    ('{"type": "input_audio_buffer.append"}', "audio", "missing_required_parameter"),
    ('{"type": "input_audio_buffer.append", "audio": 5}', "audio", "invalid_type"),
    ('{"type": "input_audio_buffer.append", "audio": "***"}', "audio", "invalid_value"),
    ('{"type": "input_audio_buffer.append", "audio": "YWJ"}', "audio", "invalid_value"),
    ('{"type": "input_audio_buffer.append", "audio": "语"}', "audio", "invalid_value"),
    ('{"type": "session.update"}', "session", "missing_required_parameter"),
]


@pytest.mark.parametrize(("message", "param", "code"), BAD_MESSAGES, ids=range(len(BAD_MESSAGES)))
async def test_a_bad_message_is_an_error_and_the_connection_stays(
    client: Realtime, message: str, param: str | None, code: str
) -> None:
    await client.socket.send(message)
    error = (await client.until("error"))["error"]
    assert (error["param"], error["code"]) == (param, code)
    await client.say(TWO)
    assert len(await client.completed(2)) == 2


async def test_too_much_audio_in_one_event_is_refused(client: Realtime) -> None:
    await client.send("input_audio_buffer.append", audio="A" * ((15 << 20) + 4), event_id="big")
    error = (await client.until("error"))["error"]
    assert (error["param"], error["event_id"]) == ("audio", "big")
    await client.send("input_audio_buffer.append", audio="A" * (17 << 20))
    assert (await client.until("error"))["error"]["param"] == "audio"


async def test_binary_messages_are_refused_once_in_a_row(client: Realtime) -> None:
    for _ in range(3):
        await client.socket.send(ONE.tobytes())
    assert (await client.until("error"))["error"]["code"] == "invalid_message"
    assert await client.quiet() == []
    await client.socket.send(b"")
    assert (await client.until("error"))["error"]["code"] == "invalid_message"


async def test_the_beta_has_names_of_its_own(url: str, graph: HearingGraph) -> None:
    async with realtime(url, rate=None, additional_headers={"OpenAI-Beta": "realtime=v1"}) as client:
        assert client.events[0]["session"]["input_audio_format"] == "pcm16"
        session = {
            "input_audio_format": "pcm16",
            "input_audio_transcription": {"model": "whisper-1", "language": "zh"},
            "turn_detection": {"threshold": 0.5, "silence_duration_ms": 600},
            "input_audio_noise_reduction": {"type": "far_field"},
            "include": ["item.input_audio_transcription.logprobs"],
        }
        await client.send("transcription_session.update", session=session)
        shown = (await client.until("transcription_session.updated"))["session"]
        assert shown["input_audio_transcription"] == session["input_audio_transcription"]
        assert shown["turn_detection"]["silence_duration_ms"] == 600
        assert shown["include"] == session["include"]
        await client.say(np.repeat(TWO[::2], 3), 14_400)
        await client.completed(2)
        assert "conversation.item.created" in names(client.events)
        assert "conversation.item.added" not in names(client.events)
        check_items(client.events)


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"input_audio_format": "mp3"}, "session.input_audio_format"),
        ({"input_audio_format": {}}, "session.input_audio_format"),
        ({"turn_detection": {"threshold": 2}}, "session.turn_detection.threshold"),
        (
            {"input_audio_transcription": {"language": "xx"}},
            "session.input_audio_transcription.language",
        ),
        ({"audio": {}}, "session.audio"),
    ],
)
async def test_the_beta_has_names_of_its_own_for_errors(
    client: Realtime, session: dict[str, Any], param: str
) -> None:
    await client.send("transcription_session.update", session=session)
    error = (await client.until("error"))["error"]
    assert error["param"] == param


@pytest.mark.parametrize("name", ["g711_ulaw", "g711_alaw"])
async def test_the_beta_names_telephone_formats(client: Realtime, name: str) -> None:
    await client.send("transcription_session.update", session={"input_audio_format": name})
    assert (await client.until("transcription_session.updated"))["session"]["input_audio_format"] == name


async def test_the_subprotocol_is_echoed_if_it_is_offered(url: str) -> None:
    for offered, selected in ((None, None), (["realtime", "openai-beta.realtime-v1"], "realtime")):
        async with realtime(url, rate=None, subprotocols=offered) as client:
            assert client.socket.subprotocol == selected
            is_beta = "input_audio_format" in client.events[0]["session"]
            assert is_beta == (offered is not None)


@pytest.mark.parametrize(
    "query", ["", "?model=gpt-4o-transcribe", "?intent=transcription&model=gpt-realtime"]
)
async def test_ways_to_ask_for_a_transcription_session(url: str, query: str) -> None:
    async with realtime(url, query, rate=None) as client:
        model = client.events[0]["session"]["audio"]["input"]["transcription"]["model"]
        assert model == ("gpt-4o-transcribe" if "4o" in query else "paraformer-starter")


@pytest.mark.parametrize(
    ("query", "param", "code"),
    [
        ("?model=gpt-realtime", None, "unsupported"),
        ("?model=gpt-4o-realtime-preview", None, "unsupported"),
        ("?intent=conversation", "intent", "invalid_value"),
        (f"?model={'x' * 300}", "transcription.model", "invalid_value"),
    ],
)
async def test_other_sessions_are_refused_clearly(url: str, query: str, param: str | None, code: str) -> None:
    async with connect(f"{url.replace('http', 'ws')}/v1/realtime{query}", proxy=None) as socket:
        error = json.loads(await socket.recv())
        assert (error["type"], error["error"]["code"], error["error"]["param"]) == ("error", code, param)
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008


@pytest.mark.parametrize(
    "fault", [UpstreamLost("A model is away."), Internal("It failed."), ValueError("bug")]
)
@pytest.mark.parametrize("detection", [None, {"type": "server_vad"}])
async def test_an_item_that_cannot_be_recognized_fails_and_the_next_one_does_not(
    client: Realtime, graph: HearingGraph, fault: Exception, detection: Event | None
) -> None:
    graph.gate.clear()
    graph.fault = fault
    await client.update(turn_detection=detection)
    await client.say(ONE)
    await client.commit()
    await client.until("conversation.item.done")
    graph.gate.set()
    failed = await client.until(f"{TRANSCRIPTION}.failed")
    assert failed["content_index"] == 0
    assert failed["item_id"] == client.named("input_audio_buffer.committed")[0]["item_id"]
    assert failed["error"]["type"] == "server_error"
    assert "bug" not in failed["error"]["message"]
    graph.fault = None
    await client.say(tones([4, 5]))
    await client.commit()
    assert await client.completed() == [f"{SECOND}。"]


async def test_a_fault_before_a_commit_is_an_error(client: Realtime, graph: HearingGraph) -> None:
    graph.fault = UpstreamLost("A model is away.")
    await client.update(turn_detection=None)
    await client.say(TWO)
    error = (await client.until("error"))["error"]
    assert error["code"] == "model_unavailable"
    graph.fault = None
    for audio in (ONE, ONE):
        await client.say(audio)
    await client.commit()
    failed = await client.until(f"{TRANSCRIPTION}.failed", f"{TRANSCRIPTION}.completed")
    assert failed["error"]["code"] == "model_unavailable"
    assert failed["item_id"] == client.named("input_audio_buffer.committed")[0]["item_id"]
    await client.say(ONE)
    await client.commit()
    assert await client.completed() == [f"{FIRST}。"]


async def test_a_fault_of_detection_is_an_error_and_what_follows_is_heard(
    client: Realtime, graph: HearingGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> Any:
        raise UpstreamLost("Away.")

    with monkeypatch.context() as patch:
        patch.setattr(graph, "detect_live", broken)
        await client.say(ONE)
        assert (await client.until("error"))["error"]["code"] == "model_unavailable"
    await client.commit()
    assert (await client.until("error"))["error"]["code"] == "input_audio_buffer_commit_empty"
    await client.say(TWO)
    assert await client.completed(2) == [f"{FIRST}，", f"{SECOND}，"]


async def test_broken_wav_headers_are_an_error(client: Realtime) -> None:
    header = b"RIFF\x00\x00\x00\x00WAVEdata" + bytes(20)
    await client.say(header)
    assert (await client.until("error"))["error"]["code"] == "invalid_audio"
    await client.say(TWO)
    assert len(await client.completed(2)) == 2


async def test_a_silent_connection_is_closed_with_its_last_text(graph: HearingGraph) -> None:
    async with realtime_server(graph, live_idle_timeout_sec=0.5) as url, realtime(url) as client:
        await client.say(ONE)
        assert await client.completed() == [f"{FIRST}。"]
        assert (await client.until("error"))["error"]["code"] == "session_expired"
        with pytest.raises(ConnectionClosed) as closed:
            await client.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1000


async def test_a_connection_lasts_as_long_as_it_may(graph: HearingGraph) -> None:
    async with realtime_server(graph, live_max_connection_sec=1) as url, realtime(url) as client:
        assert isinstance(client.events[0]["session"]["expires_at"], int)

        async def speak() -> None:
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await client.say(silence(0.1))
                    await asyncio.sleep(0.1)

        speaking = asyncio.create_task(speak())
        assert (await client.until("error"))["error"]["code"] == "session_expired"
        await speaking


async def test_more_sessions_than_there_may_be_are_told_so(graph: HearingGraph) -> None:
    async with realtime_server(graph, max_live_sessions=1) as url:
        async with realtime(url):
            async with connect(f"{url.replace('http', 'ws')}/v1/realtime", proxy=None) as second:
                error = json.loads(await second.recv())["error"]
                assert (error["type"], error["code"]) == ("rate_limit_error", "overloaded")
                with pytest.raises(ConnectionClosed) as closed:
                    await second.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1013
        assert await sessions_of(url) == 0


async def test_a_place_is_kept_from_one_commit_to_the_next(graph: HearingGraph) -> None:
    async with realtime_server(graph, max_live_sessions=1) as url, realtime(url) as client:
        for _ in range(3):
            await client.say(ONE)
            await client.commit()
            assert await client.completed() == [f"{FIRST}。"]
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            assert (await http.get("/healthz")).json()["live_sessions"] == 1


async def test_audio_that_nobody_can_keep_up_with_ends_the_connection(graph: HearingGraph) -> None:
    graph.gate.clear()
    async with realtime_server(graph, max_audio_size=0.5) as url, realtime(url) as client:
        part = base64.b64encode(tones([1, *PAUSE] * 2).tobytes()).decode()
        with contextlib.suppress(ConnectionClosed):
            for _ in range(40):
                await client.send("input_audio_buffer.append", audio=part)
        error = (await client.until("error"))["error"]
        assert error["code"] == "audio_too_large"
        graph.gate.set()


@pytest.mark.parametrize("as_heard", [True, False])
async def test_a_client_that_vanishes_leaves_nothing(url: str, as_heard: bool) -> None:
    async with realtime(url) as client:
        if as_heard:
            await client.update(**AS_HEARD)
        await client.say(np.concatenate((TWO, ONE)))
        client.socket.transport.abort()
