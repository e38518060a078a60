"""Transcripts with speakers in every shape: by hand, with names, splits, several channels, and nobody."""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.audio import TranscriptionDiarized, TranscriptionVerbose

from serve_app.pipeline.types import Sentence, Speaker, Transcript
from serve_app.rendering.aliyun import flash_body, recognition_body
from serve_app.rendering.filetrans import file_sentences, file_words
from serve_app.rendering.openai import diarized_json_body, speaker_segment, verbose_json_body
from serve_app.rendering.speakers import apart
from serve_app.rendering.subtitles import LINE_COLUMNS, cues, srt, vtt
from tests.test_rendering import chinese, english

FIRST, SECOND = Speaker(1, "说话人1", confidence=0.98765), Speaker(2, "说话人2", confidence=0.5)
WANG = Speaker(2, "王芳", "王芳", 0.9)


def by(speaker: Speaker | None, sentence: Sentence) -> Sentence:
    return replace(sentence, speaker=speaker)


TALK = Transcript(
    12.0,
    "zh",
    (
        by(FIRST, chinese("今天天气很好。", 0.5)),
        by(FIRST, chinese("我们去公园", 3.0)),
        by(WANG, chinese("好吗？", 4.25)),
        by(FIRST, chinese("好。", 6.0)),
    ),
)
SILENCE = Transcript(2.0, "zh")


def test_srt_labels_each_sentence() -> None:
    assert srt(TALK) == (
        "1\n00:00:00,500 --> 00:00:02,000\n[说话人1] 今天天气很好。\n\n"
        "2\n00:00:03,000 --> 00:00:04,250\n[说话人1] 我们去公园\n\n"
        "3\n00:00:04,250 --> 00:00:05,050\n[王芳] 好吗？\n\n"
        "4\n00:00:06,000 --> 00:00:06,800\n[说话人1] 好。\n"
    )


def test_vtt_labels_are_text_and_escaped() -> None:
    odd = Speaker(1, "<b>&", "<b>&")
    text = vtt(Transcript(3.0, "zh", (by(odd, chinese("好。", 1.0)), by(WANG, chinese("行。", 2.0)))))
    assert "\n[&lt;b&gt;&amp;] 好。\n" in text
    assert "\n[王芳] 行。\n" in text


def test_only_the_first_cue_of_a_sentence_is_labeled() -> None:
    text = "明天上午九点我们在三楼开会，请带上你的电脑和上个月的报告，下午两点以后大家可以自由活动。"
    found = cues(Transcript(20.0, "zh", (by(FIRST, chinese(text)), by(SECOND, chinese("好的。", 15.0)))))
    assert len(found) > 2
    labeled = [cue.lines[0].startswith("[说话人") for cue in found]
    assert labeled == [True, *[False] * (len(found) - 2), True]
    assert "".join("".join(cue.lines) for cue in found[:-1]) == f"[说话人1] {text}"


def test_the_label_counts_for_the_width_of_its_line() -> None:
    text = "一二三四五六七八九十一二三四五六七八九。"  # 40 columns: one line without a label
    bare = cues(Transcript(9.0, "zh", (chinese(text),)))
    (labeled,) = cues(Transcript(9.0, "zh", (by(FIRST, chinese(text)),)))
    assert [len(cue.lines) for cue in bare] == [1]
    assert len(labeled.lines) == 2
    assert "".join(labeled.lines) == f"[说话人1] {text}"


def test_a_line_break_in_a_name_does_not_end_a_cue() -> None:
    sly = Speaker(1, "a\n\n2\n00:00:00,000 --> 00:00:09,000\nb", "x")
    blocks = srt(Transcript(3.0, "zh", (by(sly, chinese("好。", 1.0)),))).split("\n\n")
    assert len(blocks) == 1
    assert blocks[0].count("\n") <= 4


_NAMES = st.text(st.sampled_from("王芳ab -，"), min_size=1, max_size=80)
_WORDS = st.lists(st.sampled_from(["我", "你好", "hello", "congratulations"]), min_size=1, max_size=40)


@given(_NAMES, st.lists(_WORDS, min_size=1, max_size=3))
def test_cues_with_labels_keep_every_word_and_every_width(name: str, drawn: list[list[str]]) -> None:
    sentences, now = [], 0.0
    for words in drawn:
        sentences.append(by(Speaker(1, name, name), english(" ".join(words), now)))
        now = sentences[-1].end
    found = cues(Transcript(now, "zh", tuple(sentences)))
    assert all(len(cue.lines) <= 2 for cue in found)
    for line in (line for cue in found for line in cue.lines):
        assert sum(2 if char > "\u2e80" else 1 for char in line) <= LINE_COLUMNS
    shown = "".join("".join(cue.lines) for cue in found)
    heads = re.findall(r"\[[^\]]*\] ?", shown)
    assert len(heads) == len(sentences)
    unlabeled = re.sub(r"\[[^\]]*\]| ", "", shown)
    assert unlabeled == "".join(word for words in drawn for word in words)


def test_verbose_json_has_labels_and_confidence() -> None:
    body = verbose_json_body(TALK, speakers=True)
    told = [(item.get("speaker"), item.get("speaker_confidence")) for item in body["segments"]]
    assert told == [("说话人1", 0.988), ("说话人1", 0.988), ("王芳", 0.9), ("说话人1", 0.988)]
    assert TranscriptionVerbose.model_validate(body).text == "今天天气很好。我们去公园好吗？好。"
    assert verbose_json_body(SILENCE, speakers=True)["segments"] == []


