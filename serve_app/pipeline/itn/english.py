"""English numbers. Spacing, units and the smallest numbers are as a writer would have them."""

import re
from collections.abc import Iterator

from serve_app.pipeline.itn.edits import Edit
from serve_app.pipeline.itn.grammar import Grammar, Token


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_DIGITS = {"zero": "0", "oh": "0", "o": "0", "one": "1", "two": "2", "three": "3", "four": "4"} | {
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
}
_NUMBERS = _set(
    "zero two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand "
    "million billion trillion eighties nineties seventies sixties fifties forties thirties twenties dot "
    "thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth thirtieth "
    "fortieth fiftieth sixtieth seventieth eightieth ninetieth hundredth thousandth quarter half"
)
"""Words without which there is nothing to rewrite, but for those below."""

_MONTHS = _set("january february march april may june july august september october november december")
_AFTER_ONE = _set("percent per point dollar o'clock")
_SMALL_ORDINALS = _set("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth")
_NO_USERS = _set(
    "me us it you him her them i we he she they is am are was were be look looking find visit here go going "
    "write email mail contact reach up online available page site website"
)
"""Words before "at ... dot com" that are no name of a mailbox."""

_IN_ADDRESSES = _set("dot dash hyphen underscore")
_HOURS = _set("ten eleven twelve")
_GREAT = _set("hundred thousand million billion")

_BEFORE, _AFTER = 4, 6
"""Words around a number that may tell what it is."""


class EnglishItn:
    """Finds the numbers in English text and writes them in digits."""

    def __init__(self) -> None:
        self._grammar = Grammar("en")

    def edits(self, text: str) -> list[Edit]:
        """What to change in words with single spaces between them, in order."""
        matches = list(re.finditer("[^ -]+", text))
        words = _with_ones([match[0].lower().replace("’", "'") for match in matches])
        found: list[Edit] = []
        for begin, end in _windows(words):
            for first, last, written in self._window(words[begin:end]):
                start, stop = matches[begin + first].start(), matches[begin + last - 1].end()
                found.append(Edit(start, stop, _cased(text[start:stop], written)))
        return found

    def _window(self, words: list[str]) -> Iterator[tuple[int, int, str]]:
        tokens = self._grammar.tokens(" ".join(words))
        if " ".join(part for token in tokens for part in token.spoken).split(" ") != words:
            return
        begin = 0
        for token in tokens:
            spoken = " ".join(token.spoken)
            end = begin + len(spoken.split(" "))
            written = self._written(token, spoken)
            if token.kind == "electronic":
                begin, written = self._address(token, begin, written)
            if written and written != spoken:
                yield begin, end, written
            begin = end

    def _written(self, token: Token, spoken: str) -> str | None:
        """A token in digits; ``None`` where it shall stay as it is."""
        if token.kind == "word":
            return None
        written = self._grammar.written(token).strip()
        match token.kind:
            case "whitelist":
                return written if any(char.isdigit() for char in written) else None
            case "ordinal":
                return None if spoken in _SMALL_ORDINALS else written
            case "measure":
                return _measure(token, written)
            case "time":
                return _time(token, written)
            case "telephone":
                return _telephone(token, written)
            case "date":
                return self._date(token, spoken, written)
            case "decimal":
                return f"0{written}" if written.startswith(".") else written
            case _:
                return written

    def _address(self, token: Token, begin: int, written: str | None) -> tuple[int, str | None]:
        """The grammar takes all words before "at" for the mailbox; it is the last, and letters before it."""
        user = token.parts.get("username", "").split(" ")
        if user == [""]:
            return begin, written
        first = len(user) - 1
        while first and (len(user[first - 1]) == 1 or user[first - 1] in _IN_ADDRESSES):
            first -= 1
        if user[-1] in _NO_USERS:
            return begin, None
        tail = " ".join([*user[first:], token.parts["domain"]])
        return begin + first, "".join(
            self._grammar.written(part).strip() for part in self._grammar.tokens(tail)
        )

    def _date(self, token: Token, spoken: str, written: str) -> str | None:
        """As spoken where the day comes before the month: "the 5th of march"."""
        parts = list(token.parts)
        if spoken.split(" ")[0] in _HOURS and re.fullmatch("1[012][0-5][0-9]", written):
            return f"{written[:2]}:{written[2:]}"
        if parts[:1] == ["month"] and token.parts["month"] == "may" and "year" not in parts:
            # "You may first ..."
            return written if token.parts.get("day") not in _SMALL_ORDINALS else None
        if "day" not in parts or "month" not in parts or parts.index("day") > parts.index("month"):
            return written
        words = token.parts["day"].split(" ")
        ordinal = " ".join(word for word in words if word not in ("the", "of"))
        number = self._grammar.written(Token("ordinal", {}, f'ordinal {{ integer: "{ordinal}" }}')).strip()
        if not number:
            return written
        head = token.parts["day"].replace(ordinal, number)
        return f"{head} {written.partition(' ')[2]}"


def _measure(token: Token, written: str) -> str | None:
    """The number of the grammar with the unit that was spoken; only percent becomes a sign."""
    if token.parts["value"] == "one" and not written.endswith("%"):
        return None
    number = re.match(r"[-0-9.,]+(?: [a-z]+illion)?", written)
    if number is None:
        return None
    return f"{number[0]}%" if written.endswith("%") else f"{number[0]} {token.parts['units']}"


def _time(token: Token, written: str) -> str:
    clock = re.sub("^0(?=[0-9])", "", written)
    if token.parts.get("minute") == "o'clock":
        return clock.replace(":00", " o'clock", 1)
    return clock.replace(":00", "", 1) if token.parts.get("noon") else clock


def _telephone(token: Token, written: str) -> str | None:
    """Digits said one by one. With words such as "twenty" in between it was something else."""
    said = " ".join(token.spoken).split(" ")
    if token.parts.get("kind") == "serial" and not all(word in _DIGITS for word in said):
        return None
    if "country_code" in token.parts and all(word in _DIGITS for word in said):
        # The grammar takes any eleventh digit for one.
        return "".join(str(_DIGITS[word]) for word in said)
    return written


def _windows(words: list[str]) -> list[tuple[int, int]]:
    """The neighborhoods of all words that make numbers; those that touch are one."""
    windows: list[tuple[int, int]] = []
    for index, word in enumerate(words):
        if not _is_number(words, index, word):
            continue
        begin, end = max(index - _BEFORE, 0), min(index + 1 + _AFTER, len(words))
        if windows and begin <= windows[-1][1]:
            begin = windows.pop()[0]
        windows.append((begin, end))
    return windows


def _is_number(words: list[str], index: int, word: str) -> bool:
    if word in _NUMBERS:
        return True
    around = words[max(index - 1, 0) : index + 3]
    if word == "one":
        return not _AFTER_ONE.isdisjoint(words[index + 1 : index + 2])
    return word in _SMALL_ORDINALS and not _MONTHS.isdisjoint(around)


def _with_ones(words: list[str]) -> list[str]:
    """With "one" for the "a" of "a hundred and twenty", which the grammar would leave outside."""
    changed = list(words)
    for index, word in enumerate(words):
        following = [each for each in words[index + 2 : index + 4] if each != "and"][:1]
        if word == "a" and not _GREAT.isdisjoint(words[index + 1 : index + 2]):
            changed[index] = "one" if not _NUMBERS.isdisjoint(following) else "a"
    return changed


def _cased(spoken: str, written: str) -> str:
    """With the capital that the spoken form began with."""
    return written[:1].upper() + written[1:] if spoken[:1].isupper() else written
