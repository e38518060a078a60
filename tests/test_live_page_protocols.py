"""The live page in each of its protocols: the same text and times from the same audio, and its faults."""

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from tests.conftest import Sample
from tests.generative_graph import WritingGraph
from tests.live_graph import ToneGraph
from tests.live_page import SPOKEN, LivePage, Row, needs_browser
from tests.live_sessions import PAUSE, tones
from tests.realtime_world import HearingGraph, realtime_server

pytest_plugins = ["tests.live_page_fixtures"]

PROTOCOLS = ("funasr", "nls", "openai", "qwen", "dashscope")
KEY = "right-key"
ROWS = [Row("丁丂七，", 0, 1000, False), Row("丄丅。", 2000, 2700, False)]
"""What is told of :func:`recording`: a sentence that a pause ends, and one that the end of the audio does."""


@contextmanager
def served(graph: ToneGraph, **settings: Any) -> Iterator[str]:
    """The whole application over models that hear levels, in a thread of its own; its address."""
    loop, over, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    address: list[str] = []

    async def serve() -> None:
        async with realtime_server(graph, **settings) as url:
            address.append(url)
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(20), "the server did not start"
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)
        loop.close()


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    with served(HearingGraph(), api_key=KEY) as url:
        yield url


def recording(folder: Path, name: str = "tones.wav") -> Path:
    path = folder / name
    soundfile.write(path, tones([1, 2, 3, *PAUSE, 4, 5]), 16_000)
    return path


@needs_browser
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_text_times_subtitles_and_copy(
    driver: Chrome, guarded: str, downloads: Path, tmp_path: Path, protocol: str
) -> None:
    page = LivePage(driver, guarded)
    page.speak(protocol)
    page.fill("token", KEY)
    page.choose_file(recording(tmp_path, f"{protocol}.wav"), fast=True)
    page.press("start")
    page.finish()
    # OpenAI's default of prefix_padding_ms is 100 ms more than what the others hear before speech.
    padding = 100 if protocol == "openai" else 0
    assert page.rows == [ROWS[0], replace(ROWS[1], begin=ROWS[1].begin - padding)]
    page.press("srt")
    subtitles = downloads / f"{protocol}.srt"
    page.wait(subtitles.exists)
    cues = subtitles.read_text(encoding="utf-8").split("\n\n")
    assert [cue.strip().split("\n")[2] for cue in cues] == [row.text for row in ROWS]
    page.press("copy")
    page.wait(lambda: page["copy"].text == "Copied")
    page.fill("address", "")
    page["address"].send_keys(Keys.CONTROL, "v")
    assert page["address"].get_attribute("value") == "丁丂七，丄丅。"
    assert page.problems == []


@needs_browser
def test_the_model_is_chosen_among_those_of_the_server(driver: Chrome, tmp_path: Path) -> None:
    graph = WritingGraph()
    with served(graph) as url:
        page = LivePage(driver, url)
        names = ["paraformer-starter", "qwen3-asr-starter"]

        def listed() -> list[str | None]:
            return [option.get_attribute("value") for option in Select(page["model"]).options]

        page.wait(lambda: listed() == ["", *names])
        page.choose_file(recording(tmp_path), fast=True)
        for protocol in ("funasr", "nls", "openai", "dashscope"):
            for name in names:
                page.speak(protocol)
                Select(page["model"]).select_by_value(name)
                page.press("start")
                page.finish()
                assert {options.model for options in graph.finals} == {name}, protocol
                graph.finals.clear()
        driver.refresh()
        page.wait(lambda: page["model"].get_attribute("value") == names[1])
        page.speak("qwen")
        assert not page["model-field"].is_displayed()
        page.choose_file(recording(tmp_path))
        page.press("start")
        page.finish()
        assert [row.text for row in page.rows] == ["丁丂七。", "丄丅。"]
        assert page.problems == []


@needs_browser
def test_hotwords_and_what_became_of_them(driver: Chrome, tmp_path: Path) -> None:
    with served(WritingGraph()) as url:
        page = LivePage(driver, url)
        page.fill("hotwords", "魔搭 20, 通义")
        page.choose_file(recording(tmp_path), fast=True)
        for protocol in PROTOCOLS:
            page.speak(protocol)
            page.press("start")
            page.finish()
            if protocol == "qwen":
                assert page["hotwords-told"].text == "Listened for: 魔搭, 通义."
            else:
                reason = "The model paraformer-starter has no hotwords."
                assert page["hotwords-told"].text == f"Not listened for: 魔搭, 通义. {reason}"
        page.fill("hotwords", "")
        page.press("start")
        page.finish()
        assert not page["hotwords-told"].is_displayed()
        assert page.problems == []


