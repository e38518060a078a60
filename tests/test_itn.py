"""Numbers in digits: what is rewritten and how, and what must stay as it was said."""

import itertools
import re
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.pipeline.itn import Itn

ITN = Itn()

WRITTEN = {
    # Dates and times, with the units that were said.
    "二零二三年十二月五号": "2023年12月5号",
    "一九四九年十月一日": "1949年10月1日",
    "二月十五号我们坐高铁去上海": "2月15号我们坐高铁去上海",
    "从一九九零年到二零零零年": "从1990年到2000年",
    "下午三点半": "下午3:30",
    "三点十分开会": "3:10开会",
    "十二点零五分": "12:05",
    "会议到早上十一点结束": "会议到早上11点结束",
    # Numbers, percent, fractions, scores.
    "音量调到百分之五十四点六": "音量调到54.6%",
    "百分之百": "100%",
    "三十二分之十五": "15/32",
    "一百二十三点四五": "123.45",
    "一百二十三万四千五百六十七": "1234567",
    "五十万": "50万",
    "十亿三千万": "10亿3000万",
    "三比二获胜": "3:2获胜",
    "第二十三章": "第23章",
    # Money and units.
    "一共花了三百二十五块五毛": "一共花了325块5毛",
    "两万三千元": "23000元",
    "一亿五千万美元": "1亿5000万美元",
    "三十分钟": "30分钟",
    "每小时六十公里": "每小时60公里",
    "三十七度五": "37度5",
    "负二十度": "负20度",
    # Digit by digit, without odd spaces.
    "我的电话是幺三八零零一三八零零零": "我的电话是13800138000",
    "号码是零二一六五七八": "号码是0216578",
    "四零零八二零八八二零": "4008208820",
    # English, and both.
    "twenty five percent of people": "25% of people",
    "I paid twenty five dollars": "I paid $25",
    "five dollars and fifty cents": "$5.50",
    "on the fifth of march nineteen ninety eight": "on the 5th of march 1998",
    "March fifth": "March 5",
    "at three thirty p m": "at 3:30 p.m.",
    "it is five o'clock": "it is 5 o'clock",
    "the twenty first century": "the 21st century",
    "a hundred and twenty people": "120 people",
    "twenty-five": "25",
    "call me at five five five one two three four": "call me at 5551234",
    "my number is one three eight zero zero one three eight zero zero zero": "my number is 13800138000",
    "sixty miles per hour": "60 miles per hour",
    "contact john at example dot org": "contact john@example.org",
    "iphone 十五 卖 twenty dollars": "iphone 15 卖 $20",
    "A股涨了百分之三。他说，一百二十块！": "A股涨了3%。他说，120块！",
}

KEPT = re.findall(
    "[^ \n]+",
    """
一些人 一定要去 一个人 两个人 三点水 有一点 五湖四海 七上八下 三心二意 一五一十
乱七八糟 十全十美 三三两两 九牛一毛 百里挑一 成千上万 千方百计 万里长城 十万八千里 千万不要去
万一下雨 百年好合 十分好 万分感谢 大年三十 三十而立 三十六计走为上 一千零一夜 九九八十一难 十字路口
十一国庆 三五个 七八个 五六十岁 二三十个人 十几个 几十块 百八十块 两三天 十五六岁
三点一刻 星期一 周三 五四运动 一心一意 独一无二 四面八方 一石二鸟 三号线 第一次
九九八十一
""",
)

KEPT_ENGLISH = [
    "no one knows",
    "one of them",
    "one second please",
    "the first time",
    "the second world war",
    "you may first want to go",
    "hundreds of people",
    "visit us at google dot com",
    "twenty four seven",
    "mister smith",
    "march on",
]


@pytest.mark.parametrize(("spoken", "written"), WRITTEN.items())
def test_is_written(spoken: str, written: str) -> None:
    assert ITN.written(spoken) == written


@pytest.mark.parametrize("text", [*KEPT, *KEPT_ENGLISH])
def test_is_kept(text: str) -> None:
    assert ITN.written(text) == text


@pytest.mark.parametrize("text", WRITTEN.values())
def test_what_is_written_stays(text: str) -> None:
    assert ITN.written(text) == text


def test_marks_are_boundaries() -> None:
    assert ITN.written("一百，二十。三、五") == "100，20。三、五"
    assert ITN.written("twenty, five percent") == "20, 5%"


NUMERALS = "零一二两三四五六七八九十百千万亿点半年月号分之比到块元度个人我"
SPOKEN = st.text(NUMERALS, max_size=12)
ENGLISH = st.lists(
    st.sampled_from(
        [
            "twenty",
            "five",
            "one",
            "hundred",
            "point",
            "oh",
            "march",
            "fifth",
            "dollars",
            "percent",
            "at",
            "dot",
        ]
    ),
    max_size=8,
).map(" ".join)
ANYTHING = st.text(max_size=20)


@settings(max_examples=150, deadline=None)
@given(st.one_of(SPOKEN, ENGLISH, ANYTHING))
def test_edits_are_in_order_and_of_the_text(text: str) -> None:
    edits = ITN.edits(text)
    edges = [edge for edit in edits for edge in (edit.begin, edit.end)]
    assert edges == sorted(edges)
    assert all(0 <= edit.begin < edit.end <= len(text) for edit in edits)
    assert all(first.end <= then.begin for first, then in itertools.pairwise(edits))
    assert all(edit.text and edit.text == edit.text.strip() for edit in edits)


@settings(max_examples=100, deadline=None)
@given(st.text("0123456789.:%$年月号，。 abcxyzthe我们在去", max_size=30))
def test_digits_stay(text: str) -> None:
    assert ITN.edits(text) == []


def test_threads_may_share_it() -> None:
    shared, results = Itn(), []
    threads = [
        threading.Thread(target=lambda: results.append(shared.written("花了三百块 twenty dollars")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["花了300块 $20"] * 8
