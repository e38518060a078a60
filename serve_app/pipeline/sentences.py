"""From recognized segments to punctuated sentences, in order, a segment at a time."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

from serve_app.pipeline.text import SENTENCE_FINAL
from serve_app.pipeline.types import Sentence, TimedWord

Punctuate = Callable[[Sequence[str]], Awaitable[list[str]]]
"""Gives the mark after each word, ``""`` for none."""


class SentenceBuilder:
    """Collects words and emits sentences once their end is certain.

    Words after the last certain sentence end wait for the words that follow, because a model that sees
    more context places marks better. A pause longer than ``gap`` seconds ends a sentence whatever the
    model says, and no more than ``longest`` words wait for an end.

    Words that come with the marks of a model that writes them itself keep those.
    """

    def __init__(
        self, punctuate: Punctuate, gap: float = 2.0, longest: int = 200, together: int = 100
    ) -> None:
        """``together``: how many new words are collected for one call of ``punctuate``.

        A call takes milliseconds whatever its length, so for each short segment of a long recording it
        would cost as much as recognizing it. Only the very first words are not kept waiting: somebody may
        be looking at the screen for them.
        """
        self._punctuate = punctuate
        self._gap = gap
        self._longest = longest
        self._together = together
        self._wanted = 1
        self._waiting: list[TimedWord] = []
        self._unmarked = 0
        self._close_last = True

    async def add(self, words: Iterable[TimedWord], *, marked: bool = False) -> list[Sentence]:
        """Take the next segment's words; return the sentences that are now complete.

        ``marked``: their marks are for good. All segments of a recording have to be alike in that.
        """
        sentences: list[Sentence] = []
        new = list(words)
        if not new:
            return sentences
        if self._waiting and new[0].begin - self._waiting[-1].end > self._gap:
            sentences += await self.finish()
        self._waiting += new
        if marked:
            # Not every script ends its sentences with a mark.
            self._close_last = False
            return sentences + self._take(self._certain_end(len(self._waiting)))
        self._unmarked += len(new)
        if self._unmarked < self._wanted:
            return sentences
        self._wanted = self._together
        await self._mark_waiting()
        # The mark of the very last word is never certain.
        return sentences + self._take(self._certain_end(len(self._waiting) - 1))

    def _take(self, end: int) -> list[Sentence]:
        taken, self._waiting = self._waiting[:end], self._waiting[end:]
        return _split(taken)

    async def finish(self) -> list[Sentence]:
        """Return what still waits; the last sentence is closed with a full stop if it has no end."""
        if not self._waiting:
            return []
        if self._unmarked:
            await self._mark_waiting()
        if self._close_last:
            self._waiting = _close(self._waiting)
        return self._take(len(self._waiting))

    async def _mark_waiting(self) -> None:
        marks = await self._punctuate([word.text for word in self._waiting])
        self._waiting = [replace(word, mark=mark) for word, mark in zip(self._waiting, marks, strict=True)]
        self._unmarked = 0

    def _certain_end(self, certain: int) -> int:
        """Index after the last word whose sentence end further context can no longer move.

        The marks of the first ``certain`` words are. Where a sentence grows past the limit, it is closed at
        its last comma, or right there.
        """
        marked = self._waiting
        for index in range(certain - 1, -1, -1):
            if marked[index].mark in SENTENCE_FINAL:
                return index + 1
        if len(marked) <= self._longest:
            return 0
        end = next((i + 1 for i in range(certain - 1, -1, -1) if marked[i].mark), len(marked))
        if self._close_last:
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
