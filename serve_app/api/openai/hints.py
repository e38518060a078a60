"""What ``prompt`` and ``keywords`` tell: words to listen for, and what to write in place of others."""

import re
from collections.abc import Iterable

from serve_app.pipeline.finishing import ARROW, Correction, parse_corrections
from serve_app.pipeline.hotwords import Hotword

_TERM_CHARACTERS = 40
_TERM_WORDS = 5
_BETWEEN_TERMS = re.compile(r"[,，、;；]+")
_SENTENCE_END = re.compile(r"[。！？!?]|\.(?=\s|$)")


def corrections_in(lines: Iterable[str]) -> tuple[Correction, ...]:
    """The corrections among ``lines``: those with an arrow in them.

    Raises:
        ValueError: as :func:`parse_corrections`.
    """
    return parse_corrections(line for line in lines if ARROW in line)


def hotwords_in(keywords: Iterable[str], prompt: Iterable[str]) -> tuple[Hotword, ...]:
    """Words to listen for: each keyword as it is, and those lines of a prompt that are lists of terms.

    OpenAI's guide tells people to put names and acronyms into the prompt with commas between them, but also
    to put the text there that came before, whose words are none to listen for.
    """
    listed = [keyword.strip() for keyword in keywords if ARROW not in keyword]
    for line in prompt:
        if ARROW not in line:
            listed += _terms(line)
    return tuple(Hotword(word) for word in dict.fromkeys(listed) if word)


def _terms(line: str) -> list[str]:
    if _SENTENCE_END.search(line.strip().removesuffix(".").removesuffix("。")):
        return []
    terms = [term.strip(" .。\t") for term in _BETWEEN_TERMS.split(line)]
    return terms if all(_is_term(term) for term in terms) else []


def _is_term(text: str) -> bool:
    return len(text) <= _TERM_CHARACTERS and len(text.split()) <= _TERM_WORDS
