"""Finished sentences: what is written, corrected, left out and split, and that words keep their times."""

import itertools
import math
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.pipeline.finishing import Correction, Finisher, TextOptions, parse_corrections
from serve_app.pipeline.types import Sentence, TimedWord

FINISHER = Finisher()
MARKS = "，。？！、"


def sentence(text: str) -> Sentence:
    """Words of 0.1 s with pauses of 0.1 s: characters, or runs of letters; each with its mark."""
    words: list[TimedWord] = []
    for part in re.findall("[A-Za-z]+|[^ ]", text):
        if part in MARKS:
            words[-1] = replace(words[-1], mark=part)
        else:
            begin = 0.2 * len(words)
            words.append(TimedWord(part, begin, begin + 0.1, -0.5))
    return Sentence(tuple(words))


def finish(text: str, **options: Any) -> list[Sentence]:
    return FINISHER.finish(sentence(text), TextOptions(**options))


def text_of(text: str, **options: Any) -> str:
    return "|".join(part.text for part in finish(text, **options))


def corrected(text: str, *lines: str, **options: Any) -> str:
    return text_of(text, corrections=parse_corrections(lines), **options)


def test_nothing_is_done_unasked() -> None:
    assert finish("嗯，花了三百块。") == [sentence("嗯，花了三百块。")]


def test_what_was_rewritten_is_one_word_with_its_times() -> None:
    (result,) = finish("我花了三百二十块，真的。", itn=True)
    assert result.text == "我花了320块，真的。"
    (number,) = [word for word in result.words if "320" in word.text]
    assert (number.text, number.mark) == ("320块", "，")
    assert (number.begin, number.end, number.log_prob) == pytest.approx((0.6, 1.5, -2.5))
    untouched = sentence("我花了三百二十块，真的。").words
    assert (*result.words[:3], *result.words[4:]) == (*untouched[:3], *untouched[8:])


def test_english_numbers() -> None:
    (result,) = finish("i paid twenty five dollars ， ok 。", itn=True)
    assert result.text == "i paid $25, ok."
    assert [word.text for word in result.words] == ["i", "paid", "$25", "ok"]
    assert (result.words[2].begin, result.words[2].end) == pytest.approx((0.4, 0.9))


def test_without_punctuation() -> None:
    assert text_of("你好，hello", punctuation=False) == "你好hello"
    assert text_of("三百块，二十块。", punctuation=False, itn=True) == "300块20块"
    assert text_of("好 hello ， world 。", punctuation=False) == "好hello world"


@pytest.mark.parametrize(
    ("text", "lines", "result"),
    [
        ("今天去阿里爸爸。", ["阿里爸爸=>阿里巴巴"], "今天去阿里巴巴。"),
        ("open ai 发布了。", ["open ai=>OpenAI"], "OpenAI发布了。"),
        ("二零二三年三月。", ["2023年=>2024年"], "2024年3月。"),
        ("你好，世界。", ["好，世=>好世"], "你好世界。"),
        ("你好，世界。", ["好世=>坏"], "你好，世界。"),
        ("是吗。", ["吗。=>吗？"], "是吗？"),
        ("我那个，想去。", ["那个=>"], "我想去。"),
        ("我想去吧。", ["去吧=>"], "我想。"),
        ("the other 。", ["he=>she"], "the other."),
        ("二零一五年。", ["15=>50"], "2015年。"),
        ("甲乙。", ["甲=>乙", "乙乙=>丙"], "丙。"),
        ("全部。", ["全部。=>"], ""),
        ("a a a 。", ["a=>b"], "b b b."),
    ],
)
def test_corrections(text: str, lines: list[str], result: str) -> None:
    assert corrected(text, *lines, itn=True) == result


def test_corrected_words_keep_their_times() -> None:
    (result,) = finish("今天去阿里爸爸。", corrections=(Correction("里爸爸", "里巴巴"),))
    assert [word.text for word in result.words] == ["今", "天", "去", "阿", "里巴巴"]
    assert (result.words[-1].begin, result.words[-1].end) == pytest.approx((0.8, 1.3))
    assert result.words[-1].mark == "。"


