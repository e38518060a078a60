"""What a client did wrong, with the codes that OpenAI has for it."""

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from serve_app.errors import AsrError, InvalidParameter


class Mistake(InvalidParameter):
    """A message, or a session, that cannot be taken. ``code`` is OpenAI's."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message, param)
        self.code = code


class EmptyCommit(Mistake):
    """A commit of less audio than is recognized."""

    def __init__(self, milliseconds: float, least: int) -> None:
        super().__init__(
            f"There is too little audio to commit: {milliseconds:.0f} ms, and {least} ms are the least.",
            code="input_audio_buffer_commit_empty",
        )


class SessionExpired(AsrError):
    """The connection has been silent, or has been there, for too long."""


_TAGS = frozenset({"server_vad", "semantic_vad", "audio/pcm", "audio/pcmu", "audio/pcma"})
"""What pydantic puts into the place of an error for the kind of an object, which has no such name in it."""


def path_of(location: Iterable[Any]) -> str:
    """The place of an error as OpenAI writes it: ``turn_detection.threshold``, ``include[0]``."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part not in _TAGS:
            path += f".{part}" if path else str(part)
    return path


def mistake_of(error: ValidationError, param: str) -> Mistake:
    """The first thing that is wrong with a value; ``param`` is its name, in which the place is told."""
    first = error.errors(include_url=False)[0]
    kind, reason = first["type"], first["msg"].removeprefix("Value error, ").rstrip(".")
    name = path_of((param, *first["loc"]))
    if kind in ("missing", "union_tag_not_found"):
        name = name if kind == "missing" else f"{name}.type"
        return Mistake(f"The parameter {name!r} is missing.", name, "missing_required_parameter")
    if kind == "extra_forbidden":
        return Mistake(f"There is no parameter {name!r}.", name, "unknown_parameter")
    if kind == "union_tag_invalid":
        name = f"{name}.type"
    code = "invalid_type" if kind.endswith(("_type", "_parsing")) else "invalid_value"
    return Mistake(f"The value {first['input']!r:.80} of {name!r} is not valid: {reason}.", name, code)
