"""Speakers on the live page: their names and colors, and what becomes of both when more is known."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from selenium.webdriver import Chrome, Keys

from tests.live_page import LivePage, needs_browser
from tests.live_sessions import tones
from tests.live_voices import MERGING_TALK, TALK, Voiced, hoarse
from tests.realtime_world import realtime_server
from tests.scripted_funasr import Script, ScriptedServer, final

pytest_plugins = ["tests.live_page_fixtures"]

ANN, BOB = ("说话人1", "0"), ("说话人2", "1")


def spoken(text: str, begin: int, name: str, score: float = 0.9, **extra: Any) -> dict[str, Any]:
    return final(text, begin, begin + 900, spk_name=name, spk_score=score, **extra)


def changed(old: str, new: str) -> dict[str, Any]:
    return {"speaker_changes": [{"from": old, "to": new}]}


def run(page: LivePage, path: Path, protocol: str = "funasr", *, speakers: bool = True) -> None:
    page.speak(protocol)
    if page["speakers"].is_selected() != speakers:
        page["speakers"].click()
    page.choose_file(path, fast=True)
    page.press("start")
    page.finish()


def recording(folder: Path, levels: list[int], name: str = "talk.wav") -> Path:
    path = folder / name
    soundfile.write(path, tones(levels), 16_000)
    return path


FIVE = Script(
    after_end=(
        spoken("你好。", 0, "说话人1"),
        spoken("好的。", 1000, "说话人1"),
        spoken("嗯。", 2000, "unknown", 0.0),
        spoken("再见。", 3000, "说话人2", 0.3),
        spoken("慢走。", 4000, "说话人1", is_final=True),
    )
)


@needs_browser
def test_names_are_shown_where_somebody_else_begins_to_speak(
    page: LivePage, scripted: ScriptedServer, downloads: Path, tmp_path: Path
) -> None:
    scripted.script = FIVE
    run(page, recording(tmp_path, TALK))
    assert scripted.sessions[0].messages[0]["enable_speaker_diarization"] is True
    assert page.voices == [ANN, ANN, ("", ""), BOB, ANN]
    assert page.headings == ["说话人1", "说话人2", "说话人1"]
    unsure = page.driver.find_elements("css selector", "#sentences .unsure .text")
    assert [(row.text, row.get_attribute("title")) for row in unsure] == [
        ("再见。", "It is not certain who said this.")
    ]
    page.press("srt")
    subtitles = downloads / "talk.srt"
    page.wait(subtitles.exists)
    cues = subtitles.read_text(encoding="utf-8").split("\n\n")
    heads = ["[说话人1] 你好。", "[说话人1] 好的。", "嗯。", "[说话人2] 再见。", "[说话人1] 慢走。"]
    assert [cue.strip().split("\n")[2] for cue in cues] == heads
    subtitles.unlink()
    page.press("copy")
    page.wait(lambda: page["copy"].text == "Copied")
    page.fill("address", "")
    page["address"].send_keys(Keys.CONTROL, "v")
    pasted = page["address"].get_attribute("value")
    # An input field takes lines for words.
    assert pasted == "说话人1: 你好。好的。 嗯。 说话人2: 再见。 说话人1: 慢走。"
    assert page.problems == []


@needs_browser
def test_nobody_is_named_unless_asked_for(page: LivePage, scripted: ScriptedServer, tmp_path: Path) -> None:
    run(page, recording(tmp_path, TALK), speakers=False)
    assert "enable_speaker_diarization" not in scripted.sessions[0].messages[0]
    assert set(page.voices) == {("", "")}
    assert page.headings == []


@needs_browser
def test_earlier_rows_follow_what_is_known_later(
    page: LivePage, scripted: ScriptedServer, tmp_path: Path
) -> None:
    scripted.script = Script(
        after_end=(
            spoken("一。", 0, "说话人1"),
            spoken("二。", 1000, "说话人2"),
            spoken("三。", 2000, "说话人3"),
            spoken("四。", 3000, "说话人1", **changed("说话人2", "说话人1")),
            spoken("五。", 4000, "Cyd", **changed("说话人3", "Cyd"), is_final=True),
        )
    )
    run(page, recording(tmp_path, TALK))
    # The third speaker keeps the third color, whoever went.
    assert page.voices == [ANN, ANN, ("Cyd", "2"), ANN, ("Cyd", "2")]
    assert page.headings == ["说话人1", "Cyd", "说话人1", "Cyd"]


@needs_browser
def test_an_offline_result_is_split_by_its_speakers(
    page: LivePage, scripted: ScriptedServer, tmp_path: Path
) -> None:
    info = [
        {"text": "你好。", "start": 0, "end": 300, "spk": 0, "spk_name": "Ann", "spk_score": 0.9},
        {"text": "您好。", "start": 300, "end": 600, "spk": 1, "spk_name": "说话人2", "spk_score": 0.9},
    ]
    reply = {"mode": "offline", "text": "你好。您好。", "wav_name": "w", "is_final": True}
    stamps = "[[0,100],[100,250],[300,400],[400,550]]"
    scripted.script = Script(after_end=({**reply, "timestamp": stamps, "sentence_info": info},))
    page.choose("mode", "offline")
    run(page, recording(tmp_path, TALK))
    assert [(row.text, row.begin, row.end) for row in page.rows] == [("你好。", 0, 300), ("您好。", 300, 600)]
    assert page.voices == [("Ann", "0"), BOB]


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The whole application over models that hear levels, and voices in them; its address."""
    loop, over, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    address: list[str] = []

    async def serve() -> None:
        async with realtime_server(Voiced(hoarse), data_dir=tmp_path_factory.mktemp("data")) as url:
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


@needs_browser
@pytest.mark.parametrize("protocol", ["funasr", "nls", "openai", "dashscope"])
def test_speakers_and_merges_in_each_protocol(
    driver: Chrome, hearing: str, tmp_path: Path, protocol: str
) -> None:
    page = LivePage(driver, hearing)
    told_by_server = protocol in ("funasr", "nls")
    run(page, recording(tmp_path, TALK), protocol)
    name = "说话人" if told_by_server else "Speaker "
    letters = "AB" if protocol == "openai" else "12"
    first, second = (f"{name}{letters[0]}", "0"), (f"{name}{letters[1]}", "1")
    assert page.voices == [first, second, second, first]
    page = LivePage(driver, hearing)
    run(page, recording(tmp_path, MERGING_TALK, "merging.wav"), protocol)
    assert set(page.voices) == {first}
    assert page.headings == [first[0]]
    page.driver.find_element("css selector", "[data-language=zh]").click()
    assert page.headings == [f"说话人{letters[0]}"]
    page.driver.find_element("css selector", "[data-language=en]").click()
    assert page.problems == []


@needs_browser
def test_the_choice_is_remembered(page: LivePage) -> None:
    page["speakers"].click()
    page.driver.refresh()
    page.wait(lambda: page.phase)
    assert page["speakers"].is_selected()
