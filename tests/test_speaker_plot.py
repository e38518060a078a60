"""``asr-serve transcribe --plot``: the picture of who speaks when."""

import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from serve_app.cli import speaker_plot
from serve_app.cli.client import RequestRefused
from serve_app.cli.speaker_plot import check, draw, drawing
from serve_app.cli.timeline import Timeline, Utterance, clock, fitted, read_timeline, width

SVG = "{http://www.w3.org/2000/svg}"


def answer(*segments: tuple[float, float, str | None, str], duration: float = 12.0) -> str:
    """What the server says in verbose_json."""
    items: list[dict[str, Any]] = [
        {"start": begin, "end": end, "text": text, "speaker": speaker, "speaker_confidence": 0.9}
        for begin, end, speaker, text in segments
    ]
    return json.dumps({"task": "transcribe", "duration": duration, "text": "...", "segments": items})


TALK = answer(
    (0.5, 3.0, "说话人1", "我们周三开会吗？"),
    (3.2, 4.0, "说话人2", "对。"),
    (4.5, 8.0, "说话人1", "好的，明天见。"),
    (8.2, 11.0, "Anna", "See you <tomorrow> & $later$."),
)


def picture(tmp_path: Path, text: str = TALK, name: str = "talk.svg") -> Path:
    target = tmp_path / name
    said: list[str] = []
    assert drawing(target, "talk.wav", lambda _: "rendered", said.append)(text) == "rendered"
    assert said == []
    return target


def bars(svg: Path) -> dict[int, list[tuple[float, float]]]:
    """Left and right edges of the bars of each row."""
    found: dict[int, list[tuple[float, float]]] = {}
    for group in ElementTree.parse(svg).iter(SVG + "g"):
        name = re.fullmatch(r"bar-(\d+)-\d+", group.get("id", ""))
        if name:
            path = next(group.iter(SVG + "path")).get("d", "")
            across = [float(x) for x in re.findall(r"[ML] (\S+)", path)]
            found.setdefault(int(name[1]), []).append((min(across), max(across)))
    return found


def texts(svg: Path) -> list[str]:
    return ["".join(text.itertext()).strip() for text in ElementTree.parse(svg).iter(SVG + "text")]


def pixels(png: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    from matplotlib.image import imread

    return (np.asarray(imread(png))[:, :, :3] * 255).astype(np.uint8)


class TestPicture:
    def test_each_speaker_has_a_row_of_bars_in_proportion_to_time(self, tmp_path: Path) -> None:
        found = bars(picture(tmp_path))
        assert {row: len(row_bars) for row, row_bars in found.items()} == {1: 2, 2: 1, 3: 1}
        (first, second), (reply,) = sorted(found[1]), found[2]
        unit = (first[1] - first[0]) / 2.5
        assert reply[1] - reply[0] == pytest.approx(0.8 * unit, rel=0.01)
        assert reply[0] - first[0] == pytest.approx(2.7 * unit, rel=0.01)
        assert second[1] - second[0] == pytest.approx(3.5 * unit, rel=0.01)

    def test_svg_holds_text_as_text_and_a_legend_with_shares(self, tmp_path: Path) -> None:
        said = texts(picture(tmp_path))
        assert {"我们周三开会吗？", "对。", "好的，明天见。", "说话人1", "说话人2", "Anna"} <= set(said)
        assert "See you <tomorrow> & $later$." in " ".join(said)
        assert "talk.wav (0:12)" in said
        assert [text for text in said if "%" in text] == [
            "说话人1: 0:06 (62%)",
            "说话人2: 0:01 (8%)",
            "Anna: 0:03 (29%)",
        ]
        assert {"0:00", "0:10"} <= set(said)

    def test_png_is_an_image_with_a_color_for_each_speaker(self, tmp_path: Path) -> None:
        path = picture(tmp_path, name="sub/talk.png")
        data = path.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        across, down = struct.unpack(">II", data[16:24])
        assert across == 2100
        assert 200 < down < 1500
        hues = {tuple(color) for color in pixels(path).reshape(-1, 3).tolist()}
        bright = {color for color in hues if max(color) - min(color) > 60}
        assert len({max(range(3), key=lambda i: color[i]) for color in bright}) == 3

    def test_pdf_has_a_page_that_paints(self, tmp_path: Path) -> None:
        data = picture(tmp_path, name="talk.pdf").read_bytes()
        assert data.startswith(b"%PDF-")
        streams = [
            zlib.decompress(part.split(b"\nendstream", 1)[0])
            for part in data.split(b"stream\n")[1:]
            if part[:1] == b"x"
        ]
        assert any(stream.count(b"\nh") >= 4 and b" Tf" in stream for stream in streams)

    @pytest.mark.parametrize("name", ["talk.svg", "talk.png", "talk.pdf"])
    def test_nobody_speaks(self, tmp_path: Path, name: str) -> None:
        assert picture(tmp_path, answer(), name).stat().st_size > 1000

    def test_unsure_and_unknown_speakers_are_marked(self, tmp_path: Path) -> None:
        body = json.loads(TALK)
        body["segments"][1] |= {"speaker": None, "speaker_confidence": 0.2}
        said = texts(picture(tmp_path, json.dumps(body)))
        assert "unsure" in said
        assert "?" in said
        assert "unsure" not in texts(picture(tmp_path))

    def test_a_sentence_across_two_strips_is_in_both_and_its_text_in_one(self, tmp_path: Path) -> None:
        svg = picture(tmp_path, answer((25.0, 34.0, "Anna", "两行之间"), duration=50))
        assert len(bars(svg)[1]) == 2
        assert texts(svg).count("两行之间") == 1

    def test_many_speakers_have_rows_of_their_own(self, tmp_path: Path) -> None:
        segments = [(float(n), n + 0.9, f"Speaker {n + 1}", "是") for n in range(24)]
        assert sorted(bars(picture(tmp_path, answer(*segments, duration=24)))) == list(range(1, 25))

    def test_without_a_font_for_chinese_one_is_told_once_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
    ) -> None:
        monkeypatch.setattr(speaker_plot, "_CJK_FONTS", ("no such font",))
        said: list[str] = []
        draw(read_timeline(TALK), tmp_path / "talk.png", "talk.wav", said.append)
        assert len(said) == 1
        assert "fonts-noto-cjk" in said[0]
        draw(read_timeline(answer((0, 1, "Anna", "Yes."))), tmp_path / "talk.png", "talk.wav", said.append)
        assert len(said) == 1
        assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("text", ["", "[]", "no json", '{"text": "x"}', '{"duration": 1, "segments": [{}]}'])
