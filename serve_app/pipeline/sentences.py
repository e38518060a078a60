"""From recognized segments to punctuated sentences, in order, a segment at a time."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

from serve_app.pipeline.text import SENTENCE_FINAL
from serve_app.pipeline.types import Sentence, TimedWord

Punctuate = Callable[[Sequence[str]], Awaitable[list[str]]]
"""Gives the mark after each word, ``""`` for none."""


class SentenceBuilder:
    """Collects words and emits sentences as soon as their end is certain.

    Words after the last certain sentence end wait for the words that follow, because a model that sees
    more context places marks better. A pause longer than ``gap`` seconds ends a sentence whatever the
    model says, and no more than ``longest`` words wait.
    """

    def __init__(self, punctuate: Punctuate, gap: float = 2.0, longest: int = 200) -> None:
        self._punctuate = punctuate
        self._gap = gap
        self._longest = longest
        self._waiting: list[TimedWord] = []

    async def add(self, words: Iterable[TimedWord]) -> list[Sentence]:
        """Take the next segment's words; return the sentences that are now complete."""
        sentences: list[Sentence] = []
        new = list(words)
        if not new:
            return sentences
        if self._waiting and new[0].begin - self._waiting[-1].end > self._gap:
            sentences += await self.finish()
        self._waiting += new
        marked = await self._mark(self._waiting)
        end = self._certain_end(marked)
        sentences += _split(marked[:end])
        self._waiting = [replace(word, mark="") for word in marked[end:]]
        return sentences

    async def finish(self) -> list[Sentence]:
        """Return what still waits; the last sentence is closed with a full stop if it has no end."""
        if not self._waiting:
            return []
        marked = _close(await self._mark(self._waiting))
        self._waiting = []
        return _split(marked)

    async def _mark(self, words: Sequence[TimedWord]) -> list[TimedWord]:
        marks = await self._punctuate([word.text for word in words])
        return [replace(word, mark=mark) for word, mark in zip(words, marks, strict=True)]

    def _certain_end(self, marked: list[TimedWord]) -> int:
        """Index after the last word whose sentence end further context can no longer move.

        The mark of the very last word is never certain. Where a sentence grows past the limit, it is
        closed at its last comma, or right there.
        """
        for index in range(len(marked) - 2, -1, -1):
            if marked[index].mark in SENTENCE_FINAL:
                return index + 1
        if len(marked) <= self._longest:
            return 0
        end = next((i + 1 for i in range(len(marked) - 2, -1, -1) if marked[i].mark), len(marked))
        marked[:end] = _close(marked[:end])
        return end


def _close(marked: list[TimedWord]) -> list[TimedWord]:
    last = marked[-1]
    return marked if last.mark in SENTENCE_FINAL else [*marked[:-1], replace(last, mark="。")]


def _split(marked: Sequence[TimedWord]) -> list[Sentence]:
    sentences: list[Sentence] = []
    begin = 0
    for index, word in enumerate(marked):
        if word.mark in SENTENCE_FINAL:
            sentences.append(Sentence(tuple(marked[begin : index + 1])))
            begin = index + 1
    if begin < len(marked):
        sentences.append(Sentence(tuple(marked[begin:])))
    return sentences