@needs_browser
@pytest.mark.parametrize(
    ("protocol", "fault", "says"),
    [
        ("nls", "serverError", "'wrong' is invalid"),
        ("qwen", "serverError", "API key that was sent is not a valid one"),
        ("openai", "unreachable", "/v1/realtime"),
        ("dashscope", "unreachable", "/api-ws/v1/inference"),
    ],
)
def test_a_wrong_key(
    driver: Chrome, guarded: str, tmp_path: Path, protocol: str, fault: str, says: str
) -> None:
    page = LivePage(driver, guarded)
    page.speak(protocol)
    page.fill("token", "wrong")
    page.choose_file(recording(tmp_path), fast=True)
    page.press("start")
    page.finish(among=["failed"])
    assert page.fault == fault
    assert says in page["notice"].text


@needs_browser
@pytest.mark.parametrize(("protocol", "other"), [("nls", "openai"), ("dashscope", "nls")])
def test_an_address_of_another_protocol(
    driver: Chrome, guarded: str, tmp_path: Path, protocol: str, other: str
) -> None:
    page = LivePage(driver, guarded)
    page.speak(other)
    address = page["address"].get_attribute("value") or ""
    page.speak(protocol)
    page.fill("address", address)
    page.fill("token", KEY)
    page.choose_file(recording(tmp_path), fast=True)
    page.press("start")
    page.finish(among=["failed"])
    assert page.fault == "notUnderstood"
    assert page["protocol"].find_element(By.CSS_SELECTOR, ":checked").text in page["notice"].text


@needs_browser
def test_text_while_it_is_spoken_from_openai(driver: Chrome, guarded: str, tmp_path: Path) -> None:
    page = LivePage(driver, guarded)
    page.speak("openai")
    page["as-heard"].click()
    page.fill("token", KEY)
    page.choose_file(recording(tmp_path), fast=True)
    page.press("start")
    page.finish()
    assert [row.text for row in page.rows] == ["丁丂七", "丄丅"]
    assert page.partials


@needs_browser
def test_each_protocol_has_its_address_and_its_settings(driver: Chrome, guarded: str) -> None:
    page = LivePage(driver, guarded)
    base = guarded.replace("http", "ws", 1)
    addresses = {
        "nls": "/ws/v1/asr",
        "openai": "/v1/realtime?intent=transcription",
        "dashscope": "/api-ws/v1/inference",
        "funasr": "/ws/v1/asr/funasr",
    }
    for protocol, path in addresses.items():
        page.speak(protocol)
        assert page["address"].get_attribute("value") == base + path
        assert page["chunk-size"].is_displayed() == (protocol == "funasr")
        assert page["as-heard"].is_displayed() == (protocol == "openai")
    page.fill("address", "wss://elsewhere/")
    page.speak("nls")
    page.driver.refresh()
    page.wait(lambda: page.phase)
    assert page["address"].get_attribute("value") == base + "/ws/v1/asr"
    assert "SpeechTranscriber" in page["protocol-note"].text
    page.speak("funasr")
    assert page["address"].get_attribute("value") == "wss://elsewhere/"


_ACTED = """
    const [name, exported, options, messages] = args;
    const module = await load(name), told = [];
    const sockets = [];
    window.WebSocket = class {
      constructor(url, subprotocols) {
        Object.assign(this, {url: String(url), subprotocols, sent: [], bufferedAmount: 0});
        sockets.push(this);
      }
      send(data) { this.sent.push(data); }
      close() {}
    };
    const note = (kind) => (value) => told.push([kind, value?.text ?? value?.values?.reason ?? null]);
    const session = new module[exported](options, {
      onStarted: note('started'), onPartial: note('partial'), onFinal: note('final'),
      onFinished: note('finished'), onFailed: note('failed'),
    });
    const [socket] = sockets;
    socket.onopen();
    for (const message of messages) {
      if (message === 'end') session.end();
      else socket.onmessage({data: JSON.stringify(message)});
    }
    return [told, socket.url, socket.subprotocols];
"""
OPTIONS = {"address": "ws://host/path", "token": "a key"}


def acted(page: LivePage, module: str, exported: str, *messages: Any, **options: str) -> Any:
    """What a session tells of a server's messages, and where it connects; ``"end"`` ends the audio."""
    return page.evaluate(_ACTED, module, exported, {**OPTIONS, **options}, messages)


def item(kind: str, item_id: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"conversation.item.input_audio_transcription.{kind}", "item_id": item_id, **fields}


