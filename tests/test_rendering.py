"""Subtitles and OpenAI bodies, from transcripts made by hand and by chance."""

import itertools
import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.pipeline.types import Sentence, TimedWord, Transcript
from serve_app.rendering.openai import (
    LEAST_LOG_PROB,
    continuation,
    diarized_json_body,
    extras,
    json_body,
    log_probs,
    text_body,
    verbose_json_body,
)
from serve_app.rendering.subtitles import LINE_COLUMNS, MAX_CUE_MS, cues, srt, vtt

CLOCK = r"(\d{2,}):([0-5]\d):([0-5]\d)[,.](\d{3})"
TIMING = re.compile(rf"^{CLOCK} --> {CLOCK}$", re.MULTILINE)


def chinese(text: str, begin: float = 0.0, per_char: float = 0.25) -> Sentence:
    """A sentence spoken evenly; marks follow the character before them."""
    words: list[TimedWord] = []
    for char in text:
        if char in "，。？、":
            words[-1] = TimedWord(words[-1].text, words[-1].begin, words[-1].end, words[-1].log_prob, char)
        else:
            start = begin + len(words) * per_char
            words.append(TimedWord(char, start, start + per_char, -0.5))
    return Sentence(tuple(words))


def english(text: str, begin: float = 0.0, per_word: float = 0.4) -> Sentence:
    parts = [(part.rstrip(",."), {",": "，", ".": "。"}.get(part[-1], "")) for part in text.split()]
    return Sentence(
        tuple(
            TimedWord(word, begin + i * per_word, begin + (i + 1) * per_word, -0.2, mark)
            for i, (word, mark) in enumerate(parts)
        )
    )


WEATHER = Transcript(6.24, "zh", (chinese("今天天气很好。", 0.5), chinese("我们去公园，好吗？", 3.0)))
SILENCE = Transcript(2.0, "zh")


def test_srt_of_two_sentences() -> None:
    assert srt(WEATHER) == (
        "1\n00:00:00,500 --> 00:00:02,000\n今天天气很好。\n\n"
        "2\n00:00:03,000 --> 00:00:04,750\n我们去公园，好吗？\n"
    )


def test_vtt_of_two_sentences() -> None:
    assert vtt(WEATHER) == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:02.000\n今天天气很好。\n\n"
        "00:00:03.000 --> 00:00:04.750\n我们去公园，好吗？\n"
    )


def test_silence_has_no_cues() -> None:
    assert srt(SILENCE) == ""
    assert vtt(SILENCE) == "WEBVTT\n"


def test_times_beyond_an_hour() -> None:
    transcript = Transcript(7300.0, "zh", (chinese("到了。", 7261.007),))
    assert srt(transcript).splitlines()[1].startswith("02:01:01,007 --> ")


def test_vtt_escapes_markup_and_srt_does_not() -> None:
    sentence = Sentence((TimedWord("a<b>&", 0.0, 1.0), TimedWord("-->", 1.0, 2.0)))
    transcript = Transcript(2.0, "en", (sentence,))
    assert "a&lt;b&gt;&amp; --&gt;" in vtt(transcript)
    assert "a<b>& -->" in srt(transcript)


def test_long_sentence_is_cut_at_its_commas() -> None:
    text = "明天上午九点我们在三楼开会，请带上你的电脑和上个月的报告，下午两点以后大家可以自由活动。"
    found = cues(Transcript(20.0, "zh", (chinese(text),)))
    assert len(found) > 1
    assert all(cue.lines[-1][-1] in "，。" for cue in found)
    assert "".join("".join(cue.lines) for cue in found) == text


def test_long_sentence_without_marks_is_cut_at_its_pause() -> None:
    before, after = chinese("这句话的前半部分说得很慢很慢很慢很慢很慢"), chinese("后半部分说得很快", 5.6)
    sentence = Sentence(before.words + after.words)
    found = cues(Transcript(20.0, "zh", (sentence,)))
    assert ["".join(cue.lines) for cue in found] == [before.text, after.text]


def test_latin_lines_break_at_spaces() -> None:
    text = "This is a rather long sentence that certainly needs two lines on any screen."
    (cue,) = cues(Transcript(9.0, "en", (english(text, per_word=0.3),)))
    assert len(cue.lines) == 2
    assert " ".join(cue.lines) == text
    assert all(len(line) <= LINE_COLUMNS for line in cue.lines)


def test_short_cue_stays_readable_but_gives_way_to_the_next() -> None:
    transcript = Transcript(10.0, "zh", (chinese("好。", 1.0), chinese("行。", 1.5), chinese("走。", 5.0)))
    assert [(cue.begin_ms, cue.end_ms) for cue in cues(transcript)] == [
        (1000, 1500),
        (1500, 2300),
        (5000, 5800),
    ]


_MARKS = st.sampled_from(["", "", "", "，", "、"])
_WORDS = st.lists(
    st.tuples(st.sampled_from(["我", "你好", "hello", "a", "congratulations"]), st.floats(0.0, 1.5), _MARKS),
    min_size=1,
    max_size=60,
)


