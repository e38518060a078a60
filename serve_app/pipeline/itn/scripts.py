"""Both languages at once: Chinese text may hold English words, and the other way round."""

import re

from serve_app.pipeline.itn.chinese import ChineseItn
from serve_app.pipeline.itn.edits import Edit
from serve_app.pipeline.itn.english import EnglishItn
from serve_app.pipeline.itn.grammar import Grammar

# A mark, a digit or a change of script ends a stretch: no spoken number goes on behind it.
_STRETCH = re.compile(r"([〇\u3400-\u9fff]+)|([A-Za-z]+(?:(?:['’-]| )[A-Za-z]+)*)")


class Itn:
    """Finds what to rewrite in a text. Cheap to make; all share the grammars of their process."""

    def __init__(self) -> None:
        self._chinese = ChineseItn()
        self._english = EnglishItn()
        self._is_loaded = False

    @property
    def is_loaded(self) -> bool:
        """Whether the first call has no loading to do."""
        return self._is_loaded

    def load(self) -> None:
        """Read the grammars, once for the process; blocks for about 0.3 s, from any thread."""
        Grammar.load()
        self._is_loaded = True

    def written(self, text: str) -> str:
        """A printed text with its numbers in digits."""
        pieces, position = "", 0
        for edit in self.edits(text):
            pieces += text[position : edit.begin] + edit.text
            position = edit.end
        return pieces + text[position:]

    def edits(self, text: str) -> list[Edit]:
        """What to change in a printed text, in order. Takes about a millisecond for each number."""
        found: list[Edit] = []
        for match in _STRETCH.finditer(text):
            chinese, english = match.groups()
            edits = self._chinese.edits(chinese) if chinese else self._english.edits(english)
            found += [edit.moved(match.start()) for edit in edits]
        return found
