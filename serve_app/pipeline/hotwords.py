"""Words to listen for, in the forms in which clients send them."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from deployments.messages import Hotword

__all__ = ["Hotword", "context_of", "parse_hotwords"]


def parse_hotwords(value: Any) -> tuple[Hotword, ...]:
    """Read hotwords.

    Args:
        value: an object of weights by word, the same as a JSON string, a list of words, or one string of
            words with spaces or commas between them. Weights may be strings of digits. An empty string
            means none.

    Raises:
        ValueError: it is none of these; the message says so in a sentence.
    """
    if isinstance(value, str):
        value = _from_string(value)
    return tuple(_words(value))


def context_of(context: str, hotwords: Iterable[Hotword]) -> str:
    """What a model that reads text is told: the words to listen for that are not in it, and the context."""
    words = ", ".join(dict.fromkeys(word.text for word in hotwords if word.text not in context))
    return "\n".join(part for part in (words, context.strip()) if part)


def _from_string(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict | list):
        return value
    return [word for word in re.split(r"[\s,，;；、]+", text) if word]


def _words(value: Any) -> Iterator[Hotword]:
    if isinstance(value, Mapping):
        for word, weight in value.items():
            if str(word).strip():
                yield Hotword(str(word).strip(), _weight(word, weight))
    elif isinstance(value, list | tuple):
        for word in value:
            if not isinstance(word, str):
                raise ValueError(f"each hotword must be a string, and {word!r:.40} is none")
            if word.strip():
                yield Hotword(word.strip())
    else:
        raise ValueError("hotwords must be words in a string, or an object with the weight of each word")


def _weight(word: str, value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        weight = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        weight = math.nan
    if not math.isfinite(weight):
        raise ValueError(f"the weight of {word!r:.40} must be a number, not {value!r:.40}")
    return weight