def test_other_answers_are_refused(text: str) -> None:
    with pytest.raises(RequestRefused, match="verbose_json"):
        read_timeline(text)


def test_what_cannot_be_drawn_is_said_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    one = [Path("a.wav")]
    for suffix in (".png", ".SVG", ".pdf"):
        check(Path("out" + suffix), one, "text", None)
    check(Path("out.png"), one, "verbose_json", True)
    for arguments, reason in (
        ((Path("out.jpg"), one, "text", None), "png"),
        ((Path("out"), one, "text", None), "png"),
        ((Path("out.png"), one * 2, "text", None), "one file, not 2"),
        ((Path("out.png"), one, "srt", None), "not srt"),
        ((Path("out.png"), one, "text", False), "--no-speakers"),
    ):
        with pytest.raises(ValueError, match=reason):
            check(*arguments)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install .*matplotlib"):
        check(Path("out.png"), one, "text", None)


class TestLayout:
    @pytest.mark.parametrize(
        ("duration", "strips", "length"),
        [(0, 1, 15), (3, 1, 15), (16, 1, 30), (112, 4, 30), (300, 10, 30), (301, 6, 60), (7200, 6, 1200)],
    )
    def test_strips_cover_the_recording(self, duration: float, strips: int, length: float) -> None:
        found = Timeline(duration, ()).strips()
        assert len(found) == strips
        assert (found[0][0], found[0][1] - found[0][0]) == (0.0, float(length))
        assert found[-1][1] >= duration

    @pytest.mark.parametrize(
        ("text", "columns", "lines", "expected"),
        [
            ("我们开会吗？", 6, 1, "我们开会吗？"),
            ("我们开会吗？", 3, 2, "我们开\n会吗？"),
            ("我们开会吗？", 3, 1, "我们…"),
            ("我们开会吗？", 2, 2, "我们\n开…"),
            ("我们", 1.5, 3, ""),
            ("see you tomorrow", 5, 3, "see you\ntomorrow"),
            ("incomprehensibilities", 5, 3, "incompre\nhensibil\nities"),
            ("这个很好。", 4, 3, "这个很\n好。"),
            ("降了91.3%，真的", 4, 3, "降了\n91.3%，\n真的"),
            ("", 5, 3, ""),
        ],
    )
    def test_text_fits_its_bar(self, text: str, columns: float, lines: int, expected: str) -> None:
        found = fitted(text, columns, lines)
        assert found == expected
        assert all(width(line) <= columns for line in found.split("\n"))

    def test_clock(self) -> None:
        assert [clock(seconds) for seconds in (0, 65, 3599.6, 7325)] == ["0:00", "1:05", "1:00:00", "2:02:05"]

    def test_speakers_are_in_the_order_in_which_they_begin(self) -> None:
        parts = (Utterance(0, 1, "B", ""), Utterance(1, 3, "A", ""), Utterance(3, 4, "B", ""))
        assert Timeline(4, parts).speakers == ("B", "A")
        assert Timeline(4, parts).seconds("B") == 2
