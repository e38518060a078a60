"""Words to listen for: what they are, and the limits that hold for all clients.

Weights from 1 to 100, words up to about a thousand: https://github.com/modelscope/FunASR
(``runtime/docs/SDK_advanced_guide_offline_zh.md``, ``--hotword``).
"""

import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from deployments.messages import Hotword
from serve_app.pipeline.finishing import Correction

__all__ = [
    "GREATEST_WEIGHT",
    "LEAST_WEIGHT",
    "LONGEST_CONTEXT",
    "LONGEST_HOTWORD",
    "MOST_HOTWORDS",
    "Hotword",
    "HotwordList",
    "checked",
    "context_of",
    "key_of",
    "merged",
    "weight_of",
]

MOST_HOTWORDS = 1000
LONGEST_HOTWORD = 100
"""Characters."""

LONGEST_CONTEXT = 10_000
"""Characters that a model of live text reads, again at each step, and to which the server fills up what a
client says."""

LEAST_WEIGHT, GREATEST_WEIGHT = 1.0, 100.0


@dataclass(frozen=True, slots=True)
class HotwordList:
    """What a list of hotwords holds: words to listen for, and entries ``wrong=>right``.

    ``elsewhere`` is the id of a list that its client keeps at another service, whose words are not known.
    """

    words: tuple[Hotword, ...] = ()
    corrections: tuple[Correction, ...] = ()
    elsewhere: str | None = None


def checked(words: Iterable[Hotword]) -> tuple[Hotword, ...]:
    """The words as they are listened for: each once, with single spaces inside.

    Of equal words, the first one's spelling and the last one's weight are kept.

    Raises:
        ValueError: a word is too long or cannot be written, or there are too many.
    """
    found: dict[str, Hotword] = {}
    for word in words:
        text = _text(word.text)
        if not text:
            continue
        known = found.get(key_of(text))
        weight = word.weight if known is None or word.weight is not None else known.weight
        found[key_of(text)] = Hotword(text if known is None else known.text, weight)
    if len(found) > MOST_HOTWORDS:
        raise ValueError(f"there may be {MOST_HOTWORDS} hotwords at most, not {len(found)}")
    return tuple(found.values())


def merged(first: Iterable[Hotword], further: Iterable[Hotword]) -> tuple[Hotword, ...]:
    """Both lists; for a word that is in both, the weight of ``first`` counts, if it has one."""
    found = {key_of(word.text): word for word in first}
    for word in further:
        known = found.get(key_of(word.text))
        if known is None:
            found[key_of(word.text)] = word
        elif known.weight is None:
            found[key_of(word.text)] = Hotword(known.text, word.weight)
    return tuple(found.values())


def key_of(text: str) -> str:
    """The same for words that are the same to a model, in whatever case or width they are written."""
    return unicodedata.normalize("NFKC", text).casefold()


def weight_of(value: Any, word: str, *, lenient: bool = False) -> float | None:
    """A weight; ``None`` and an empty string are none.

    Raises:
        ValueError: it is no number or, unless ``lenient``, none from 1 to 100.
    """
    if value is None or value == "":
        return None
    try:
        weight = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        weight = math.nan
    if not math.isfinite(weight):
        raise ValueError(f"the weight of {word!r:.40} must be a number, not {value!r:.40}")
    if lenient:
        return min(max(weight, LEAST_WEIGHT), GREATEST_WEIGHT)
    if not LEAST_WEIGHT <= weight <= GREATEST_WEIGHT:
        raise ValueError(f"the weight of {word!r:.40} must be from 1 to 100, not {value!r:.40}")
    return weight


def context_of(context: str, hotwords: Iterable[Hotword], further: Iterable[Hotword] = ()) -> str:
    """What a model that reads text is told: the words to listen for that are not in it, and the context.

    ``further`` are words that the client does not know of: as many as make it no longer than 10,000
    characters.
    """
    words = list(dict.fromkeys(word.text for word in hotwords if word.text not in context))
    room = LONGEST_CONTEXT - len(context) - sum(len(word) + 2 for word in words)
    for word in further:
        room -= len(word.text) + 2
        if room < 0:
            break
        if word.text not in context and word.text not in words:
            words.append(word.text)
    return "\n".join(part for part in (", ".join(words), context.strip()) if part)


def _text(text: str) -> str:
    words = " ".join(text.split())
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in words):
        raise ValueError(f"the hotword {words!r:.40} holds characters that no text has")
    if len(words) > LONGEST_HOTWORD:
        raise ValueError(
            f"a hotword may have {LONGEST_HOTWORD} characters at most; {words!r:.40} has {len(words)}"
        )
    return words
