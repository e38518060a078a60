"""What a speaker may be called."""

import re
import unicodedata

from serve_app.errors import InvalidParameter

MOST_CHARACTERS = 64

_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories of what cannot be seen, or turns the direction of what follows."""

_JOINERS = "\u200c\u200d"
"""Invisible as they are, they belong to the spelling of some scripts."""

_RESERVED = frozenset("[]<>")
"""Subtitles have names in brackets, beside marks of their own."""

_UNNAMED = re.compile(r"(?:说话人|speaker) ?\d+", re.IGNORECASE)


def speaker_name(text: str, param: str) -> str:
    """A name as it is kept: NFC, with single spaces between its words.

    Raises:
        InvalidParameter: naming ``param``, if it cannot stand in a transcript.
    """
    name = requested_name(text, param)
    if len(name) > MOST_CHARACTERS:
        raise InvalidParameter(
            f"A speaker's name may have {MOST_CHARACTERS} characters; this one has {len(name)}.", param
        )
    if _RESERVED & set(name):
        raise InvalidParameter(
            f"The name {name!r} cannot be used: subtitles have names in brackets, so it must hold none of "
            "[ ] < >.",
            param,
        )
    if _UNNAMED.fullmatch(name):
        raise InvalidParameter(
            f"The name {name!r} is what speakers without a name are called; choose another one.", param
        )
    return name


def requested_name(text: str, param: str) -> str:
    """A name that comes with a request, in the same spelling; it may hold whatever can be seen.

    Raises:
        InvalidParameter: it is empty, or holds what cannot be seen.
    """
    name = " ".join(filter(None, unicodedata.normalize("NFC", text).split(" ")))
    if not name:
        raise InvalidParameter("A speaker's name must not be empty.", param)
    if any(unicodedata.category(letter) in _INVISIBLE and letter not in _JOINERS for letter in name):
        raise InvalidParameter(
            "A speaker's name must be on one line, without characters that cannot be seen.", param
        )
    return name
