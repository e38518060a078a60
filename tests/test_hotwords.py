"""Words to listen for: one parser for all spellings, the limits, the server's file, and what is reported."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serve_app.pipeline.finishing import Correction
from serve_app.pipeline.hotwords import (
    LONGEST_HOTWORD,
    MOST_HOTWORDS,
    Hotword,
    HotwordList,
    checked,
    context_of,
    merged,
)
from serve_app.pipeline.hotwords_file import HotwordsFileError, ServerHotwords, read_hotwords
from serve_app.pipeline.hotwords_parsing import FUNASR, STRICT, Spelling, parse_hotwords, whole_words
from serve_app.pipeline.hotwords_report import (
    UNHEARD,
    UNSPELLABLE,
    UNUSED_LIVE,
    AskedHotwords,
    HotwordReport,
    IgnoredHotword,
    Means,
    together,
)
from serve_app.settings import Settings


def words(*pairs: tuple[str, float | None]) -> HotwordList:
    return HotwordList(tuple(Hotword(text, weight) for text, weight in pairs))


@pytest.mark.parametrize("spelling", [STRICT, FUNASR])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('{"阿里巴巴":20,"通义实验室":30}', words(("阿里巴巴", 20), ("通义实验室", 30))),
        ('{"阿里巴巴": "20", "通义": ""}', words(("阿里巴巴", 20), ("通义", None))),
        ({"阿里巴巴": 20, "通义": None}, words(("阿里巴巴", 20), ("通义", None))),
        ("阿里巴巴 通义", words(("阿里巴巴", None), ("通义", None))),
        ("一一,二二，三三、四四;五五", words(*((text * 2, None) for text in "一二三四五"))),
        ("阿里巴巴 20 通义 15.5 达摩院", words(("阿里巴巴", 20), ("通义", 15.5), ("达摩院", None))),
        ("阿里巴巴 20\n通义实验室 30\n", words(("阿里巴巴", 20), ("通义实验室", 30))),
        ("阿里巴巴 20\nAlibaba Cloud 30", words(("阿里巴巴", 20), ("Alibaba Cloud", 30))),
        ("词1 20 词2 15\n词3", words(("词1", 20), ("词2", 15), ("词3", None))),
        (["阿里 巴巴", "iPhone 15"], words(("阿里 巴巴", None), ("iPhone 15", None))),
        ('["阿里巴巴"]', words(("阿里巴巴", None))),
        ([{"text": "阿里巴巴", "weight": 4}, "通义"], words(("阿里巴巴", 4), ("通义", None))),
        ("110 20,警察", words(("110", 20), ("警察", None))),
        ("Ab aB 7", words(("Ab", 7))),
        ("  ", HotwordList()),
        ("", HotwordList()),
        ({}, HotwordList()),
        ([], HotwordList()),
        ({" 一\n二 ": 5}, words(("一 二", 5))),
    ],
)  # fmt: skip
def test_spellings(value: object, expected: HotwordList, spelling: Spelling) -> None:
    assert parse_hotwords(value, spelling) == expected


def test_weights_out_of_range() -> None:
    """FunASR's servers take any number; Aliyun's and DashScope's clients are told."""
    wild = {"一": 0, "二": -5, "三": 500, "四": "0.5"}
    assert parse_hotwords(wild, FUNASR) == words(("一", 1), ("二", 1), ("三", 100), ("四", 1))
    for text, weight in wild.items():
        with pytest.raises(ValueError, match=rf"weight of '{text}' must be from 1 to 100"):
            parse_hotwords({text: weight})
    assert parse_hotwords("拨打 110", FUNASR) == words(("拨打", None), ("110", None))
    assert parse_hotwords("拨打 110\n报警 0", FUNASR).words == tuple(
        map(Hotword, ("拨打", "110", "报警", "0"))
    )
    for text in ("拨打 110", "拨打 110\n报警"):
        with pytest.raises(ValueError, match="weight of '拨打' must be from 1 to 100, not '110'"):
            parse_hotwords(text)


@pytest.mark.parametrize("spelling", [STRICT, FUNASR])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "must be words in a string"),
        (None, "must be words in a string"),
        (True, "must be words in a string"),
        ({"一": "heavy"}, "weight of '一' must be a number, not 'heavy'"),
        ({"一": True}, "must be a number"),
        ({"一": [1]}, "must be a number"),
        ({"一": float("nan")}, "must be a number"),
        ('{"一": 1e999}', "must be a number"),
        ("{'一': 20}", "must be JSON"),
        ("[" * 100_000, "must be JSON"),
        ([1], "each hotword must be a string"),
        ([{"word": "一"}], "each hotword must be a string"),
        ("好" * 101, "100 characters at most; '好.* has 101"),
        ({"一\x00二": 1}, "characters that no text has"),
        ('{"\\ud800": 1}', "characters that no text has"),
        ([f"词{i}" for i in range(1001)], "1000 hotwords at most, not 1001"),
        ("https://example.com/hotwords.txt", "no list is read from"),
        ("hotwords.TXT", "no list is read from"),
        ("=>东", "wrong=>right"),
        ({"东=>西=>南": 1}, "wrong=>right"),
    ],
)  # fmt: skip
def test_what_cannot_be(value: object, message: str, spelling: Spelling) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        parse_hotwords(value, spelling)
    assert len(str(raised.value)) < 250


