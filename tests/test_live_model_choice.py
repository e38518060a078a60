"""Which model listens: by its name in each of the live protocols, and what they tell it."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from deployments.messages import RecognitionOptions
from tests.dashscope_clients import FINISH, REALTIME, action, append, dashscope, names, run_task
from tests.funasr_clients import connected, receive, send_json
from tests.generative_graph import WritingGraph
from tests.live_sessions import PAUSE, characters, tones
from tests.nls_clients import named, nls, nls_server, text_of
from tests.realtime_world import TRANSCRIPTION, realtime

QWEN, PARAFORMER = "qwen3-asr-starter", "paraformer-starter"
LEVELS = [*range(1, 22)]
"""6.3 seconds without a pause."""
TEXT = characters(LEVELS) + "。"


@pytest.fixture
def graph() -> WritingGraph:
    return WritingGraph()


@pytest.fixture
async def url(graph: WritingGraph) -> AsyncIterator[str]:
    async with nls_server(graph) as address:
        yield address


async def say_to_nls(url: str, **start: Any) -> list[dict[str, Any]]:
    async with nls(url) as client:
        answer = await client.start(
            enable_intermediate_result=True, enable_punctuation_prediction=True, **start
        )
        if answer["header"]["name"] == "TaskFailed":
            return client.events
        await client.say(tones([*LEVELS, *PAUSE]).tobytes())
        await client.stop()
        await client.until("TranscriptionCompleted", "TaskFailed")
        return client.events


async def test_nls(url: str, graph: WritingGraph) -> None:
    events = await say_to_nls(
        url, model="Qwen3-ASR", language="Chinese", context="阿里", vocabulary_id="钉钉 20", enable_words=True
    )
    (end,) = named(events, "SentenceEnd")
    assert end["result"] == TEXT
    assert [word["text"] for word in end["words"]] == [*characters(LEVELS)]
    assert 0 < end["confidence"] < 1
    assert all(TEXT.startswith(changed["result"]) for changed in named(events, "TranscriptionResultChanged"))
    assert graph.finals == [RecognitionOptions(QWEN, "zh", "钉钉\n阿里", itn=False)]
    await say_to_nls(url)
    assert graph.finals[1:] == [RecognitionOptions(PARAFORMER, word_times=False, itn=False)]


async def test_nls_refuses_what_there_is_not(url: str) -> None:
    for payload in ({"model": "nova-9"}, {"model": "qwen3-asr", "language": "Klingon"}):
        (failed,) = await say_to_nls(url, **payload)
        assert failed["header"]["status"] == 40000003
        assert ("nova-9" in failed["header"]["status_text"]) == (payload["model"] == "nova-9")


async def heard_by_openai(url: str, **transcription: Any) -> tuple[list[str], str]:
    """The deltas, and the transcript."""
    async with realtime(url.replace("ws", "http", 1)) as client:
        answer = await client.update(transcription=transcription)
        assert answer["type"] == "session.updated", answer
        await client.say(tones([*LEVELS, *PAUSE]))
        (text,) = await client.completed()
        return [event["delta"] for event in client.named(f"{TRANSCRIPTION}.delta")], text


async def test_openai_realtime(url: str, graph: WritingGraph) -> None:
    deltas, text = await heard_by_openai(
        url, model="Qwen/Qwen3-ASR-0.6B", language="zh", prompt="钉钉, 阿里", keywords=["通义"]
    )
    assert (deltas, text) == ([TEXT], TEXT)
    (options,) = graph.finals
    assert (options.model, options.language, options.word_times) == (QWEN, "zh", False)
    assert {"钉钉", "阿里", "通义"} <= set(options.context.replace("\n", ", ").split(", "))
    for name in ("gpt-4o-transcribe", "whisper-1"):
        await heard_by_openai(url, model=name)
        assert graph.finals[-1].model == PARAFORMER


async def test_openai_realtime_as_it_is_heard(url: str, graph: WritingGraph) -> None:
    deltas, text = await heard_by_openai(url, model="qwen3-asr", delay="low", languages=["zh", "en"])
    assert text == characters(LEVELS)
    assert "".join(deltas) == text
    assert len(deltas) > 2
    assert graph.finals == []
    assert {decoding.options.model for decoding in graph.decodings} == {QWEN}


async def test_openai_realtime_tells_which_language_was_heard(url: str) -> None:
    async with realtime(url.replace("ws", "http", 1)) as client:
        await client.update(transcription={"model": "qwen3-asr", "languages": ["ja", "zh"]})
        await client.say(tones([1, 2, 3, *PAUSE]))
        assert (await client.until(f"{TRANSCRIPTION}.completed"))["languages"] == [{"code": "zh"}]


@pytest.mark.parametrize(
    ("transcription", "param"),
    [({"language": "tlh"}, "language"), ({"prompt": "Words. " * 2000}, "prompt")],
)
async def test_openai_realtime_refuses_what_the_model_cannot_be_told(
    url: str, transcription: dict[str, Any], param: str
) -> None:
    async with realtime(url.replace("ws", "http", 1)) as client:
        answer = await client.update(transcription={"model": "qwen3-asr", **transcription})
        assert answer["type"] == "error"
        assert answer["error"]["param"] == f"session.audio.input.transcription.{param}"


async def do_task(url: str, model: str, **parameters: Any) -> list[dict[str, Any]]:
    start = run_task(**parameters)
    start["payload"]["model"] = model
    async with dashscope(url) as client:
        await client.send(start)
        if names([await client.event()]) == ["task-failed"]:
            return client.events
        await client.send(tones([*LEVELS, *PAUSE]).tobytes())
        await client.send(action("finish-task"))
        await client.until("task-finished")
        return client.events


@pytest.mark.parametrize(
    ("model", "served"),
    [
        ("qwen3-asr-flash-realtime", QWEN),
        ("paraformer-realtime-v2", PARAFORMER),
        ("fun-asr-realtime", PARAFORMER),
    ],
)
async def test_dashscope(url: str, graph: WritingGraph, model: str, served: str) -> None:
    events = await do_task(url, model, language_hints=["zh"], vocabulary_id="钉钉 20 丁丂=>丁丁")
    sentence = events[-2]["payload"]["output"]["sentence"]
    assert sentence["text"] == "丁丁" + TEXT[2:]
    (options,) = graph.finals
    assert options.model == served
    if served == QWEN:
        assert (options.language, options.context) == ("zh", "钉钉")


async def test_dashscope_refuses_a_language_that_the_model_does_not_know(url: str) -> None:
    (failed,) = await do_task(url, "qwen3-asr", language_hints=["tlh"])
    assert failed["header"]["error_code"] == "InvalidParameter"
    assert "tlh" in failed["header"]["error_message"]
    assert names(await do_task(url, "qwen3-asr", language_hints=["tlh", "zh"]))[-1] == "task-finished"


@pytest.mark.parametrize("manual", [False, True])
async def test_dashscope_in_the_dialect_of_qwen(url: str, graph: WritingGraph, manual: bool) -> None:
    session: dict[str, Any] = {"input_audio_transcription": {"language": "zh", "corpus": {"text": "钉钉"}}}
    if manual:
        session["turn_detection"] = None
    async with dashscope(url, f"{REALTIME}?model=qwen3-asr-flash-realtime") as client:
        await client.send({"type": "session.update", "session": session})
        await client.send(append(tones([*LEVELS, *PAUSE]).tobytes()))
        if manual:
            await client.send({"type": "input_audio_buffer.commit"})
        await client.send(FINISH)
        events, _ = await client.closed()
    (completed,) = [event for event in events if event["type"] == f"{TRANSCRIPTION}.completed"]
    assert (completed["transcript"], completed["language"]) == (TEXT, "zh")
    for event in events:
        if event["type"] == f"{TRANSCRIPTION}.text":
            assert TEXT.startswith(event["text"] + event["stash"])
    assert graph.finals == [RecognitionOptions(QWEN, "zh", "钉钉", word_times=False)]


async def test_dashscope_in_the_dialect_of_qwen_refuses_unknown_languages(url: str) -> None:
    async with dashscope(url, f"{REALTIME}?model=qwen3-asr-flash-realtime") as client:
        await client.event()
        await client.send(
            {"type": "session.update", "session": {"input_audio_transcription": {"language": "tlh"}}}
        )
        error = (await client.event())["error"]
    assert (error["code"], error["param"]) == ("InvalidParameter", "language")


@pytest.mark.parametrize("mode", ["2pass", "online"])
async def test_funasr(url: str, graph: WritingGraph, mode: str) -> None:
    async with connected(f"{url}/") as socket:
        await send_json(
            socket,
            mode=mode,
            model="qwen3-asr",
            hotwords=json.dumps({"钉钉": 20}),
            svs_lang="zh",
            context="阿里",
        )
        await socket.send(tones([*LEVELS, *PAUSE]).tobytes())
        await send_json(socket, is_speaking=False)
        messages = [await receive(socket)]
        while not messages[-1]["is_final"]:
            messages.append(await receive(socket))
    options = RecognitionOptions(QWEN, "zh", "钉钉\n阿里")
    assert {message["hotwords_applied"] for message in messages} == {True}
    assert {decoding.options for decoding in graph.decodings} == {options}
    if mode == "2pass":
        assert next(message["text"] for message in messages if message["mode"] == "2pass-offline") == TEXT
        assert graph.finals == [options]
    else:
        assert "".join(message["text"] for message in messages) == characters(LEVELS)
        assert graph.finals == []


@pytest.mark.parametrize("config", [{"model": "nova-9"}, {"model": "qwen3-asr", "language": "tlh"}])
async def test_funasr_refuses_what_there_is_not(url: str, config: dict[str, Any]) -> None:
    async with connected(f"{url}/") as socket:
        await send_json(socket, mode="2pass", **config)
        reply = await receive(socket)
        assert any(value in reply["error"] for value in config.values())


async def test_the_default_model_serves_those_who_name_none(graph: WritingGraph) -> None:
    async with nls_server(graph, default_model=QWEN) as url:
        assert text_of(await say_to_nls(url)) == TEXT
        await heard_by_openai(url, model="gpt-4o-transcribe")
        await do_task(url, "fun-asr-realtime")
        async with connected(f"{url}/") as socket:
            await send_json(socket, mode="2pass")
            await socket.send(tones([*LEVELS, *PAUSE]).tobytes())
            await send_json(socket, is_speaking=False)
            while not (await receive(socket))["is_final"]:
                pass
        assert [options.model for options in graph.finals] == [QWEN] * 4
        await do_task(url, "paraformer-realtime-v2")
        assert graph.finals[-1].model == PARAFORMER
        async with realtime(url.replace("ws", "http", 1), rate=None) as client:
            shown = client.events[0]["session"]["audio"]["input"]["transcription"]["model"]
            assert shown == QWEN
