"""The compiled grammars of ``wetext``, one language of them, as typed tokens."""

import importlib
import re
import threading
from dataclasses import dataclass
from typing import Any, Literal

_LOCK = threading.Lock()
_TOKEN = re.compile(r'(\w+) \{((?: \w+: "(?:[^"\\]|\\.)*")*) \}')
_MEMBER = re.compile(r'(\w+): "((?:[^"\\]|\\.)*)"')
_NOT_SPOKEN = frozenset({"preserve_order", "style", "kind"})


@dataclass(frozen=True, slots=True)
class Token:
    """A stretch of the text: what kind of thing it is, and its parts as they were spoken, in their order."""

    kind: str
    parts: dict[str, str]
    source: str

    @property
    def spoken(self) -> list[str]:
        return [part for name, part in self.parts.items() if name not in _NOT_SPOKEN and part]


class Grammar:
    """Loads at its first use, or with :meth:`load`: about 0.3 s and 45 MB, once for a process."""

    def __init__(self, language: Literal["zh", "en"]) -> None:
        self._language = language

    @staticmethod
    def load() -> Any:
        """The library. Its import reads all grammars, so only one thread may do it."""
        with _LOCK:
            return importlib.import_module("wetext")

    def tokens(self, text: str) -> list[Token]:
        """The text as tokens; none where the grammar does not know what to make of it."""
        tagged = self.load().tag(text, self._language, "itn")
        return [
            Token(
                match[1],
                {name: re.sub(r"\\(.)", r"\1", value) for name, value in _MEMBER.findall(match[2])},
                match[0],
            )
            for match in _TOKEN.finditer(tagged)
        ]

    def written(self, token: Token) -> str:
        """How the grammar writes a token; ``""`` if it cannot."""
        library = self.load()
        ordered = library.reorder(token.source, self._language, "itn")
        return str(library.verbalize(ordered, self._language, "itn"))

    def number(self, spoken: str) -> str:
        """A spoken number in digits; ``""`` if it is none."""
        name = "value" if self._language == "zh" else "integer"
        return self.written(Token("cardinal", {name: spoken}, f'cardinal {{ {name}: "{spoken}" }}'))