def test_corrections_are_told_apart_from_words() -> None:
    fix = Correction("北京", "南京")
    assert parse_hotwords("北京=>南京 天气 3") == HotwordList((Hotword("天气", 3.0),), (fix,))
    assert parse_hotwords({"北京=>南京": 20, "天气": 3}, FUNASR) == HotwordList(
        (Hotword("天气", 3.0),), (fix,)
    )
    spaced = HotwordList((Hotword("南"), Hotword("北")), (Correction("hello", "world hello"),))
    assert parse_hotwords("hello=>world hello\n南 北", FUNASR) == spaced
    assert whole_words(["北京=>南京", " 江 苏 ", "", "iPhone 15"]) == HotwordList(
        (Hotword("江 苏"), Hotword("iPhone 15")), (fix,)
    )


PLAIN = st.text(st.characters(categories=["Lu", "Ll", "Lo"]), min_size=1, max_size=8)
WEIGHTS = st.one_of(st.none(), st.integers(1, 100))


@given(st.lists(st.tuples(PLAIN, WEIGHTS), max_size=8), st.sampled_from([STRICT, FUNASR]))
def test_all_spellings_mean_the_same(pairs: list[tuple[str, int | None]], spelling: Spelling) -> None:
    wanted = checked(Hotword(text, weight) for text, weight in pairs)
    by_text = {word.text: word.weight for word in wanted}
    told = [word.text if word.weight is None else f"{word.text} {word.weight:g}" for word in wanted]
    for value in (
        by_text,
        json.dumps(by_text),
        json.dumps(by_text, ensure_ascii=False),
        {text: "" if weight is None else str(weight) for text, weight in by_text.items()},
        [{"text": text, "weight": weight} for text, weight in by_text.items()],
        " ".join(told),
        ",".join(told),
        "、".join(told),
        "\n".join(told),
    ):
        assert parse_hotwords(value, spelling).words == wanted


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def read_or_refused(value: object, spelling: Spelling) -> HotwordList:
    try:
        return parse_hotwords(value, spelling)
    except ValueError as error:
        if not str(error).strip():
            raise
        return HotwordList()


@given(JSON | st.text(), st.sampled_from([STRICT, FUNASR]))
def test_whatever_comes_is_read_or_refused_in_a_sentence(value: object, spelling: Spelling) -> None:
    for spelled in (value, json.dumps(value)):
        found = read_or_refused(spelled, spelling)
        for word in found.words:
            assert word.text == " ".join(word.text.split())
            assert 0 < len(word.text) <= LONGEST_HOTWORD
            assert word.weight is None or 1 <= word.weight <= 100
            word.text.encode()
        assert checked(found.words) == found.words


@given(st.lists(st.tuples(PLAIN, WEIGHTS), max_size=6), st.lists(st.tuples(PLAIN, WEIGHTS), max_size=6))
def test_the_clients_weight_wins(
    client: list[tuple[str, int | None]], server: list[tuple[str, int | None]]
) -> None:
    mine, theirs = (checked(Hotword(*pair) for pair in pairs) for pairs in (client, server))
    both = merged(mine, theirs)
    assert [word.text for word in both[: len(mine)]] == [word.text for word in mine]
    assert {word.text for word in both} <= {word.text for word in (*mine, *theirs)}
    assert len(both) == len(checked((*mine, *theirs)))
    for word in mine:
        found = next(item for item in both if item.text == word.text)
        assert word.weight is None or found.weight == word.weight


def test_equal_words_whatever_their_case_and_width() -> None:
    assert checked([Hotword("ＡＢＣ"), Hotword("abc", 5)]) == (Hotword("ＡＢＣ", 5),)
    assert merged(
        (Hotword("Abc"), Hotword("二", 9)), (Hotword("abc", 3), Hotword("二", 1), Hotword("三"))
    ) == (
        Hotword("Abc", 3),
        Hotword("二", 9),
        Hotword("三"),
    )


def test_context_holds_each_word_once() -> None:
    assert context_of("关于魔搭的会议", (Hotword("魔搭", 20), Hotword("通义"))) == "通义\n关于魔搭的会议"


FILE = """\ufeff# names
阿里巴巴 20
通义实验室\t30   # a comment

C# 7
Alibaba Cloud
iPhone 15 25
阿里巴巴 40
"""


