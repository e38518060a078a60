"""Forms as they come: read into models, with errors that name the field as it was sent.

OpenAI's SDK for Python 3.52.0 sends lists under ``name[]`` and what is in an object under ``name[key]``;
names without brackets are for people with curl. A field that is sent empty counts as one that is not sent,
because forms in browsers send all of theirs.
"""

import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from serve_app.errors import InvalidParameter


class Form(BaseModel):
    """Unknown fields are ignored, as OpenAI's own server does."""

    model_config = ConfigDict(extra="ignore")

    @classmethod
    def parse(cls, fields: Mapping[str, str | list[str]]) -> Self:
        """Read form fields; raises :class:`InvalidParameter` that names the first bad one."""
        try:
            return cls.model_validate(_nested(fields))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            head, *inner = (part for part in first["loc"] if isinstance(part, str))
            name = head + "".join(f"[{part}]" for part in inner)
            raise InvalidParameter(
                _sentence(name, first["type"], first["input"], first["msg"]), name
            ) from error


def _nested(fields: Mapping[str, str | list[str]]) -> dict[str, Any]:
    """Without what is empty, and with ``name[key]`` as ``key`` of an object ``name``."""
    found: dict[str, Any] = {}
    objects: dict[str, dict[str, Any]] = {}
    for name, value in fields.items():
        kept = [item for item in value if item] if isinstance(value, list) else value
        if not kept:
            continue
        inner = re.fullmatch(r"(chunking_strategy)\[(\w+)\]", name)
        if inner:
            objects.setdefault(inner[1], {})[inner[2]] = kept
        else:
            found[name] = kept
    return {**objects, **found}


def _sentence(name: str, kind: str, value: Any, reason: str) -> str:
    if kind == "missing":
        return f"The form field {name!r} is missing."
    reason = reason.removeprefix("Value error, ").rstrip(".")
    return f"The value {value!r:.80} of {name!r} is not valid: {reason}."
