"""FunASR's protocol over stand-ins that read: all spellings, bad input, limits, and nothing leaked."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from serve_app.api.funasr.narration import Narration
from serve_app.api.funasr.replies import result, spaced
from serve_app.errors import Overloaded, UpstreamLost
from serve_app.live import LiveService
from serve_app.pipeline.finishing import Correction, TextOptions
from serve_app.pipeline.live.events import (
    Cause,
    Finished,
    LiveEvent,
    Partial,
    SentenceFinal,
    SpeechStarted,
)
from serve_app.pipeline.text import join_words
from serve_app.pipeline.types import TimedWord
from tests import funasr_clients as clients
from tests.funasr_clients import Message, connected, receive, send_json, until_closed
from tests.funasr_world import World, funasr_server, speech, wav_file


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def url(world: World) -> AsyncIterator[str]:
    async with funasr_server(world, min_audio_duration_sec=0.05) as (address, service):
        yield address
        assert await settles(service)


async def eventually(holds: Callable[[], bool]) -> bool:
    """Whether something comes true: the server sees some clients go only a moment later."""
    for _ in range(1000):
        if holds():
            return True
        await asyncio.sleep(0.01)
    return False


async def settles(service: LiveService) -> bool:
    """Whether the service comes to hold no session."""
    return await eventually(lambda: service.active == 0)


async def converse(socket: ClientConnection, audio: bytes, **config: Any) -> list[Message]:
    """One utterance: its messages up to the acknowledgement."""
    await send_json(socket, **config, is_speaking=True)
    await socket.send(audio)
    await send_json(socket, is_speaking=False, is_end=True)
    return await until_acknowledged(socket)


async def until_acknowledged(socket: ClientConnection) -> list[Message]:
    messages = [await receive(socket)]
    while not messages[-1].get("is_end"):
        messages.append(await receive(socket))
    return messages


async def say(url: str, audio: bytes, **config: Any) -> list[Message]:
    async with connected(url) as socket:
        return await converse(socket, audio, **config)


def finals(messages: list[Message]) -> list[Message]:
    return [message for message in messages if message["is_final"] and "text" in message]


async def silent(socket: ClientConnection) -> bool:
    """Whether nothing comes, though the server has had the time to answer what was sent after it."""
    pong = await socket.ping()
    await pong
    try:
        async with asyncio.timeout(0.1):
            await socket.recv()
    except TimeoutError:
        return True
    return False


async def test_2pass_results(url: str) -> None:
    messages = await say(url, speech("一二三__hello world"), mode="2pass", wav_name="mine")
    assert [(message["mode"], message.get("text"), message["is_final"]) for message in messages] == [
        ("2pass-online", "一", False),
        ("2pass-online", "二", False),
        ("2pass-online", "三", False),
        ("2pass-offline", "一二三。", False),
        ("2pass-online", "hello", False),
        ("2pass-online", " world", False),
        ("2pass-offline", "hello world.", True),
        ("2pass", None, True),
    ]
    assert all(message["wav_name"] == "mine" for message in messages)
    assert [message.get("slice_type") for message in messages] == [0, 1, 1, 2, 0, 1, 2, None]
    assert [message.get("index") for message in messages] == [0, 0, 0, 0, 1, 1, 1, None]
    assert (messages[6]["start_time"], messages[6]["end_time"]) == (500, 700)
    assert messages[6]["timestamp"] == "[[500,600],[600,700]]"
    assert messages[6]["stamp_sents"] == [
        {
            "text_seg": "hello world",
            "punc": ".",
            "start": 500,
            "end": 700,
            "ts_list": [[500, 600], [600, 700]],
        }
    ]
    assert not any("timestamp" in message for message in messages if message["mode"] == "2pass-online")


async def test_2pass_ends_with_an_empty_final_where_the_last_sentence_was_over(url: str) -> None:
    messages = await say(url, speech("一二__"), mode="2pass")
    assert [(message.get("text"), message["is_final"]) for message in messages[-3:]] == [
        ("一二。", False),
        ("", True),
        (None, True),
    ]


async def test_online_increments_make_the_whole_text(url: str) -> None:
    messages = await say(url, speech("hello world_world_一二"), mode="online")
    assert {message["mode"] for message in messages[:-1]} == {"2pass-online"}
    assert clients.text_of(messages) == "hello world world一二"
    assert finals(messages) == [messages[-2]]


@pytest.mark.parametrize("mode", ["offline", None])
async def test_itn_and_corrections_of_offline_results(url: str, mode: str | None) -> None:
    audio = speech("东三百二十hello")
    hotwords = "东320=>西320\n南 北"
    expected: list[tuple[Message, str]] = [
        ({}, "东320 hello."),
        ({"itn": True}, "东320 hello."),
        ({"itn": False}, "东三百二十 hello."),
        ({"hotwords": "东=>西"}, "西320 hello."),
        ({"hotwords": {"东=>西": 20, "南": 20}}, "西320 hello."),
        ({"hotwords": '{"hello=>world hello": 1}'}, "东320 world hello."),
        ({"hotwords": hotwords}, "西320 hello."),
    ]
    for config, text in expected:
        (message, _) = await say(url, audio, **{"mode": mode, **config})
        assert message["text"] == text
        has_words = config.get("hotwords") in ({"东=>西": 20, "南": 20}, hotwords)
        assert message.get("hotwords_applied") == (False if has_words else None)


async def test_numbers_are_stamped_as_the_h5_page_counts(url: str) -> None:
    (message, _) = await say(url, speech("东三百二十hello"), mode="offline")
    assert message["text"] == "东320 hello."
    assert json.loads(message["timestamp"]) == [[0, 100], [100, 233], [233, 367], [367, 500], [500, 600]]
    assert message["stamp_sents"][0]["text_seg"] == "东 320 hello"
    assert clients.shown_by_h5(message["text"], message["timestamp"]) == "0:东320\n0.5:hello\n"


async def test_live_sessions_are_told_how_finals_shall_look(url: str, world: World) -> None:
    await say(url, speech("一二"), mode="2pass", hotwords="一=>二")
    assert world.opened[-1].text == TextOptions(itn=True, corrections=(Correction("一", "二"),))
    await say(url, speech("一二"), mode="2pass", itn=False)
    assert not world.opened[-1].text.itn
    await say(url, speech("一二"), mode="online", hotwords="一=>二")
    assert world.opened[-1].text == TextOptions(punctuation=False)


WORDS = st.lists(
    st.tuples(
        st.sampled_from(["年", "2023年", "54.6%", "hello", "$5.50", "don't", "3:30 p.m.", "AI大", "A", "5G"]),
        st.sampled_from(["", "", "，", "。", "？"]),
    ),
    min_size=1,
    max_size=12,
)


@given(WORDS)
def test_the_h5_page_finds_the_time_of_each_clause(spoken: list[tuple[str, str]]) -> None:
    words = [TimedWord(text, float(i), i + 0.9, 0.0, mark) for i, (text, mark) in enumerate(spoken)]
    reply = result("offline", spaced(join_words(spoken)), final=True, words=words)
    shown = clients.shown_by_h5(reply["text"], reply["timestamp"])
    pairs = json.loads(reply["timestamp"])
    begins = {pair[0] / 1000 for pair in pairs}
    assert all(float(line.partition(":")[0]) in begins for line in shown.splitlines())
    last_line = shown.splitlines()[-1]
    assert float(last_line.partition(":")[0]) >= 0
    assert sum(_h5_units(line.partition(":")[2]) for line in shown.splitlines()) == len(pairs)
    assert [time for pair in pairs for time in pair] == sorted(time for pair in pairs for time in pair)


def _h5_units(part: str) -> int:
    return 1 if part.isascii() and part.isalpha() else len(part)


async def test_offline_stamps_by_clause(url: str) -> None:
    (message, _) = await say(url, speech("八九一hello二"), mode="offline")
    assert message["text"] == "八九，一 hello 二。"
    assert message["timestamp"] == "[[0,100],[100,200],[200,300],[300,400],[400,500]]"
    assert [
        (part["text_seg"], part["punc"], part["start"], part["end"]) for part in message["stamp_sents"]
    ] == [
        ("八 九", "，", 0, 200),
        ("一 hello 二", "。", 200, 500),
    ]


async def test_a_missing_mode_is_offline_and_the_typo_of_one_client_too(url: str) -> None:
    for config in ({}, {"mode": None}, {"mode": "office"}, {"mode": "Offline"}):
        messages = await say(url, speech("一二"), **config)
        assert [(message["mode"], message.get("text")) for message in messages] == [
            ("offline", "一二。"),
            ("offline", None),
        ]


@pytest.mark.parametrize("mode", ["offline", "online", "2pass"])
async def test_nothing_said_is_one_empty_final(url: str, mode: str) -> None:
    label = {"offline": "offline", "online": "2pass-online", "2pass": "2pass-offline"}[mode]
    for audio in (b"", b"\0", speech("_"), speech("_____")):
        messages = await say(url, audio, mode=mode)
        assert messages[:-1] == [
            {"mode": label, "text": "", "wav_name": "wav-default-id", "is_final": True}
        ], audio


async def test_an_end_without_anything_is_answered_once(url: str) -> None:
    async with connected(url) as socket:
        await send_json(socket, is_speaking=False)
        assert (await receive(socket))["is_final"] is True
        await send_json(socket, is_speaking=False)
        await send_json(socket, is_finished=True)
        assert await silent(socket)
        await send_json(socket, is_speaking=False, is_end=True)
        assert (await receive(socket))["is_end"] is True


@pytest.mark.parametrize(
    "spelling",
    [
        [5, 10, 5],
        ["5", "10", "5"],
        [5.0, 10.0, 5.0],
        "5, 10, 5",
        "5,10,5",
        "5-10-5",
        "[5, 10, 5]",
        " 5 10 5 ",
    ],
)
async def test_spellings_of_chunk_size(url: str, world: World, spelling: object) -> None:
    await say(url, speech("一"), mode="2pass", chunk_size=spelling, decoder_chunk_look_back=0)
    assert world.opened[-1].chunk_size == (5, 10, 5)
    assert world.opened[-1].decoder_chunk_look_back == 0
    assert world.opened[-1].encoder_chunk_look_back == 4


async def test_without_chunk_size_the_servers_own_holds(url: str, world: World) -> None:
    await say(url, speech("一"), mode="online")
    assert world.opened[-1].chunk_size == (0, 10, 5)
    assert (world.opened[-1].two_pass, world.opened[-1].text.punctuation) == (False, False)


@pytest.mark.parametrize(
    "bad",
    [
        {"chunk_size": [0, 0, 0]},
        {"chunk_size": [5, 10]},
        {"chunk_size": [5, -10, 5]},
        {"chunk_size": "a,b,c"},
        {"chunk_size": 10},
        {"chunk_size": [1, 10**9, 1]},
        {"encoder_chunk_look_back": 10**9},
        {"decoder_chunk_look_back": "many"},
        {"mode": "3pass"},
        {"mode": 2},
        {"audio_fs": 0},
        {"audio_fs": True},
        {"audio_fs": "fast"},
        {"audio_fs": 44.1},
        {"hotwords": 5},
        {"hotwords": {"一": "heavy"}},
        {"itn": "perhaps"},
        {"hotwords": "=>东"},
        {"hotwords": {"东=>西=>南": 1}},
        {"wav_name": ["a"]},
        {"wav_name": "a" * 5000},
    ],
)
async def test_a_bad_config_is_told_and_changes_nothing(url: str, bad: Message) -> None:
    async with connected(url) as socket:
        await send_json(socket, mode="2pass", chunk_size=[8, 8, 4], wav_name="first")
        await send_json(socket, **{"wav_name": "second", "mode": "online"} | bad)
        error = await receive(socket)
        assert (error["mode"], error["text"], error["is_final"]) == ("2pass-offline", "", True)
        assert next(iter(bad)) in error["error"]
        assert error["error"].endswith(".")
        assert error["wav_name"] == "first"
        messages = await converse(socket, speech("一二"))
        assert clients.text_of(messages) == "一二。"


@pytest.mark.parametrize(
    "text", ["START", "{", "[1, 2]", "null", "1e5", "[" * 100_000, '{"audio_fs": 1e999}']
)
async def test_text_that_is_no_config(url: str, text: str) -> None:
    async with connected(url) as socket:
        await socket.send(text)
        error = await receive(socket)
        assert (error["mode"], error["text"], error["is_final"]) == ("offline", "", True)
        assert error["error"]
        assert clients.text_of(await converse(socket, speech("一二"), mode="2pass")) == "一二。"


async def test_unknown_keys_empty_frames_and_texts_are_passed_over(url: str) -> None:
    async with connected(url) as socket:
        for nothing in ("", " ", b"", '{"type": "ping"}', "{}"):
            await socket.send(nothing)
        assert await silent(socket)
        assert clients.text_of(await converse(socket, speech("一"), mode="2pass", extra={"a": [1]})) == "一。"


async def test_a_bad_end_message_is_an_end_all_the_same(url: str) -> None:
    async with connected(url) as socket:
        await send_json(socket, mode="2pass")
        await socket.send(speech("一"))
        await send_json(socket, is_speaking=False, is_end=True, chunk_size=[0])
        messages = await until_acknowledged(socket)
        assert [message["is_final"] for message in messages if "error" in message] == [True, False]
        assert messages[-1]["error"] == messages[-2]["error"]
        assert clients.text_of(await converse(socket, speech("二"))) == "二。"


async def test_garbage_amid_an_utterance_ends_it(url: str, world: World) -> None:
    async with connected(url) as socket:
        await send_json(socket, mode="2pass")
        await socket.send(speech("一"))
        assert (await receive(socket))["text"] == "一"
        await socket.send("garbage")
        error = await receive(socket)
        assert error["is_final"] is True
        assert "JSON" in error["error"]
        await socket.send(speech("二"))
        await send_json(socket, is_speaking=False, is_end=True)
        assert (await receive(socket))["is_final"] is False
        assert clients.text_of(await converse(socket, speech("三"))) == "三。"


async def test_after_an_error_a_new_config_begins_anew(url: str) -> None:
    async with connected(url) as socket:
        await send_json(socket, mode="2pass", wav_format="mp3")
        await socket.send(b"ID3" + bytes(100))
        assert "PCM" in (await receive(socket))["error"]
        messages = await converse(socket, speech("三"), wav_format="pcm")
        assert clients.text_of(messages) == "三。"
        assert messages[-1]["is_final"] is True


async def test_audio_before_any_config_waits_for_its_mode(url: str, world: World) -> None:
    async with connected(url) as socket:
        await socket.send(speech("一二"))
        await send_json(socket, mode="2pass", wav_name="late")
        assert (await receive(socket))["text"] == "一"
        await socket.send(speech("三"))
        await send_json(socket, is_speaking=False, is_end=True)
        messages = await until_acknowledged(socket)
        assert messages[-2]["text"] == "一二三。"
        assert messages[-2]["wav_name"] == "late"
    async with connected(url) as socket:
        await socket.send(speech("一二", 8000))
        await send_json(socket, audio_fs=8000, is_speaking=False)
        assert (await receive(socket))["text"] == "一二。"


async def test_an_end_message_may_name_the_mode_of_audio_that_came_before_any_config(url: str) -> None:
    async with connected(url) as socket:
        await socket.send(speech("一二"))
        await send_json(socket, mode="2pass", is_speaking=False, is_end=True)
        messages = await until_acknowledged(socket)
        assert finals(messages)[0]["mode"] == "2pass-offline"
        assert clients.text_of(messages) == "一二。"


async def test_is_finished_ends_as_well(url: str) -> None:
    async with connected(url) as socket:
        await send_json(socket, mode="offline")
        await socket.send(speech("一"))
        await send_json(socket, is_finished=True)
        assert (await receive(socket))["text"] == "一。"


async def test_hotwords_are_not_said_to_have_been_applied(url: str) -> None:
    async with connected(url) as socket:
        (plain, _) = await converse(socket, speech("一"), mode="offline", hotwords="")
        (with_words, _) = await converse(socket, speech("一"), hotwords='{"一": "20"}')
        (later, _) = await converse(socket, speech("一"))
        (cleared, _) = await converse(socket, speech("一"), hotwords="")
    assert ["hotwords_applied" in reply for reply in (plain, with_words, later, cleared)] == [
        False,
        True,
        True,
        False,
    ]
    assert with_words["hotwords_applied"] is False


async def test_half_a_surrogate_in_a_name_comes_back_readable(url: str) -> None:
    async with connected(url) as socket:
        await socket.send(r'{"mode": "offline", "wav_name": "a\ud800b", "is_speaking": false}')
        assert (await receive(socket))["wav_name"] == "a?b"


@pytest.mark.parametrize("mode", ["online", "2pass"])
async def test_live_containers(url: str, mode: str) -> None:
    audio = speech("一二")
    for wav_format in ("pcm", "PCM", "wav", "others"):
        messages = await say(url, wav_file(audio), mode=mode, wav_format=wav_format)
        assert clients.text_of(messages).startswith("一二")
    for wav_format, data in (("pcm", b"OggS" + bytes(60)), ("mp3", audio), ("pcm", b"ID3"), ("mp4", b"abc")):
        messages = await say(url, data, mode=mode, wav_format=wav_format)
        if "error" not in messages[0]:
            assert data == b"ID3", "three bytes of PCM are silence"
            continue
        assert "PCM" in messages[0]["error"]
        assert (messages[0]["is_final"], messages[1]["is_final"]) == (True, False)


async def test_offline_damage_is_told(url: str) -> None:
    async with connected(url) as socket:
        error, end = await converse(socket, b"OggS" + bytes(60), mode="offline", wav_format="ogg")
        assert (error["text"], error["is_final"], end["is_final"]) == ("", True, False)
        assert error["error"]
        assert clients.text_of(await converse(socket, speech("一"), wav_format="pcm")) == "一。"


@pytest.mark.parametrize("mode", ["offline", "online", "2pass"])
async def test_a_lost_model_fails_the_utterance_and_not_the_connection(
    url: str, world: World, mode: str
) -> None:
    async with connected(url) as socket:
        world.fault = UpstreamLost("The model was lost.")
        await send_json(socket, mode=mode)
        await socket.send(speech("一"))
        await socket.send(speech("二"))
        await send_json(socket, is_speaking=False, is_end=True)
        messages = await until_acknowledged(socket)
        assert [message["error"] for message in finals(messages)] == ["The model was lost."]
        assert (messages[-1]["is_final"], messages[-1]["error"]) == (False, "The model was lost.")
        world.fault = None
        assert clients.text_of(await converse(socket, speech("三"))).startswith("三")


@pytest.mark.parametrize("mode", ["offline", "2pass"])
async def test_a_fault_of_ours_shows_no_inner_workings(url: str, world: World, mode: str) -> None:
    world.fault = RuntimeError("secret detail")
    async with connected(url) as socket:
        await send_json(socket, mode=mode)
        await socket.send(speech("一"))
        await socket.send(speech("二"))
        await send_json(socket, is_speaking=False)
        messages, closed = await until_closed(socket)
    assert closed == 1011
    assert finals(messages)
    assert "secret" not in json.dumps(messages)


async def test_overload_is_told_and_closed(world: World) -> None:
    async with funasr_server(world, max_live_sessions=1) as (url, service):
        async with connected(url) as first, connected(url) as second:
            await send_json(first, mode="2pass")
            await first.send(speech("一"))
            await receive(first)
            await send_json(second, mode="online")
            await second.send(speech("二"))
            messages, closed = await until_closed(second)
            assert (len(messages), closed) == (1, 1013)
            assert "limit" in messages[0]["error"]
            await send_json(first, is_speaking=False)
            assert (await receive(first))["text"] == "一。"
        assert await settles(service)
        assert clients.text_of(await say(url, speech("三"), mode="2pass")) == "三。"


async def test_overload_amid_an_utterance_is_told_and_the_connection_stays(url: str, world: World) -> None:
    world.fault = Overloaded("The server is busy.", 5)
    async with connected(url) as socket:
        await send_json(socket, mode="2pass")
        await socket.send(speech("一"))
        await socket.send(speech("二"))
        await send_json(socket, is_speaking=False, is_end=True)
        messages = await until_acknowledged(socket)
        assert finals(messages)[0]["error"] == "The server is busy."
        world.fault = None
        assert clients.text_of(await converse(socket, speech("三"))) == "三。"


async def test_the_key_is_asked_for(world: World) -> None:
    async with funasr_server(world, api_key="right-key") as (url, _):
        for refused in (
            connected(url),
            connected(url, additional_headers={"Authorization": "Bearer; none"}),
            connected(url + "?token=wrong"),
        ):
            async with refused as socket:
                messages, closed = await until_closed(socket)
                assert (len(messages), closed) == (1, 1008)
                assert "key" in messages[0]["error"]
                assert "right-key" not in json.dumps(messages)
        for admitted in (
            connected(url, additional_headers={"Authorization": "Bearer; right-key"}),
            connected(url, additional_headers={"X-NLS-Token": "right-key"}),
            connected(url + "?token=right-key"),
        ):
            async with admitted as socket:
                assert clients.text_of(await converse(socket, speech("一"), mode="2pass")) == "一。"


async def test_the_path_of_its_own(url: str) -> None:
    assert clients.text_of(await say(url + "ws/v1/asr/funasr", speech("一"), mode="2pass")) == "一。"


async def test_silent_clients_are_closed(world: World) -> None:
    async with funasr_server(world, live_idle_timeout_sec=0.3) as (url, service):
        async with connected(url) as socket:
            assert await until_closed(socket) == ([], 1000)
        for mode in ("offline", "2pass"):
            async with connected(url) as socket:
                await send_json(socket, mode=mode)
                await socket.send(speech("一"))
                messages, closed = await until_closed(socket)
                assert closed == 1001
                assert [message["is_final"] for message in messages if "error" in message] == [True]
        assert await settles(service)


async def test_a_client_that_waits_for_its_result_is_not_idle(world: World) -> None:
    async with funasr_server(world, live_idle_timeout_sec=0.3) as (url, _):
        world.gate.clear()
        async with connected(url) as socket:
            await send_json(socket, mode="offline")
            await socket.send(speech("一二"))
            await send_json(socket, is_speaking=False)
            await asyncio.sleep(0.6)
            world.gate.set()
            assert (await receive(socket))["text"] == "一二。"


async def test_a_session_that_falls_behind_loses_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    text = "一二三四五_六七八九十_" * 200
    async with funasr_server(world) as (url, _), connected(url) as socket:
        world.gate.clear()
        await send_json(socket, mode="2pass")
        await clients.send_audio(socket, speech(text), 7777)
        await send_json(socket, is_speaking=False, is_end=True)
        assert await silent(socket)
        world.gate.set()
        messages = await until_acknowledged(socket)
    assert clients.text_of(messages) == text.replace("_", "。")


@pytest.mark.parametrize("mode", ["offline", "2pass"])
async def test_audio_without_end_is_bounded(world: World, mode: str) -> None:
    async with funasr_server(world, max_audio_size=1) as (url, service):
        world.gate.clear()
        async with connected(url) as socket:
            await send_json(socket, mode=mode)
            try:
                for _ in range(1000):
                    await socket.send(bytes(100_000))
            except ConnectionClosed:
                assert socket.close_code == 1009
            messages, closed = await until_closed(socket)
        assert closed == 1009
        assert [message["is_final"] for message in messages if "error" in message] == [True]
        world.gate.set()
        assert await settles(service)


@pytest.mark.parametrize("mode", ["offline", "2pass"])
async def test_one_frame_of_64_mib(url: str, mode: str) -> None:
    audio = speech("一二三") + bytes(64 << 20)
    messages = await say(url, audio, mode=mode, itn=False)
    assert clients.text_of(messages) == "一二三。"
    assert len(finals(messages)) == 1


async def test_many_small_texts_do_not_pile_up(world: World) -> None:
    async with funasr_server(world) as (url, _):
        world.gate.clear()
        async with connected(url) as socket:
            await send_json(socket, mode="2pass")
            await socket.send(speech("一"))
            try:
                for _ in range(5000):
                    await socket.send('{"itn": true}')
            except ConnectionClosed:
                assert socket.close_code == 1009
            assert (await until_closed(socket))[1] == 1009


@pytest.mark.parametrize("code", [1000, 1001, 3000, None])
@pytest.mark.parametrize("mode", ["offline", "online", "2pass"])
async def test_clients_that_vanish_leave_nothing(world: World, mode: str, code: int | None) -> None:
    async with funasr_server(world) as (url, service):
        before = len(asyncio.all_tasks())
        for gate_is_open in (True, False):
            async with connected(url) as socket:
                await send_json(socket, mode=mode)
                await socket.send(speech("一"))
                if mode != "offline":
                    await receive(socket)
                    assert service.active == 1
                if not gate_is_open:
                    world.gate.clear()
                    await send_json(socket, is_speaking=False)
                    await socket.send(speech("二") * 50)
                if code is None:
                    socket.transport.abort()
                else:
                    await socket.close(code)
            assert await settles(service)
            world.gate.set()
        assert await eventually(lambda: len(asyncio.all_tasks()) <= before)
        assert clients.text_of(await say(url, speech("三"), mode="2pass")) == "三。"


async def test_the_subprotocol_is_echoed_only_when_offered(url: str) -> None:
    async with connected(url, binary=True) as socket:
        assert socket.subprotocol == "binary"
    async with connected(url) as socket:
        assert socket.subprotocol is None


def told(mode: Literal["online", "2pass"], *events: LiveEvent) -> list[Message]:
    narration = Narration(mode)
    return [reply for event in events if (reply := narration.tell(event)) is not None]


def heard(text: str, stable: int, index: int = 0) -> Partial:
    return Partial(index, text, stable, 0.0, 1.0, ())


def ended(text: str, cause: Cause = "silence", index: int = 0) -> SentenceFinal:
    return SentenceFinal(index, text, 0.0, 1.0, (), cause)


def test_only_what_stays_is_told_while_a_sentence_goes_on() -> None:
    events = [heard("he", 0), heard("hello", 0), heard("hello wor", 5), heard("hello world", 5)]
    replies = told("online", SpeechStarted(0, 0.0), *events, ended("hello world", "end"), Finished(1.0))
    assert [(reply["text"], reply["is_final"]) for reply in replies] == [("hello", False), (" world", True)]


def test_a_sentence_that_came_to_nothing_takes_its_increments_back() -> None:
    replies = told("2pass", SpeechStarted(0, 0.0), heard("一", 1), ended(""), Finished(1.0))
    assert [(reply["mode"], reply["text"], reply["is_final"]) for reply in replies] == [
        ("2pass-online", "一", False),
        ("2pass-offline", "", False),
        ("2pass-offline", "", True),
    ]
    silent = told("2pass", SpeechStarted(0, 0.0), ended(""), Finished(1.0))
    assert [(reply["text"], reply["is_final"]) for reply in silent] == [("", True)]


def test_online_text_that_begins_differently_after_all_is_continued() -> None:
    replies = told("online", SpeechStarted(0, 0.0), heard("一二", 2), ended("三四五", "end"), Finished(1.0))
    assert [reply["text"] for reply in replies] == ["一二", "五"]


@pytest.mark.parametrize("mode", ["online", "2pass"])
def test_sentences_in_latin_script_stay_apart(mode: Literal["online", "2pass"]) -> None:
    first: list[LiveEvent] = [SpeechStarted(0, 0.0), heard("hello", 5), ended("hello")]
    second: list[LiveEvent] = [SpeechStarted(1, 1.0), heard("world", 5, 1), ended("world", "end", 1)]
    replies = told(mode, *first, *second, Finished(2.0))
    assert clients.text_of(replies) == "hello world"