COMMITTED = "input_audio_buffer.committed"
UPDATED = {"type": "session.updated"}


@needs_browser
def test_openai_items_may_be_completed_after_everything_else(page: LivePage) -> None:
    told, _, _ = acted(
        page,
        "openai.js",
        "OpenaiSession",
        {"type": "session.created"},
        UPDATED,
        {"type": COMMITTED, "item_id": "a"},
        item("delta", "a", delta="A "),
        item("delta", "a", delta="b"),
        "end",
        {"type": COMMITTED, "item_id": "c"},
        UPDATED,
        item("completed", "c", transcript="c"),
        item("completed", "a", transcript="A b."),
    )
    assert told == [
        ["started", None],
        ["partial", "A "],
        ["partial", "A b"],
        ["final", "c"],
        ["final", "A b."],
        ["finished", None],
    ]


@needs_browser
@pytest.mark.parametrize(
    ("module", "exported", "failure"),
    [
        ("openai.js", "OpenaiSession", item("failed", "a", error={"message": "No text."})),
        ("openai.js", "OpenaiSession", {"type": "error", "error": {"message": "No text.", "event_id": None}}),
        (
            "dashscope.js",
            "DashscopeSession",
            {"header": {"event": "task-failed", "error_message": "No text."}},
        ),
        ("nls.js", "NlsSession", {"header": {"name": "TaskFailed", "status_text": "No text."}}),
    ],
)
def test_what_a_server_reports(page: LivePage, module: str, exported: str, failure: dict[str, Any]) -> None:
    told, _, _ = acted(page, module, exported, failure, failure)
    assert told == [["failed", "No text."]]


@needs_browser
def test_where_the_key_goes(page: LivePage) -> None:
    """OpenAI's subprotocol cannot carry every key; this server takes it from the address as well."""
    _, url, subprotocols = acted(page, "openai.js", "OpenaiSession", token="sk-1_a.b")
    assert (url, subprotocols) == ("ws://host/path", ["realtime", "openai-insecure-api-key.sk-1_a.b"])
    _, url, subprotocols = acted(page, "openai.js", "OpenaiSession", token="a/b==")
    assert (url, subprotocols) == ("ws://host/path?token=a%2Fb%3D%3D", ["realtime"])
    _, _, subprotocols = acted(page, "openai.js", "OpenaiSession", token="")
    assert subprotocols == ["realtime"]


@needs_browser
@pytest.mark.parametrize(
    ("text", "words", "placed"),
    [
        ("你好，hello world!", ["你", "好", "hello", "world"], ["你", "好，", "hello ", "world!"]),
        ("共30元。", ["共", "三十", "元"], []),
        ("好好的", ["好", "的"], []),
        ("", [], []),
    ],
)
def test_words_are_found_in_their_text(
    page: LivePage, text: str, words: list[str], placed: list[str]
) -> None:
    timed = [{"text": word, "begin": 100 * i, "end": 100 * i + 90} for i, word in enumerate(words)]
    found = page.evaluate("return (await load('words.js')).placedWords(...args)", text, timed)
    assert [word["text"] for word in found] == placed


# --- Against the real server


def spoken_sample(samples: list[Sample]) -> Sample:
    (found,) = [sample for sample in samples if sample.path == SPOKEN]
    return found


@needs_browser
@pytest.mark.server
@pytest.mark.parametrize("protocol", PROTOCOLS[1:])
def test_file_to_text(driver: Chrome, server_url: str, samples: list[Sample], protocol: str) -> None:
    page = LivePage(driver, server_url)
    page.speak(protocol)
    page.choose_file(SPOKEN, fast=True)
    page.press("start")
    page.finish()
    assert page.text == spoken_sample(samples).written
    edges = [edge for row in page.rows for edge in (row.begin, row.end)]
    assert edges == sorted(edges)
    assert edges[-1] <= 1000 * soundfile.info(SPOKEN).duration
    assert not any(row.is_estimated for row in page.rows)


@needs_browser
@pytest.mark.server
def test_microphone_to_text(driver: Chrome, server_url: str, samples: list[Sample]) -> None:
    page = LivePage(driver, server_url)
    page.speak("openai")
    page.press("start")
    page.wait(lambda: page.text == spoken_sample(samples).written)
    page.press("start")
    page.finish()
    assert page.text == spoken_sample(samples).written
    assert re.fullmatch(r"\d+ ms|\d+\.\d\d s", page["first-text"].text)
    assert re.fullmatch(r"\d+ ms|\d+\.\d\d s", page["final-delay"].text)
    assert page.problems == []
