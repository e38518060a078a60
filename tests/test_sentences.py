"""Sentences from segments: in order, complete, and independent of where segments were cut."""

from collections.abc import Sequence

import pytest

from serve_app.pipeline.sentences import SentenceBuilder
from serve_app.pipeline.text import join_words, language_of
from serve_app.pipeline.types import Sentence, TimedWord

MARKS = dict.fromkeys("甲", "，") | dict.fromkeys("乙", "。") | dict.fromkeys("丙", "？")


async def by_character(words: Sequence[str]) -> list[str]:
    """A punctuation model that puts each mark after a character of its own."""
    return [MARKS.get(word, "") for word in words]


def spoken(text: str, begin: float = 0.0, step: float = 0.2) -> list[TimedWord]:
    return [
        TimedWord(char, round(begin + i * step, 3), round(begin + (i + 1) * step, 3))
        for i, char in enumerate(text)
    ]


async def build(
    segments: list[list[TimedWord]], gap: float = 2.0, longest: int = 200, together: int = 1
) -> list[Sentence]:
    builder = SentenceBuilder(by_character, gap, longest, together)
    sentences = [sentence for words in segments for sentence in await builder.add(words)]
    return sentences + await builder.finish()


async def test_sentences_end_at_final_marks() -> None:
    sentences = await build([spoken("天天甲天乙天丙天天")])
    assert [s.text for s in sentences] == ["天天甲，天乙。", "天丙？", "天天。"]
    assert (sentences[1].begin, sentences[1].end) == (1.0, 1.4)


async def test_cutting_into_segments_changes_nothing() -> None:
    text = "天天甲天乙天丙天天天天乙天天"
    whole = await build([spoken(text)])
    for cut in range(1, len(text)):
        parts = [spoken(text[:cut]), spoken(text[cut:], begin=cut * 0.2)]
        assert await build(parts) == whole


async def test_a_mark_at_the_end_of_a_segment_waits_for_what_follows() -> None:
    builder = SentenceBuilder(by_character, together=1)
    assert await builder.add(spoken("天天乙")) == []
    assert [s.text for s in await builder.add(spoken("天", begin=0.7))] == ["天天乙。"]


async def test_short_segments_share_a_call_but_the_first_does_not_wait() -> None:
    calls: list[int] = []

    async def count(words: Sequence[str]) -> list[str]:
        calls.append(len(words))
        return await by_character(words)

    builder = SentenceBuilder(count, together=6)
    parts = [await builder.add(spoken("天乙", begin=index)) for index in range(4)]
    assert [len(part) for part in parts] == [0, 0, 0, 3]
    assert [s.text for s in await builder.finish()] == ["天乙。"]
    assert calls == [2, 8]


async def test_a_long_pause_ends_a_sentence() -> None:
    sentences = await build([spoken("天天"), spoken("地地", begin=3.0)], gap=2.0)
    assert [s.text for s in sentences] == ["天天。", "地地。"]


async def test_endless_text_is_cut_at_its_last_comma() -> None:
    sentences = await build([spoken("天天天甲天天"), spoken("天天", begin=1.2)], longest=5)
    assert [s.text for s in sentences] == ["天天天甲。", "天天天天。"]


async def test_nothing_said_gives_no_sentence() -> None:
    assert await build([[], []]) == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([("你", ""), ("好", "。")], "你好。"),
        ([("hello", "，"), ("world", "。")], "hello, world."),
        ([("打", ""), ("开", ""), ("wifi", "，"), ("好", "？")], "打开wifi,好？"),
        ([("nine", ""), ("点", "。"), ("ok", "。")], "nine点。ok."),
        ([], ""),
    ],
)
def test_words_are_joined_as_one_would_write_them(words: list[tuple[str, str]], text: str) -> None:
    assert join_words(words) == text


def test_language_is_told_by_script() -> None:
    assert language_of(["你", "好", "ok"]) == "zh"
    assert language_of(["hello"]) == "en"
    assert language_of([]) == "zh"
