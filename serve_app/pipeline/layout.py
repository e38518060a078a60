"""A sentence as printed text, and back: changes of the text become changes of its timed words."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from serve_app.pipeline.itn.edits import Edit
from serve_app.pipeline.text import SENTENCE_FINAL, half_width, is_cjk
from serve_app.pipeline.types import TimedWord

_FULL_WIDTH = {",": "，", "?": "？", "!": "！"} | {mark: mark for mark in "，。？！、"}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each word, and the mark after it, lies in the printed text.

    Attributes:
        text: as :func:`serve_app.pipeline.text.join_words` prints it.
        places: begin of each word, end of the word and end of its mark, in characters.
    """

    words: tuple[TimedWord, ...]
    text: str
    places: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, words: Sequence[TimedWord], marks: bool = True) -> "Layout":
        """Without ``marks``, as a reader sees it who asked for none."""
        text, places = "", []
        for word in words:
            if text and word.text and not is_cjk(text[-1]) and not is_cjk(word.text[0]):
                text += " "
            begin, text = len(text), text + word.text
            end = len(text)
            text += half_width(word.text, word.mark) if marks else ""
            places.append((begin, end, len(text)))
        return cls(tuple(words), text, tuple(places))

    def edited(self, edits: Iterable[Edit]) -> tuple[TimedWord, ...]:
        """The words after ``edits``, which are in order. Where an edit touches several, they become one."""
        words, index = list[TimedWord](), 0
        for group in self._groups(edits):
            first, last, changes = group
            words += self.words[index:first]
            merged = self._merged(first, last, changes)
            if merged.text:
                words.append(merged)
            elif words:
                words[-1] = replace(words[-1], mark=_kept_mark(words[-1].mark, merged.mark))
            index = last + 1
        return (*words, *self.words[index:])

    def _groups(self, edits: Iterable[Edit]) -> list[tuple[int, int, list[Edit]]]:
        """First and last word of each change; changes that share a word are one."""
        groups: list[tuple[int, int, list[Edit]]] = []
        for edit in edits:
            touched = [
                i for i, (begin, _, end) in enumerate(self.places) if begin < edit.end and edit.begin < end
            ]
            if not touched:
                continue
            first, last = touched[0], touched[-1]
            if groups and first <= groups[-1][1]:
                first, _, before = groups.pop()
                groups.append((first, max(last, first), [*before, edit]))
            else:
                groups.append((first, last, [edit]))
        return groups

    def _merged(self, first: int, last: int, edits: list[Edit]) -> TimedWord:
        begin, (_, end_of_text, end) = self.places[first][0], self.places[last]
        is_mark_kept = all(edit.end <= end_of_text for edit in edits)
        stop = end_of_text if is_mark_kept else end
        text, position = "", begin
        for edit in edits:
            text += self.text[position : edit.begin] + edit.text
            position = edit.end
        text += self.text[position:stop]
        words = self.words[first : last + 1]
        mark = words[-1].mark if is_mark_kept else ""
        text = text.strip()
        if text[-1:] in _FULL_WIDTH:
            mark, text = _FULL_WIDTH[text[-1]], text[:-1]
        if all(not is_cjk(char) for word in words for char in word.text):
            mark = half_width("".join(word.text for word in words), mark)
        log_prob = sum(word.log_prob for word in words)
        return TimedWord(text, words[0].begin, words[-1].end, log_prob, mark)


def _kept_mark(mark: str, dropped: str) -> str:
    """The mark of a word after which another one with its mark was left out: a sentence keeps its end."""
    return dropped if dropped in SENTENCE_FINAL else mark


def without(words: Sequence[TimedWord], dropped: Iterable[int]) -> tuple[TimedWord, ...]:
    """``words`` but for those at the indices ``dropped``."""
    gone = frozenset(dropped)
    kept: list[TimedWord] = []
    for index, word in enumerate(words):
        if index not in gone:
            kept.append(word)
        elif kept:
            kept[-1] = replace(kept[-1], mark=_kept_mark(kept[-1].mark, word.mark))
    return tuple(kept)