def test_without_punctuation_corrections_see_no_marks() -> None:
    assert corrected("你好，世界。", "好世=>的", punctuation=False) == "你的界"


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("嗯，我想呃去。", "我想去。"),
        ("额，金额是多少啊？", "金额是多少啊？"),
        ("uh i think um so ， er 。", "i think so."),
        ("嗯。", ""),
        ("我要那个。", "我要那个。"),
        ("好，嗯。", "好。"),
    ],
)
def test_fillers(text: str, result: str) -> None:
    assert text_of(text, drop_fillers=True) == result


def test_long_sentences_are_split_at_marks_then_at_pauses() -> None:
    assert text_of("今天天气，很好我们出去。", longest_sentence=6) == "今天天气，|很好我们出去。"
    words = list(sentence("今天天气很好我们出去").words)
    words[5:] = [TimedWord(word.text, word.begin + 1, word.end + 1) for word in words[5:]]
    parts = FINISHER.finish(Sentence(tuple(words)), TextOptions(longest_sentence=6))
    assert [part.text for part in parts] == ["今天天气很", "好我们出去"]
    assert text_of("花了三百二十块呢。", itn=True, longest_sentence=1) == "花|了|320块|呢。"
    assert text_of("one more long line", longest_sentence=2) == "one more|long line"


SENTENCES = st.lists(
    st.tuples(
        st.sampled_from(
            [*"一二三十百千万点年月号块分之我们嗯呃啊", "twenty", "five", "dollars", "march", "uh"]
        ),
        st.sampled_from(["", "", "", "，", "、"]),
    ),
    min_size=1,
    max_size=16,
).map(
    lambda words: Sentence(
        tuple(TimedWord(text, i / 5, i / 5 + 0.1, -1.0, mark) for i, (text, mark) in enumerate(words))
    )
)


@settings(max_examples=150, deadline=None)
@given(SENTENCES, st.booleans(), st.sampled_from([None, 1, 3]))
def test_words_stay_ordered_and_nothing_is_lost(given: Sentence, itn: bool, longest: int | None) -> None:
    options = TextOptions(itn=itn, longest_sentence=longest, corrections=(Correction("我们", "你"),))
    words = [word for part in FINISHER.finish(given, options) for word in part.words]
    assert all(before.end <= after.begin for before, after in itertools.pairwise(words))
    assert (words[0].begin, words[-1].end) == (given.begin, given.end)
    assert math.isclose(sum(word.log_prob for word in words), -len(given.words))
    narrow = str.maketrans("，、", ",,")
    marks = [[word.mark.translate(narrow) for word in part if word.mark] for part in (given.words, words)]
    assert marks[0] == marks[1]
    spoken = {(word.begin, word.end): word for word in given.words}
    for word in words:
        if (word.begin, word.end) in spoken and not any(char.isdigit() for char in word.text):
            assert word == spoken[word.begin, word.end]


def test_corrections_are_parsed() -> None:
    assert parse_corrections(["a => b\n\n 丙=>", "丁=>戊"]) == (
        Correction("a", "b"),
        Correction("丙", ""),
        Correction("丁", "戊"),
    )
    assert parse_corrections([]) == ()


@pytest.mark.parametrize("line", ["=>b", "a", "a=>b=>c", "a=>" + "b" * 300])
def test_bad_corrections_are_told(line: str) -> None:
    with pytest.raises(ValueError, match=r"^A correction .*\.$"):
        parse_corrections([line])


def test_there_are_not_too_many_corrections() -> None:
    with pytest.raises(ValueError, match="500 corrections at most"):
        parse_corrections(["a=>b\n" * 501])


async def test_the_grammars_are_loaded_beforehand() -> None:
    finisher = Finisher()
    await finisher.prepare(TextOptions(itn=True))
    (result,) = finisher.finish(sentence("三百块"), TextOptions(itn=True))
    assert result.text == "300块"
