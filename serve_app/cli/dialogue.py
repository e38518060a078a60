"""A transcript with speakers as one reads it: who, and what they say."""

import json
from itertools import groupby
from typing import Any

from serve_app.cli.client import RequestRefused
from serve_app.pipeline.text import join_words


def dialogue(answer: str) -> str:
    """The text of an answer in ``verbose_json``; where several people speak, a line for each turn.

    Raises:
        RequestRefused: it is no such answer.
    """
    try:
        body: dict[str, Any] = json.loads(answer)
        said = [(segment.get("speaker"), str(segment["text"])) for segment in body["segments"]]
        text = str(body["text"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestRefused("The server's answer is no transcript in verbose_json.") from error
    if len({speaker for speaker, _ in said}) < 2:
        return text
    turns = groupby(said, key=lambda item: item[0])
    return "\n".join(
        f"[{speaker or '?'}] {join_words((sentence, '') for _, sentence in turn)}" for speaker, turn in turns
    )
