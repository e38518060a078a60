"""How a text of any length goes through a CT-Transformer: its tokens, and which marks are certain when.

How a long text is gone through is that of FunASR's ``CTTransformer.inference``.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from deployments.engines.model_files import SAME_MODEL, ModelFiles, ModelFilesError

_STEP = 20
"""Tokens that each round adds to those pending (``split_size`` in FunASR)."""
LONG = 200
"""Pending tokens above which a comma ends a sentence (``cache_pop_trigger_limit`` in FunASR)."""
LONGEST = 400
"""Pending tokens above which the oldest are settled though there is no mark; FunASR goes on without end."""
_BATCH_TOKENS = 4096
"""About how many tokens one forward pass takes, so that its memory is bounded."""

_NO_MARK = ("", "_", "<unk>")
_FULL_WIDTH = {",": "，", ".": "。", "?": "？"} | {mark: mark for mark in "，。？、"}
_UNIT = re.compile(r"[\x00-\x7f]+|[^\x00-\x7f]")


@dataclass(slots=True)
class Text:
    """One text on its way: ``marks`` of its settled tokens; the next ones up to ``end`` are pending."""

    ids: list[int]
    end: int = 0
    marks: list[str] = field(default_factory=list)

    @property
    def unfinished(self) -> bool:
        return len(self.marks) < len(self.ids)

    def window(self) -> list[int]:
        """The pending tokens."""
        return self.ids[len(self.marks) : self.end]

    def settle(self, marks: list[str]) -> None:
        """Take the marks of :meth:`window`, as far as they are certain.

        Those after the last end of a sentence are not: they are looked at again with more of the text.
        """
        if self.end == len(self.ids):
            self.marks += marks
            return
        count = settled(marks, "。？")
        if not count and len(marks) > LONG and (count := settled(marks, "，")):
            marks[count - 1] = "。"
        if not count and len(marks) > LONGEST:
            count = len(marks) - LONG
        self.marks += marks[:count]


def settled(marks: Sequence[str], ends: str) -> int:
    """How many tokens there are up to the last mark that is one of ``ends``; 0 if there is none.

    FunASR goes neither by the last token, which lacks what follows it, nor by the first two.
    """
    return next((i + 1 for i in range(len(marks) - 2, 1, -1) if marks[i] and marks[i] in ends), 0)


def mark_all(texts: Sequence[Text], predict: Callable[[Sequence[int]], list[list[str]]]) -> None:
    """Settle all marks of all texts.

    ``predict`` gets indices into ``texts`` and returns the likeliest mark after each token of these texts'
    windows, for each window by itself.
    """
    while unfinished := [index for index, text in enumerate(texts) if text.unfinished]:
        for index in unfinished:
            texts[index].end = min(texts[index].end + _STEP, len(texts[index].ids))
        for batch in _batches(texts, unfinished):
            for index, marks in zip(batch, predict(batch), strict=True):
                texts[index].settle(marks)


def _batches(texts: Sequence[Text], unfinished: Iterable[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    tokens = 0
    for index in unfinished:
        size = len(texts[index].window())
        if batch and tokens + size > _BATCH_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += size
    yield batch


def units(words: Iterable[str]) -> list[str]:
    """The tokens of words: single characters, and whole words of ASCII; no white space."""
    return [unit for part in parts(words) for unit in _UNIT.findall(part)]


def parts(words: Iterable[str]) -> Iterator[str]:
    """The words without white space; one that has some inside is several."""
    for word in words:
        yield from word.split()


def token_id(ids: dict[str, int], token: str) -> int:
    """The token as it is, else in lower case, else unknown."""
    return ids.get(token, ids.get(token.lower(), ids["<unk>"]))


def by_word(words: Sequence[str], tokens: Sequence[str], marks: Sequence[str]) -> list[str]:
    """The mark of the token that ends where a word ends; none within a token, or after white space."""
    position, at = 0, {0: ""}
    for token, mark in zip(tokens, marks, strict=True):
        position += len(token)
        at[position] = mark
    position, result = 0, []
    for word in words:
        size = sum(map(len, word.split()))
        position += size
        result.append(at.get(position, "") if size else "")
    return result


def read_marks(files: ModelFiles) -> list[str]:
    """The model's marks in the order of its outputs, full-width, "" for none."""
    names = [str(name) for name in files.section("model_conf")["punc_list"]]
    if strange := [name for name in names if name not in _FULL_WIDTH and name not in _NO_MARK]:
        raise ModelFilesError(files.directory, f"its punc_list has unknown marks {strange}", SAME_MODEL)
    return [_FULL_WIDTH.get(name, "") for name in names]
