"""The live page in a real browser: partials and finals, subtitles, copying, and text from the real server."""

import json
import re
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pytest
import soundfile
from selenium.webdriver import Chrome, Keys

from tests.conftest import SAMPLES, Sample
from tests.live_page import INSECURE_HOST, SPOKEN, LivePage, Row, needs_browser
from tests.scripted_funasr import Script, ScriptedServer, partial

pytest_plugins = ["tests.live_page_fixtures"]


@needs_browser
def test_microphone_partials_turn_into_finals(page: LivePage, scripted: ScriptedServer) -> None:
    page.press("start")
    page.wait(lambda: page["partial"].text == "Hello")
    assert page.phase == "listening"
    assert page.rows == [Row("请问火车站怎么走？", 300, 1700, False)]
    page.press("start")
    page.finish()
    assert page.rows[1:] == [Row("Hello, world.", 2100, 3900, False)]
    assert page.partials == ["请问", "请问火车站", "Hello"]
    assert re.fullmatch(r"\d+ ms|\d+\.\d\d s", page["first-text"].text)
    assert re.fullmatch(r"\d+ ms|\d+\.\d\d s", page["final-delay"].text)
    (session,) = scripted.sessions
    assert [message.get("is_speaking") for message in session.messages] == [True, False]
    config = {"mode": "2pass", "chunk_size": [0, 10, 5], "chunk_interval": 10, "audio_fs": 16000}
    assert session.messages[0].items() >= {**config, "wav_format": "pcm", "wav_name": "microphone"}.items()
    assert {len(packet) for packet in session.packets[:-1]} == {1920}


@needs_browser
def test_online_increments_become_one_sentence_each(page: LivePage, scripted: ScriptedServer) -> None:
    times = {"start_time": 200, "end_time": 900}
    scripted.script = Script(
        during=(
            (0.3, partial("你", **times)),
            (0.6, partial("好。", slice_type=2, **times)),
            (0.9, partial("再")),
        ),
        after_end=(partial("见", is_final=True),),
    )
    page.choose("mode", "online")
    page.choose_file(SAMPLES / "home.wav", fast=True)
    page.press("start")
    page.finish()
    assert page.rows[0] == Row("你好。", 200, 900, False)
    assert (page.rows[1].text, page.rows[1].is_estimated) == ("再见", True)
    assert page.rows[1].begin == 900 < page.rows[1].end


OFFLINE = "今天天气很好。你好, hello world!"
PAIRS = [[100 * i, 100 * i + 90] for i in range(10)]


@needs_browser
@pytest.mark.parametrize(
    ("extra", "rows"),
    [
        ({"timestamp": json.dumps(PAIRS)}, [("今天天气很好。", 0, 590), ("你好, hello world!", 600, 990)]),
        ({"timestamp": PAIRS}, [("今天天气很好。", 0, 590), ("你好, hello world!", 600, 990)]),
        (
            {
                "timestamp": json.dumps(PAIRS[:4]),
                "stamp_sents": [
                    {"text_seg": "今 天", "punc": "，", "start": 5, "end": 90},
                    {"text_seg": "hello world", "punc": ".", "start": 95, "end": 200},
                ],
            },
            [("今天，", 5, 90), ("hello world.", 95, 200)],
        ),
        (
            {"text": "调到54.6%。你好 A。", "timestamp": json.dumps(PAIRS[:9])},
            [("调到54.6%。", 0, 590), ("你好 A。", 600, 890)],
        ),
        ({"timestamp": json.dumps(PAIRS[:4])}, [(OFFLINE, 0, 390)]),
        ({"timestamp": 1700000000000}, [(OFFLINE, 0, 3334)]),
        ({"text": "<|zh|><|NEUTRAL|><|Speech|><|withitn|>好"}, [("好", 0, 3334)]),
    ],
    ids=["string", "list", "stamp_sents", "digits", "too few times", "number", "tags"],
)
def test_offline_results_are_split_into_sentences(
    page: LivePage, scripted: ScriptedServer, extra: dict[str, Any], rows: list[tuple[str, int, int]]
) -> None:
    reply = {"mode": "offline", "text": OFFLINE, "wav_name": "w", "is_final": False, **extra}
    scripted.script = Script(after_end=(reply,))
    page.choose("mode", "offline")
    page.choose_file(SAMPLES / "home.wav")
    page.press("start")
    page.finish()
    assert [(row.text, row.begin, row.end) for row in page.rows] == rows


@needs_browser
def test_subtitles_are_downloaded(page: LivePage, downloads: Path) -> None:
    page.choose_file(SAMPLES / "home.wav", fast=True)
    page.press("start")
    page.finish()
    page.press("srt")
    file = downloads / "home.srt"
    page.wait(file.exists)
    assert file.read_text(encoding="utf-8") == (
        "1\n00:00:00,300 --> 00:00:01,700\n请问火车站怎么走？\n\n"
        "2\n00:00:02,100 --> 00:00:03,900\nHello, world.\n"
    )


