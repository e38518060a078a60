"""What a client did wrong, with the codes that OpenAI has for it."""

from collections.abc import Iterable, Mapping

from pydantic import ValidationError

from serve_app.errors import InvalidParameter


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


class SessionExpired(Mistake):
    """The connection has been silent, or has been there, for too long."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="session_expired")


_TAGS = frozenset({"server_vad", "semantic_vad", "audio/pcm", "audio/pcmu", "audio/pcma"})
"""What pydantic puts into the place of an error for the kind of an object, which has no such name in it."""


def mistake_of(error: ValidationError, names: Mapping[str, str]) -> Mistake:
    """The first thing that is wrong with an object; ``names`` are what its fields are called in full."""
    first = error.errors(include_url=False)[0]
    field, *inside = first["loc"]
    name = names.get(str(field), str(field)) + _path(inside)
    kind, reason = first["type"], first["msg"].removeprefix("Value error, ").rstrip(".")
    if kind.startswith("union_tag"):
        name += ".type"
    if kind in ("missing", "union_tag_not_found"):
        return Mistake(f"The parameter {name!r} is missing.", name, "missing_required_parameter")
    if kind == "extra_forbidden":
        return Mistake(f"There is no parameter {name!r}.", name, "unknown_parameter")
    code = "invalid_type" if kind.endswith(("_type", "_parsing")) else "invalid_value"
    return Mistake(f"The value {first['input']!r:.80} of {name!r} is not valid: {reason}.", name, code)


def _path(inside: Iterable[int | str]) -> str:
    """As OpenAI writes it: ``.threshold``, ``[0]``."""
    parts = (part for part in inside if part not in _TAGS)
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part:.60}" for part in parts)
