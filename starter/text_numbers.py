"""Numbers, times, dates, money and phone numbers written out in Chinese characters."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

DIGITS = "零一二三四五六七八九"
PHONE_DIGITS = DIGITS.replace("一", "幺")
"""Telephone and room numbers say 幺 for 1, as people do, so that it is not heard as 七."""


def number(value: int) -> str:
    """Write 0 <= value < 10,000 the way it is read: 15 -> 十五, 105 -> 一百零五, 2300 -> 两千三百.

    Raises ValueError outside that range.
    """
    if not 0 <= value < 10_000:
        raise ValueError(f"number out of range: {value}")
    if value < 10:
        return DIGITS[value]
    if value < 20:
        return "十" + (DIGITS[value - 10] if value > 10 else "")
    parts: list[str] = []
    gap = False
    for power, unit in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = value // power % 10
        if digit == 0:
            gap = bool(parts)
            continue
        if gap:
            parts.append("零")
            gap = False
        parts.append(("两" if digit == 2 and power == 1000 else DIGITS[digit]) + unit)
    return "".join(parts)


def counted(value: int) -> str:
    """A number before a measure word: 2 is 两 there, everything else as `number` writes it."""
    return "两" if value == 2 else number(value)


def digits(rng: Random, count: int) -> str:
    return "".join(rng.choice(PHONE_DIGITS) for _ in range(count))


def _hour(rng: Random) -> str:
    return rng.choice(("早上", "上午", "中午", "下午", "晚上", "")) + counted(rng.randint(1, 12)) + "点"


def _clock(rng: Random) -> str:
    minutes = rng.choice(("", "半", "一刻", "十分", "二十分", number(rng.randint(11, 59)) + "分"))
    return _hour(rng) + minutes


def _date(rng: Random) -> str:
    return f"{number(rng.randint(1, 12))}月{number(rng.randint(1, 31))}号"


def _year(rng: Random) -> str:
    return "".join(DIGITS[int(digit)] for digit in str(rng.randint(1990, 2039))) + "年"


def _weekday(rng: Random) -> str:
    return rng.choice(("星期", "周")) + rng.choice("一二三四五六")


def _money(rng: Random) -> str:
    kind = rng.randrange(5)
    if kind == 0:
        return counted(rng.randint(1, 20)) + "块" + rng.choice(("", rng.choice(DIGITS[1:])))
    if kind == 1:
        return number(rng.randint(11, 999)) + "块"
    if kind == 2:
        return number(rng.randint(10, 99) * 10) + "元"
    if kind == 3:
        return number(rng.randint(10, 99) * 100) + "元"
    return counted(rng.randint(1, 99)) + "万元"


def _percent(rng: Random) -> str:
    whole = f"百分之{number(rng.randint(1, 100))}"
    return f"{whole}点{rng.choice(DIGITS[1:])}" if rng.random() < 0.3 else whole


def _degrees(rng: Random) -> str:
    return rng.choice(("零下", "", "", "")) + number(rng.randint(3, 38)) + "度"


def _mobile(rng: Random) -> str:
    return "幺" + rng.choice("三五七八九") + digits(rng, 9)


NUMBER_SLOTS: dict[str, Callable[[Random], str]] = {
    "clock": _clock,
    "hour": _hour,
    "date": _date,
    "year": _year,
    "weekday": _weekday,
    "money": _money,
    "percent": _percent,
    "degrees": _degrees,
    "mobile": _mobile,
    "code": lambda rng: digits(rng, rng.choice((4, 6))),
    "extension": lambda rng: digits(rng, rng.choice((3, 4))),
    "few": lambda rng: counted(rng.randint(1, 10)),
    "count": lambda rng: counted(rng.randint(2, 99)),
    "ordinal": lambda rng: number(rng.randint(1, 20)),
    "big": lambda rng: number(rng.randint(100, 9999)),
    "minutes": lambda rng: number(rng.choice((5, 10, 15, 20, 30, 40, 45, 50))) + "分钟",
    "any_number": lambda rng: number(rng.choice((rng.randint(0, 99), rng.randint(100, 9999)))),
}
"""Slot name -> generator; every one draws only from the random stream that it is given."""

NUMBER_CHARACTERS = frozenset("零一二三四五六七八九十百千万两幺半点刻分早上午中下晚月号年星期周块元之度钟")
"""Every character that the slots above can produce."""
