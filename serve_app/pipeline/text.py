"""How words and punctuation marks become text: spacing, half-width marks, what language it looks like."""

import unicodedata
from collections.abc import Iterable

SENTENCE_FINAL = frozenset("。？！.?!؟।۔\u037e")
"""Marks that end a sentence: full-width, as models without marks of their own are given them, and those of
other scripts and after numbers, as a model wrote them itself."""

_HALF_WIDTH = {"，": ",", "。": ".", "？": "?", "！": "!", "、": ","}


def is_cjk(char: str) -> bool:
    """Whether ``char`` is written without spaces around it: Han, Kana, Bopomofo or a full-width mark."""
    if "　" <= char <= "〿" or "＀" <= char <= "￯":
        return True
    if char < "\u1100":
        return False
    if "\u4e00" <= char <= "\u9fff":
        return True
    name = unicodedata.name(char, "")
    return name.startswith(("CJK ", "HIRAGANA", "KATAKANA", "BOPOMOFO"))


def join_words(words: Iterable[tuple[str, str]]) -> str:
    """Join ``(word, following mark)`` pairs.

    A space goes between two neighbors only where neither side of the gap is CJK. The mark after a word
    that ends in Latin script is set half-width, as in ``Hello, world.``
    """
    text = ""
    for word, mark in words:
        if not word:
            continue
        if text and not is_cjk(text[-1]) and not is_cjk(word[0]):
            text += " "
        text += word
        text += half_width(word, mark)
    return text


def half_width(word: str, mark: str) -> str:
    """The mark as it is printed after ``word``: half-width after Latin script.

    After a number it is printed as it is, since 25% may have been said in either language.
    """
    letters = [char for char in word if char.isalpha()]
    if not mark or not letters or is_cjk(word[-1]) or is_cjk(letters[-1]):
        return mark
    narrow = _HALF_WIDTH.get(mark, mark)
    return "" if narrow == "." and word.endswith(".") else narrow


def language_of(words: Iterable[str]) -> str:
    """ISO 639-1 code by script: ``en`` if there are words and none holds a Han character, else ``zh``.

    For models that recognize Chinese with English words in it and do not report a language.
    """
    chars = [char for word in words for char in word]
    return "en" if chars and not any(is_cjk(char) for char in chars) else "zh"
