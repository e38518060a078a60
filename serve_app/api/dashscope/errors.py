"""Errors as DashScope names them.

Codes: https://help.aliyun.com/zh/model-studio/error-code
"""

import uuid
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from serve_app import errors
from serve_app.activity import note_error
from serve_app.api.sockets import FAULT, NORMAL, POLICY_VIOLATION, TOO_BIG, TRY_AGAIN_LATER


class TaskError(errors.InvalidParameter):
    """A message that cannot be taken; ``task_id`` is the message's, if it could be read."""

    def __init__(self, message: str, task_id: str | None = None) -> None:
        super().__init__(message)
        self.task_id = task_id


class TimedOut(errors.AsrError):
    """Nothing came for too long, or the connection has been there for too long."""


_CODES: Mapping[type[errors.AsrError], tuple[int, str]] = {
    errors.AsrError: (400, "InvalidParameter"),
    TimedOut: (400, "ResponseTimeout"),
    errors.InvalidAudio: (400, "DECODE_ERROR"),
    errors.UnsupportedFormat: (400, "UNSUPPORTED_FORMAT"),
    errors.AudioTooLarge: (413, "RequestTooLarge"),
    errors.Unauthenticated: (401, "InvalidApiKey"),
    errors.NotFound: (404, "NotFound"),
    errors.Overloaded: (429, "Throttling"),
    errors.RateLimited: (429, "Throttling.RateQuota"),
    errors.UpstreamLost: (503, "ServiceUnavailable"),
    errors.Internal: (500, "InternalError"),
}
"""HTTP status and code."""

_CLOSE_CODES: Mapping[type[errors.AsrError], int] = {
    errors.AsrError: NORMAL,
    errors.Unauthenticated: POLICY_VIOLATION,
    errors.AudioTooLarge: TOO_BIG,
    errors.Overloaded: TRY_AGAIN_LATER,
    errors.UpstreamLost: FAULT,
    errors.Internal: FAULT,
}


def error_code(error: errors.AsrError) -> str:
    """DashScope's name for an error."""
    return _nearest(error)[1]


def close_code(error: errors.AsrError) -> int:
    """The WebSocket code that ends a connection after ``error`` was told."""
    return next(_CLOSE_CODES[cls] for cls in type(error).__mro__ if cls in _CLOSE_CODES)


def as_told(cause: BaseException) -> errors.AsrError:
    """What a client may know of a fault."""
    if isinstance(cause, errors.AsrError):
        return cause
    return errors.Internal("The server met an unexpected fault; its log holds the details.")


def error_response(error: errors.AsrError, request_id: str | None = None) -> JSONResponse:
    """The answer to an HTTP request; ``request_id``, a new one if there is none, is told in it."""
    note_error(error)
    status, code = _nearest(error)
    body: dict[str, Any] = {
        "request_id": request_id or str(uuid.uuid4()),
        "code": code,
        "message": error.message,
    }
    response = JSONResponse(body, status)
    if isinstance(error, errors.Overloaded):
        response.headers["retry-after"] = f"{error.retry_after:.0f}"
    return response


def _nearest(error: errors.AsrError) -> tuple[int, str]:
    return next(_CODES[cls] for cls in type(error).__mro__ if cls in _CODES)
