"""What ``prompt`` and ``keywords`` tell: words to listen for, and what to write in place of others."""

import re

from serve_app.pipeline.finishing import ARROW
from serve_app.pipeline.hotwords import HotwordList
from serve_app.pipeline.hotwords_parsing import whole_words

_TERM_CHARACTERS = 40
_TERM_WORDS = 5
_BETWEEN_TERMS = re.compile(r"[,，、;；]+")
_SENTENCE_END = re.compile(r"[。！？!?]|\.(?=\s|$)")


def hints_in(prompt: str) -> HotwordList:
    """Words to listen for, and corrections, in those lines of a prompt that are lists of terms, or have an
    arrow in them.

    OpenAI's guide tells people to put names and acronyms into the prompt with commas between them, but also
    to put the text there that came before, whose words are none to listen for.

    Raises:
        ValueError: as :func:`serve_app.pipeline.hotwords.whole_words`.
    """
    listed: list[str] = []
    for line in prompt.splitlines():
        listed += [line] if ARROW in line else _terms(line)
    return whole_words(listed)


def _terms(line: str) -> list[str]:
    if _SENTENCE_END.search(line.strip().removesuffix(".").removesuffix("。")):
        return []
    terms = [term.strip(" .。\t") for term in _BETWEEN_TERMS.split(line)]
    return terms if all(_is_term(term) for term in terms) else []


def _is_term(text: str) -> bool:
    return len(text) <= _TERM_CHARACTERS and len(text.split()) <= _TERM_WORDS