def test_a_speaker_that_is_not_known_yet_is_null() -> None:
    (segment,) = verbose_json_body(Transcript(3.0, "zh", (chinese("好。"),)), speakers=True)["segments"]
    assert segment["speaker"] is None
    assert "speaker_confidence" not in segment


def test_diarized_json_has_names_or_letters() -> None:
    body = diarized_json_body(TALK)
    assert [item["speaker"] for item in body["segments"]] == ["A", "A", "王芳", "A"]
    assert TranscriptionDiarized.model_validate(body).segments[2].speaker == "王芳"
    assert speaker_segment(0, by(Speaker(28, "x"), chinese("好。")))["speaker"] == "AB"
    assert speaker_segment(0, chinese("好。"))["speaker"] == "A"


def test_segments_of_the_rest_api_are_turns() -> None:
    body = recognition_body(TALK, task_id="t", seconds=0.1)
    assert body["result"] == "今天天气很好。我们去公园\n好吗？\n好。"
    shown = [
        (item["text"], item["start_time"], item["end_time"], item.get("speaker_id"))
        for item in body["segments"]
    ]
    assert shown == [
        ("今天天气很好。我们去公园", 0.5, 4.25, "说话人1"),
        ("好吗？", 4.25, 4.75, "王芳"),
        ("好。", 6.0, 6.25, "说话人1"),
    ]
    assert body["segments"][0].get("speaker_confidence") == 0.988
    assert [token["text"] for token in body["segments"][0].get("word_tokens", [])] == list(
        "今天天气很好我们去公园"
    )
    assert recognition_body(SILENCE, task_id="t", seconds=0.1)["result"] == ""


@pytest.mark.parametrize("lines", [True, False])
def test_without_speakers_segments_are_sentences(lines: bool) -> None:
    plain = Transcript(12.0, "zh", tuple(replace(item, speaker=None) for item in TALK.sentences))
    body = recognition_body(plain, task_id="t", lines=lines, seconds=0.1)
    assert [item["text"] for item in body["segments"]] == [item.text for item in plain.sentences]
    assert all("speaker_id" not in item for item in body["segments"])
    assert body["result"] == ("\n".join(item.text for item in plain.sentences) if lines else plain.text)


LEFT = Transcript(9.0, "zh", (by(FIRST, chinese("喂。", 1.0)), by(SECOND, chinese("你好。", 5.0))))
RIGHT = Transcript(9.0, "zh", (by(FIRST, chinese("再见。", 3.0)), by(WANG, chinese("好。", 7.0))))


def labels(transcripts: tuple[Transcript, ...]) -> list[list[tuple[int, str]]]:
    return [
        [(item.speaker.number, item.speaker.label) for item in transcript.sentences if item.speaker]
        for transcript in transcripts
    ]


def test_speakers_of_several_channels_are_different_people() -> None:
    assert labels(apart([LEFT, RIGHT])) == [[(1, "说话人1"), (3, "说话人3")], [(2, "说话人2"), (4, "王芳")]]
    assert apart([LEFT]) == (LEFT,)
    assert apart([]) == ()
    assert apart([SILENCE, SILENCE]) == (SILENCE, SILENCE)
    assert apart(apart([LEFT, RIGHT])) == apart([LEFT, RIGHT])


def test_a_known_voice_is_one_person_on_all_channels() -> None:
    other = Transcript(9.0, "zh", (by(replace(WANG, number=1), chinese("嗯。", 0.0)),))
    assert labels(apart([RIGHT, other])) == [[(2, "说话人2"), (1, "王芳")], [(1, "王芳")]]


def test_labels_in_english_are_renumbered_as_well() -> None:
    said = (by(Speaker(1, "Speaker 1"), english("hello.", 1.0)),)
    both = apart([Transcript(3.0, "en", said), Transcript(3.0, "en", said)])
    assert labels(both) == [[(1, "Speaker 1")], [(2, "Speaker 2")]]


def test_flash_sentences_have_a_speaker() -> None:
    sentences: list[Any] = flash_body([LEFT, RIGHT], task_id="t", seconds=0.1)["flash_result"]["sentences"]
    assert [(item["channel_id"], item["text"], item["speaker_id"]) for item in sentences] == [
        (0, "喂。", "说话人1"),
        (1, "再见。", "说话人2"),
        (0, "你好。", "说话人3"),
        (1, "好。", "王芳"),
    ]


def test_file_transcription_tells_speakers_of_one_channel_by_channels() -> None:
    found = [(item["ChannelId"], item["SpeakerId"]) for item in file_sentences([TALK])]
    assert found == [(0, "说话人1"), (0, "说话人1"), (1, "王芳"), (0, "说话人1")]
    words = {(item["Word"], item["ChannelId"]) for item in file_words([TALK])}
    assert {("今", 0), ("吗", 1)} <= words


def test_file_transcription_leaves_real_channels_alone() -> None:
    found = [(item["ChannelId"], item["SpeakerId"]) for item in file_sentences([LEFT, RIGHT])]
    assert found == [(0, "说话人1"), (1, "说话人2"), (0, "说话人3"), (1, "王芳")]
    assert all(
        "SpeakerId" not in item for item in file_sentences([Transcript(9.0, "zh", (chinese("好。"),))])
    )