@given(st.lists(_WORDS, max_size=4))
def test_cues_keep_every_word_and_every_limit(drawn: list[list[tuple[str, float, str]]]) -> None:
    now, sentences = 0.0, []
    for words in drawn:
        timed = []
        for text, length, mark in words:
            timed.append(TimedWord(text, now, now + length, mark=mark))
            now += length
        sentences.append(Sentence(tuple(timed)))
    transcript = Transcript(now, "zh", tuple(sentences))
    found = cues(transcript)
    shown = "".join("".join(cue.lines) for cue in found)
    assert re.sub(r"[\s，,]", "", shown) == re.sub(r"[\s，,]", "", transcript.text)
    for cue in found:
        assert 0 < cue.end_ms - cue.begin_ms <= MAX_CUE_MS
        assert 1 <= len(cue.lines) <= 2
        assert all(line and len(line) <= LINE_COLUMNS for line in cue.lines)
    assert all(a.end_ms <= b.begin_ms for a, b in itertools.pairwise(found))
    assert len(TIMING.findall(srt(transcript))) == len(TIMING.findall(vtt(transcript))) == len(found)


def test_json_body() -> None:
    assert json_body(WEATHER) == {
        "text": "今天天气很好。我们去公园，好吗？",
        "usage": {"type": "duration", "seconds": 7},
    }


def test_text_body_ends_the_line() -> None:
    assert text_body(WEATHER) == "今天天气很好。我们去公园，好吗？\n"


def test_verbose_json_segments() -> None:
    body = verbose_json_body(WEATHER)
    assert (body["task"], body["language"], body["duration"]) == ("transcribe", "zh", 6.24)
    assert "words" not in body
    first, second = body["segments"]
    assert [first["id"], second["id"]] == [0, 1]
    assert (first["seek"], first["start"], first["end"]) == (50, 0.5, 2.0)
    assert first["avg_logprob"] == pytest.approx(-0.5)
    encoded = second["text"].encode()
    assert second["compression_ratio"] == pytest.approx(len(encoded) / len(zlib.compress(encoded)), abs=1e-3)


def test_verbose_json_words() -> None:
    body = verbose_json_body(WEATHER, ["word"])
    assert "segments" not in body
    assert [item["word"] for item in body["words"]] == list("今天天气很好我们去公园好吗")
    assert body["words"][0] == {"word": "今", "start": 0.5, "end": 0.75}


def test_verbose_json_of_silence() -> None:
    body = verbose_json_body(SILENCE, ["word", "segment"])
    assert (body["text"], body["segments"], body["words"]) == ("", [], [])
    assert body["usage"] == {"type": "duration", "seconds": 2}


def test_bodies_have_the_sdk_types() -> None:
    from openai.types.audio import TranscriptionVerbose

    parsed = TranscriptionVerbose.model_validate(verbose_json_body(WEATHER, ["word", "segment"]))
    assert parsed.segments is not None
    assert parsed.words is not None
    assert parsed.segments[1].text == "我们去公园，好吗？"


@given(st.lists(_WORDS, max_size=4))
def test_what_the_sentences_add_is_the_text(drawn: list[list[tuple[str, float, str]]]) -> None:
    sentences = [
        Sentence(tuple(TimedWord(text, 0.0, length, mark=mark) for text, length, mark in words))
        for words in drawn
    ]
    transcript = Transcript(1.0, "zh", tuple(sentences))
    befores = [None, *(sentence.words[-1] for sentence in sentences)]
    added = [continuation(s.words, before) for s, before in zip(sentences, befores, strict=False)]
    assert "".join(added) == transcript.text
    tokens = log_probs(transcript.words)
    assert "".join(item["token"] for item in tokens) == transcript.text
    assert b"".join(bytes(item["bytes"]) for item in tokens).decode() == transcript.text


def test_a_word_without_text_adds_nothing() -> None:
    words = [TimedWord("hello", 0, 1), TimedWord("", 1, 2, mark="。"), TimedWord("you", 2, 3, mark="。")]
    assert continuation(words) == "hello you."


def test_an_impossible_word_has_a_number_that_json_knows() -> None:
    assert log_probs([TimedWord("a", 0, 1, float("-inf"))])[0]["logprob"] == LEAST_LOG_PROB


def test_diarized_json_body() -> None:
    body = diarized_json_body(WEATHER)
    assert body["text"] == WEATHER.text
    assert [(item["id"], item["start"], item["end"], item["speaker"]) for item in body["segments"]] == [
        ("seg_0", 0.5, 2.0, "A"),
        ("seg_1", 3.0, 4.75, "A"),
    ]


def test_extras_are_there_when_asked_for() -> None:
    assert extras(WEATHER, logprobs=False, languages=False) == {}
    assert extras(WEATHER, logprobs=False, languages=True) == {"languages": [{"code": "zh"}]}
    assert extras(SILENCE, logprobs=True, languages=True) == {"languages": [], "logprobs": []}


def test_speakers_of_verbose_json_are_null_when_asked_for() -> None:
    assert "speaker" not in verbose_json_body(WEATHER)["segments"][0]
    assert [item["speaker"] for item in verbose_json_body(WEATHER, speakers=True)["segments"]] == [None, None]
