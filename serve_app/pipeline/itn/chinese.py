"""Chinese numbers. The digits are the grammar's; units stay as they were spoken."""

import re
from collections.abc import Iterator

from serve_app.pipeline.itn.edits import Edit
from serve_app.pipeline.itn.grammar import Grammar, Token

_DIGITS = dict(zip("零〇幺一二两三四五六七八九", "0011223456789", strict=True))
_ONES = "一二两三四五六七八九"
_N = "零〇幺一二两三四五六七八九十百千万亿"

_CANDIDATE = re.compile(f"[{_N}]{{2,}}|[{_N}](?:分之|[点块毛元月比度号])[{_N}]|[{_N}]点半|十|百分之?百")
"""A single digit is never rewritten by itself, so most sentences hold nothing for the grammar."""

_BEFORE, _AFTER = 6, 8
"""Characters around a candidate that may tell what it is: 每小时, 下午; 平方公里, 摄氏度."""

_NUMBER = re.compile(f"[{_N}]+(?:点[{_N}]+)?")
_APPROXIMATE = re.compile("十?(?:一两|一二|两三|二三|三四|三五|四五|五六|六七|七八|八九)[十百千万亿]*")
"""About so many: 七八个 is not 78."""

_KEPT = re.compile(
    "|".join(
        (
            # Sayings, titles and names that are always written like this.
            "大年三十|年三十(?=晚|的晚|夜)|三十而立|四十不惑|五十知天命|五十步笑百步|十年[树寒磨]|百年树人",
            "三十六计|七十二变|十八般|十八变|三百六十行|九九八十一难|一千零一夜|十万个为什么|十万火急",
            "三三两两|一五一十|二一添作五|八九不离十|十之八九|十有八九|十拿九稳|十恶不赦|十面埋伏|十里",
            "十一(?:国庆|黄金周|长假|假期|小长假)|国庆十一|十三陵|十三香|十二生肖|红十字|十字|十足|十来",
            # Very; but 三点十分 and 十分钟.
            f"(?<![{_N}点])十分(?!钟|之)",
            # Ten and some; quarters of an hour.
            f"十几|几[十百千万亿]+|(?<![{_N}])百八十|[{_N}]+点[一三]刻",
            # Where the sides are numbers of their own.
            "到|至|加上?|减去?|乘以?|除以|等于",
        )
    )
)


class ChineseItn:
    """Finds the numbers in Chinese text and writes them in digits."""

    def __init__(self) -> None:
        self._grammar = Grammar("zh")

    def edits(self, text: str) -> list[Edit]:
        """What to change in a text of Han characters only, in order."""
        found: list[Edit] = []
        for piece_begin, piece in _pieces(text):
            for begin, end in _windows(piece):
                found += [edit.moved(piece_begin + begin) for edit in self._window(piece[begin:end])]
        return found

    def _window(self, text: str) -> Iterator[Edit]:
        tokens = self._grammar.tokens(text)
        if "".join(part for token in tokens for part in token.spoken) != text:
            return
        begin = 0
        for token in tokens:
            spoken = "".join(token.spoken)
            written = self._written(token, spoken)
            end = begin + len(spoken)
            if written and written != spoken:
                extra = _half_degree(token, text[end:])
                yield Edit(begin, end + len(extra), written + "".join(_DIGITS[digit] for digit in extra))
            begin = end

    def _written(self, token: Token, spoken: str) -> str | None:
        """A token in digits; ``None`` where it shall stay as it is."""
        match token.kind:
            case "cardinal":
                return self._number(spoken)
            case "time":
                return self._time(token)
            case "fraction":
                return self._fraction(token)
            case "math":
                return self._ratio(spoken)
            case "date" | "money" | "measure":
                return self._measure(spoken)
            case _:
                return None

    def _measure(self, spoken: str) -> str | None:
        """All numbers of a token, and what is between them as it is."""
        if spoken in ("百分百", "百分之百"):
            return "100%"
        per_cent = spoken.removeprefix("百分之")
        if per_cent != spoken:
            number = self._number(per_cent)
            return number and f"{number}%"
        pieces, position = "", 0
        for match in _NUMBER.finditer(spoken):
            number = self._number(match[0])
            if number is None:
                return None
            pieces += spoken[position : match.start()] + number
            position = match.end()
        return pieces + spoken[position:]

    def _time(self, token: Token) -> str | None:
        hour = self._number(token.parts["hour"].removesuffix("点"))
        minute = self._sixtieth(token.parts.get("minute", ""), "分")
        second = self._sixtieth(token.parts.get("second", ""), "秒")
        if hour is None or not minute or second is None:
            return None
        return token.parts.get("noon", "") + f"{hour}:{minute}" + (f":{second}" if second else "")

    def _sixtieth(self, spoken: str, unit: str) -> str | None:
        """Two digits; ``""`` for nothing spoken."""
        if spoken == "半":
            return "30"
        number = self._number(spoken.removesuffix(unit)) if spoken else ""
        return number and number.zfill(2)

    def _fraction(self, token: Token) -> str | None:
        below = self._number(token.parts["denominator"].removesuffix("分之"))
        above = self._number(token.parts["numerator"])
        if below is None or above is None:
            return None
        return ("-" if token.parts.get("sign") else "") + f"{above}/{below}"

    def _ratio(self, spoken: str) -> str | None:
        sides = [self._number(side) for side in spoken.split("比")]
        return f"{sides[0]}:{sides[1]}" if len(sides) == 2 and all(sides) else None

    def _number(self, spoken: str) -> str | None:
        """A number in digits; ``None`` if it is none, or only about so many."""
        if _APPROXIMATE.fullmatch(spoken):
            return None
        if spoken and all(char in _DIGITS for char in spoken):
            return "".join(_DIGITS[char] for char in spoken)
        if (unit := spoken[-1:]) in ("万", "亿") and not set(spoken[:-1]) & {"万", "亿"}:
            number = self._number(spoken[:-1])
            return number and number + unit
        if spoken.startswith("零") and len(spoken) > 1 and "点" not in spoken:
            number = self._number(spoken[1:])
            return number and f"0{number}"
        number = self._grammar.number(spoken)
        if parts := re.fullmatch("([0-9]+)万([0-9]+)", number):
            return str(int(parts[1]) * 10_000 + int(parts[2]))
        return number if re.fullmatch("[0-9.]+亿?(?:[0-9]+万)?", number) else None


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    begin = 0
    for kept in _KEPT.finditer(text):
        yield begin, text[begin : kept.start()]
        begin = kept.end()
    yield begin, text[begin:]


def _windows(text: str) -> list[tuple[int, int]]:
    """The neighborhoods of all candidates; those that touch are one."""
    windows: list[tuple[int, int]] = []
    for match in _CANDIDATE.finditer(text):
        begin, end = max(match.start() - _BEFORE, 0), min(match.end() + _AFTER, len(text))
        if windows and begin <= windows[-1][1]:
            begin = windows.pop()[0]
        windows.append((begin, end))
    return windows


def _half_degree(token: Token, rest: str) -> str:
    """The 五 of 三十七度五, which the grammar leaves outside; it is not the begin of another number."""
    match = re.match(f"[{_ONES}](?![{_N}个点])", rest)
    is_degree = token.kind == "measure" and token.spoken[-1].endswith("度")
    return match[0] if match and is_degree else ""
