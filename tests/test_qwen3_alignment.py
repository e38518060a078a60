"""What the aligner of Qwen3-ASR is asked about words, and what its answers mean for them."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.engines.qwen3_alignment import Segmenter, non_decreasing, times_of, units_of

with_package = pytest.mark.skipif(not find_spec("qwen_asr"), reason="the qwen-asr package is not installed")


@pytest.mark.parametrize(
    ("given_times", "fixed"),
    [
        ([], []),
        ([5, 6, 7], [5, 6, 7]),
        ([10, 90, 20, 30], [10, 10, 20, 30]),
        ([10, 90, 95, 30, 40, 50], [10, 10, 30, 30, 40, 50]),
        ([10, 90, 95, 98, 30, 40, 50, 60], [10, 15, 20, 25, 30, 40, 50, 60]),
        ([90, 10, 20], [10, 10, 20]),
        ([10, 20, 5], [10, 20, 20]),
    ],
)
def test_times_that_do_not_fit_are_replaced(given_times: list[int], fixed: list[int]) -> None:
    assert non_decreasing(np.asarray(given_times, dtype=np.int64)).tolist() == fixed


@pytest.fixture(scope="module")
def processor() -> Any:
    """The package's own, without its dictionaries."""
    from qwen_asr.inference.qwen3_forced_aligner import Qwen3ForceAlignProcessor

    return Qwen3ForceAlignProcessor.__new__(Qwen3ForceAlignProcessor)


@with_package
@settings(deadline=None)
@given(st.lists(st.integers(0, 40).map(lambda step: 80 * step), min_size=1, max_size=60))
def test_times_are_replaced_as_the_package_does(processor: Any, timestamps: list[int]) -> None:
    values = np.asarray(timestamps, dtype=np.int64)
    assert non_decreasing(values).tolist() == processor.fix_timestamp(values)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4999), max_size=100))
def test_replaced_times_never_decrease(timestamps: list[int]) -> None:
    fixed = non_decreasing(np.asarray(timestamps, dtype=np.int64)).tolist()
    assert fixed == sorted(fixed)


@pytest.mark.parametrize(
    ("words", "units"),
    [
        (("Hello", "it's", "e-mail", "3.14", "“ok”", "—"), ["Hello", "it's", "email", "314", "ok"]),
        (("我", "用", "iPhone", "15", "好”"), ["我", "用", "iPhone", "15", "好"]),
        (("你好world再见",), ["你", "好", "world", "再", "见"]),
    ],
)
def test_words_are_split_as_in_the_package(words: tuple[str, ...], units: list[str]) -> None:
    assert units_of(words, "Chinese", Segmenter()) == units
    if find_spec("qwen_asr"):
        from qwen_asr.inference.qwen3_forced_aligner import Qwen3ForceAlignProcessor

        assert Qwen3ForceAlignProcessor().encode_timestamp(" ".join(words), "Chinese")[0] == units


@with_package
def test_japanese_and_korean_are_split_by_their_dictionaries() -> None:
    segmenter = Segmenter()
    assert units_of(tuple("今日はいい天気です"), "Japanese", segmenter) == [
        "今日",
        "は",
        "いい",
        "天気",
        "です",
    ]
    assert units_of(("안녕하세요", "반갑습니다"), "Korean", segmenter) == ["안녕", "하세요", "반갑", "습니다"]


def test_units_and_words_share_their_times() -> None:
    japanese = times_of(("今", "日", "は"), ("今日", "は"), [100, 200, 300, 500], 1000)
    assert japanese == ((100, 150), (150, 200), (300, 500))
    korean = times_of(("안녕하세요", "…"), ("안녕", "하세요"), [0, 100, 150, 400], 350)
    assert korean == ((0, 350), (350, 350))
