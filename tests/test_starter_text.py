"""The text generator promises what the starter models rely on: seeds, lengths, characters, a fair split."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from starter.text import CHARACTERS, TextGenerator, split_of, strip_punctuation, to_pinyin_input


def _sentences(seed: int, count: int) -> list[str]:
    texts = TextGenerator(seed)
    return [texts.sentence() for _ in range(count)]


@given(st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_a_seed_fixes_sentences_and_talks(seed: int) -> None:
    one, other = TextGenerator(seed), TextGenerator(seed)
    assert [one.sentence() for _ in range(20)] == [other.sentence() for _ in range(20)]
    assert one.talk(6) == other.talk(6)


def test_other_seeds_give_other_sentences() -> None:
    assert _sentences(1, 50) != _sentences(2, 50)


def test_sentences_have_1_to_30_characters_and_end_in_a_final_mark() -> None:
    lengths = set()
    for sentence in _sentences(3, 5000):
        assert re.fullmatch(r"[\u4e00-\u9fff，、]+[。？]", sentence), sentence
        lengths.add(len(strip_punctuation(sentence)))
    assert min(lengths) == 1
    assert 20 <= max(lengths) <= 30


def test_the_inventory_is_exactly_what_can_be_produced() -> None:
    produced = set("".join(map(strip_punctuation, _sentences(4, 60_000))))
    assert len(CHARACTERS) >= 350
    assert len(set(CHARACTERS)) == len(CHARACTERS)
    assert produced == set(CHARACTERS)


def test_a_talk_is_full_sentences_without_a_repetition_in_a_row() -> None:
    texts = TextGenerator(5)
    for count in (1, 3, 12):
        talk = texts.talk(count)
        assert len(talk) == count
        assert all(sentence[-1] in "。？" for sentence in talk)
        assert all(one != following for one, following in pairwise(talk))


def test_parts_are_disjoint_and_depend_on_the_spoken_characters_only() -> None:
    parts: dict[str, set[str]] = {"train": set(), "dev": set(), "test": set()}
    for sentence in _sentences(6, 20_000):
        parts[split_of(sentence)].add(strip_punctuation(sentence))
        assert split_of(sentence) == split_of(strip_punctuation(sentence))
    assert not parts["train"] & parts["test"]
    assert not parts["train"] & parts["dev"]
    assert not parts["dev"] & parts["test"]
    total = sum(map(len, parts.values()))
    assert 0.03 < len(parts["test"]) / total < 0.10
    assert 0.02 < len(parts["dev"]) / total < 0.07


def test_the_split_does_not_change_from_run_to_run() -> None:
    expected = {
        "打开客厅的空调。": "train",
        "同事会跑步吗？": "test",
        "天津的春天长吗": "test",
        "我的号码是六幺零四七幺。": "dev",
    }
    assert {sentence: split_of(sentence) for sentence in expected} == expected


def test_pinyin_has_one_syllable_for_each_character_and_phrase_readings() -> None:
    assert to_pinyin_input("你好，银行几点开门？") == "ni3 hao3, yin2 hang2 ji3 dian3 kai1 men2?"
    assert to_pinyin_input("请重启空调。") == "qing3 chong2 qi3 kong1 tiao2."
    for sentence in _sentences(8, 500):
        syllables = re.findall(r"[a-z]+[1-5]", to_pinyin_input(sentence))
        assert len(syllables) == len(strip_punctuation(sentence)), sentence
