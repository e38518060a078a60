"""Errors as clients of funasr-api read them, over a WebSocket."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from serve_app import errors
from serve_app.activity import note_error
from serve_app.api.sockets import FAULT, NORMAL, POLICY_VIOLATION, TOO_BIG, TRY_AGAIN_LATER


class InvalidMessage(errors.InvalidParameter):
    """A message that cannot be read, or of a type that is not known."""


class InvalidState(errors.Conflict):
    """A message that does not fit what went before."""


class TimedOut(errors.AsrError):
    """Nothing came for too long, or the connection has been there for too long."""


class UnsupportedRate(errors.InvalidParameter):
    """A sample rate that no recorder has."""


_CODES: Mapping[type[errors.AsrError], tuple[str, int]] = {
    errors.AsrError: ("DEFAULT_CLIENT_ERROR", NORMAL),
    InvalidMessage: ("INVALID_MESSAGE", NORMAL),
    InvalidState: ("INVALID_STATE", NORMAL),
    TimedOut: ("IDLE_TIMEOUT", NORMAL),
    UnsupportedRate: ("UNSUPPORTED_SAMPLE_RATE", NORMAL),
    errors.InvalidParameter: ("INVALID_PARAMETER", NORMAL),
    errors.UnsupportedFormat: ("INVALID_PARAMETER", NORMAL),
    errors.Unauthenticated: ("AUTHENTICATION_FAILED", POLICY_VIOLATION),
    errors.AudioTooLarge: ("DEFAULT_CLIENT_ERROR", TOO_BIG),
    errors.Overloaded: ("TOO_MANY_REQUESTS", TRY_AGAIN_LATER),
    # What funasr-api says where another model is loaded.
    errors.ModelNotFound: ("DEFAULT_SERVER_ERROR", NORMAL),
    errors.UpstreamLost: ("DEFAULT_SERVER_ERROR", FAULT),
    errors.Internal: ("DEFAULT_SERVER_ERROR", FAULT),
}
"""Name of the error, and the WebSocket code that ends a connection after it."""


def close_code(error: errors.AsrError) -> int:
    """The WebSocket code that ends a connection after ``error`` was told."""
    return _nearest(error)[1]


def failure(error: errors.AsrError, task_id: str) -> dict[str, Any]:
    """The message that tells an error. ``code`` is where some clients look for its name."""
    note_error(error)
    name = _nearest(error)[0]
    param = error.param if isinstance(error, errors.InvalidParameter) else None
    return {
        "type": "error",
        "error_code": name,
        "code": name,
        "message": error.message,
        "task_id": task_id,
        "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "details": {} if param is None else {"param": param},
    }


def _nearest(error: errors.AsrError) -> tuple[str, int]:
    return next(_CODES[cls] for cls in type(error).__mro__ if cls in _CODES)