@needs_browser
def test_long_sentences_make_several_subtitles(page: LivePage) -> None:
    """Cut at marks, none wider than 42 columns or longer than 7 s, and nothing lost."""
    text = "今天我们来看这个方案，" * 5 + "并且" * 30 + "。"
    words = len(re.sub(r"[，。]", "", text))
    pairs = [[200 * i, 200 * i + 150] for i in range(words)]
    srt: str = page.evaluate(
        "const transcript = new (await load('transcript.js')).Transcript();"
        "const words = (await load('words.js')).timedWords(...args);"
        "transcript.add({text: args[0], begin: 0, end: 17000, words}, 0); return transcript.srt();",
        text,
        pairs,
    )
    blocks = [block.strip().split("\n") for block in srt.split("\n\n")]
    assert [block[0] for block in blocks] == [str(n) for n in range(1, len(blocks) + 1)]
    assert "".join(block[2] for block in blocks) == text
    assert all(len(block[2]) <= 21 for block in blocks)
    assert all(block[2].endswith("，") for block in blocks[:5])
    assert blocks[0][1].startswith("00:00:00,000 --> 00:00:0")


@needs_browser
@pytest.mark.parametrize("host", ["127.0.0.1", INSECURE_HOST])
def test_text_is_copied(page: LivePage, scripted: ScriptedServer, host: str) -> None:
    """Also where the page came over plain http, and the browser gives it no clipboard."""
    page = LivePage(page.driver, scripted.url.replace("127.0.0.1", host))
    page.choose_file(SAMPLES / "home.wav", fast=True)
    page.press("start")
    page.finish()
    page.press("copy")
    page.wait(lambda: page["copy"].text == "Copied")
    page.fill("address", "")
    page["address"].send_keys(Keys.CONTROL, "v")
    assert page["address"].get_attribute("value") == "请问火车站怎么走？Hello, world."


@needs_browser
def test_clear_starts_over(page: LivePage) -> None:
    page.choose_file(SAMPLES / "home.wav", fast=True)
    page.press("start")
    page.finish()
    page.press("clear")
    assert page.rows == []
    assert page["first-text"].text == "–"
    assert not page["copy"].is_enabled()
    assert not page["srt"].is_enabled()


# --- Against the real server


def without_marks(text: str) -> str:
    return re.sub(r"[，。？！、\s]", "", text)


def check_times(rows: list[Row], seconds: float) -> None:
    edges = [edge for row in rows for edge in (row.begin, row.end)]
    assert edges == sorted(edges)
    assert edges[0] >= 0
    assert edges[-1] <= 1000 * seconds
    assert not any(row.is_estimated for row in rows)


@pytest.fixture
def spoken_text(samples: list[Sample]) -> str:
    (text,) = [sample.text for sample in samples if sample.path == SPOKEN]
    return text


@pytest.fixture
def written_text(samples: list[Sample]) -> str:
    (text,) = [sample.written for sample in samples if sample.path == SPOKEN]
    return text


@needs_browser
@pytest.mark.server
def test_microphone_to_text(driver: Chrome, server_url: str, written_text: str) -> None:
    page = LivePage(driver, server_url)
    page.press("start")
    # The recording is followed by silence, which ends the last sentence before anybody presses Stop.
    page.wait(lambda: page.text == written_text)
    page.press("start")
    page.finish()
    assert page.text == written_text
    assert page.partials
    check_times(page.rows, soundfile.info(SPOKEN).duration + 1)
    assert page["first-text"].text != "–"
    assert page["final-delay"].text != "–"
    assert page.problems == []


@needs_browser
@pytest.mark.server
@pytest.mark.parametrize(
    ("mode", "fast"),
    [("2pass", False), ("2pass", True), ("online", False), ("online", True), ("offline", False)],
)
def test_file_to_text(
    driver: Chrome, server_url: str, spoken_text: str, written_text: str, mode: str, fast: bool
) -> None:
    page = LivePage(driver, server_url)
    page.choose("mode", mode)
    page.choose_file(SPOKEN, fast=fast)
    page.press("start")
    page.finish()
    if mode == "online":
        # The streaming model alone writes no punctuation, and may mishear a character.
        alike = SequenceMatcher(None, page.text, without_marks(spoken_text), autojunk=False)
        assert alike.ratio() > 0.9
    else:
        assert page.text == written_text
    assert bool(page.partials) == (mode != "offline")
    check_times(page.rows, soundfile.info(SPOKEN).duration)