def test_the_servers_file(tmp_path: Path) -> None:
    path = tmp_path / "hotwords.txt"
    path.write_text(FILE, encoding="utf-8")
    assert read_hotwords(path) == (
        Hotword("阿里巴巴", 40),
        Hotword("通义实验室", 30),
        Hotword("C#", 7),
        Hotword("Alibaba Cloud"),
        Hotword("iPhone 15", 25),
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            "阿里巴巴 20\n拨打 110\n".encode(),
            "Line 2 .* the weight of '拨打' must be from 1 to 100, not '110'",
        ),
        ("# 一\n二 0".encode(), "Line 2 "),
        (b"\xff\xfe", "Line 1 .* it is not UTF-8"),
        ("一\n二\n北京=>南京".encode(), "Line 3 .* correction"),
        (("好" * (LONGEST_HOTWORD + 1)).encode(), "Line 1 .* characters at most"),
        (
            "\n".join(f"词{i} 20" for i in range(MOST_HOTWORDS + 1)).encode(),
            f"{MOST_HOTWORDS} hotwords at most",
        ),
        (b"a" * (2 << 20), "larger than 1 MiB"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "hotwords.txt"
    path.write_bytes(data)
    with pytest.raises(HotwordsFileError, match=message) as raised:
        ServerHotwords(path)
    assert str(path) in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HotwordsFileError, match="cannot be read: No such file"):
        ServerHotwords(tmp_path / "missing.txt")


def test_a_changed_file_is_read_again_unless_it_is_broken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "hotwords.txt"

    def put(text: str) -> None:
        # Editors and Kubernetes put another file in the place of the old one.
        new = tmp_path / "new.txt"
        new.write_text(text, encoding="utf-8")
        new.replace(path)

    put("一 20")
    server = ServerHotwords(path)
    assert server.merged((Hotword("一", 5), Hotword("二"))) == (Hotword("一", 5), Hotword("二"))
    put("一 20\n三 30")
    assert server.merged(()) == (Hotword("一", 20), Hotword("三", 30))
    put("一 20\n三 300")
    for _ in range(2):
        assert server.merged(()) == (Hotword("一", 20), Hotword("三", 30))
    assert len([record for record in caplog.records if "Line 2" in record.message]) == 1
    path.unlink()
    assert server.merged(()) == (Hotword("一", 20), Hotword("三", 30))
    put("四")
    assert server.merged(()) == (Hotword("四"),)
    assert ServerHotwords(None).merged((Hotword("一"),)) == (Hotword("一"),)


ASKED = (Hotword("魔搭", 20), Hotword("Ray"))


@pytest.mark.parametrize(
    ("means", "live_only", "applied", "heard", "expected"),
    [
        ("listens", False, ["魔搭", "ray"], True, (["魔搭", "Ray"], None)),
        ("listens", False, ["ray"], True, (["Ray"], UNSPELLABLE)),
        ("listens", False, [], True, ([], UNSPELLABLE)),
        ("listens", False, [], False, ([], UNHEARD)),
        ("listens", True, [], True, ([], UNUSED_LIVE)),
        ("reads", False, [], True, (["魔搭", "Ray"], None)),
        ("reads", True, [], True, (["魔搭", "Ray"], None)),
        ("reads", False, [], False, ([], UNHEARD)),
        ("none", False, [], True, ([], "The model small has no hotwords.")),
        ("none", True, [], False, ([], "The model small has no hotwords.")),
    ],
)
def test_reports(
    means: Means, live_only: bool, applied: list[str], heard: bool, expected: tuple[list[str], str | None]
) -> None:
    report = AskedHotwords(ASKED, "small", means, live_only).report(applied, heard=heard)
    assert report is not None
    taken, reason = expected
    ignored = [{"text": word.text, "reason": reason} for word in ASKED if word.text not in taken]
    assert report.body == {"applied": taken, "ignored": ignored}


def test_nothing_is_reported_to_who_asked_for_nothing() -> None:
    assert AskedHotwords((), "small", "listens").report([]) is None
    assert together([None, None]) is None


def test_reports_of_channels_together() -> None:
    first = HotwordReport(("一",), (IgnoredHotword("二", "b"), IgnoredHotword("三", "c")))
    second = HotwordReport(("二",), (IgnoredHotword("一", "a"), IgnoredHotword("三", "c")))
    assert together([first, None, second]) == HotwordReport(("一", "二"), (IgnoredHotword("三", "c"),))


def test_a_server_does_not_start_with_a_broken_list(tmp_path: Path) -> None:
    path = tmp_path / "hotwords.txt"
    with pytest.raises(ValidationError, match="cannot be read"):
        Settings(hotwords_file=path)
    path.write_text("一 20\n二 0\n", encoding="utf-8")
    with pytest.raises(ValidationError, match=r"Line 2 of the hotwords file .*hotwords\.txt"):
        Settings(hotwords_file=path)
    path.write_text("一 20\n", encoding="utf-8")
    assert Settings(hotwords_file=path).hotwords_file == path
