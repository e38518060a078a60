"""JSON that clients wrote, read with care."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from serve_app.api.dashscope.errors import TaskError
from serve_app.api.sockets import json_object
from serve_app.errors import InvalidParameter

MAX_TEXT = 1 << 20
"""Characters of a text message without audio, at most."""

Model = TypeVar("Model", bound=BaseModel)


def parse_object(text: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        TaskError: it is none, or too long.
    """
    try:
        return json_object(text, MAX_TEXT)
    except InvalidParameter as error:
        raise TaskError(error.message) from error


def parse(model: type[Model], values: Mapping[str, Any], *, keep_null: bool = False) -> Model:
    """Read parameters. Without ``keep_null``, one of ``null`` counts as not given.

    Raises:
        InvalidParameter: naming the first bad one.
    """
    given = {name: value for name, value in values.items() if keep_null or value is not None}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InvalidParameter(
            f"The value {first['input']!r:.80} of {name!r} is not valid: {first['msg'].rstrip('.')}.", name
        ) from error
