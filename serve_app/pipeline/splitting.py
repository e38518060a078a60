"""Which words of a sentence say nothing, and where a long sentence may be cut."""

import re
from collections.abc import Iterator, Sequence

from serve_app.pipeline.types import TimedWord

_FILLERS = frozenset({"嗯", "呃", "uh", "uhm", "um", "umm", "er", "erm", "hmm"})
"""Said while one thinks, and never anything else."""

_FILLERS_ALONE = frozenset({"额", "啊", "唔", "ah", "mm"})
"""Fillers only where they stand by themselves, with a mark or nothing on both sides; but 金额 and 好啊."""

_UNIT = re.compile(r"[^\W\u2e80-\u9fff\U00020000-\U0003ffff]+(?:['’.:,-][^\W\u2e80-\u9fff]+)*|\w")


def fillers(words: Sequence[TimedWord]) -> Iterator[int]:
    """The indices of the words that are fillers. Words that may mean something, such as 那个, are none."""
    is_start = True
    for index, word in enumerate(words):
        text = word.text.lower()
        is_end = bool(word.mark) or index == len(words) - 1
        if text in _FILLERS or (text in _FILLERS_ALONE and is_start and is_end):
            yield index
            continue
        is_start = bool(word.mark)


def split(words: Sequence[TimedWord], longest: int) -> list[tuple[TimedWord, ...]]:
    """``words`` in parts of at most ``longest`` characters (words of Latin script, whole numbers).

    Cut after the last mark that makes no part shorter than a third of that, else at the longest pause
    there, never inside a word.
    """
    parts: list[tuple[TimedWord, ...]] = []
    rest = tuple(words)
    while rest:
        fitting, length = 0, 0
        while fitting < len(rest) and (length := length + _length(rest[fitting])) <= longest:
            fitting += 1
        end = len(rest) if fitting == len(rest) else _cut(rest, max(fitting, 1))
        parts.append(rest[:end])
        rest = rest[end:]
    return parts


def _length(word: TimedWord) -> int:
    return len(_UNIT.findall(word.text))


def _cut(words: Sequence[TimedWord], most: int) -> int:
    """How many of the first ``most`` words to take; more words follow."""
    ends = range(max(most // 3, 1), most + 1)
    marked = [end for end in ends if words[end - 1].mark]
    if marked:
        return marked[-1]
    return max(ends, key=lambda end: (round(words[end].begin - words[end - 1].end, 2), end))
