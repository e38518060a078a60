"""Errors of the NLS WebSocket, beside those that Aliyun's HTTP APIs know as well.

Codes: https://help.aliyun.com/zh/isi/developer-reference/overview-of-error-codes
"""

from collections.abc import Mapping

from serve_app import errors
from serve_app.api.aliyun.errors import NlsCode, NoSpeech, nls_code
from serve_app.api.sockets import FAULT, NORMAL, POLICY_VIOLATION, TOO_BIG, TRY_AGAIN_LATER

SUCCESS = 20000000


class NlsError(errors.AsrError):
    """An error of a message; ``task_id`` is the message's, if it could be read."""

    def __init__(self, message: str, task_id: str | None = None) -> None:
        super().__init__(message)
        self.task_id = task_id


class InvalidMessage(NlsError):
    """A message that cannot be read, or that does not fit what went before."""


class InvalidNamespace(NlsError):
    """A message for a service that is not offered."""


class InvalidDirective(NlsError):
    """A message of a name that is not known."""


class IdleTimeout(errors.AsrError):
    """Nothing came for too long, or the connection has been there for too long."""


CODES: Mapping[type[errors.AsrError], NlsCode] = {
    InvalidMessage: NlsCode(400, 40000002, "INVALID_MESSAGE", "Gateway:MESSAGE_INVALID:"),
    InvalidNamespace: NlsCode(400, 40010001, "INVALID_MESSAGE", "Gateway:NAMESPACE_INVALID:"),
    InvalidDirective: NlsCode(400, 40010003, "INVALID_MESSAGE", "Gateway:DIRECTIVE_INVALID:"),
    IdleTimeout: NlsCode(400, 40000004, "IDLE_TIMEOUT", "Gateway:IDLE_TIMEOUT:"),
    NoSpeech: NlsCode(400, 40270002, "DEFAULT_CLIENT_ERROR", "Gateway:SILENT_SPEECH:"),
    errors.AudioTooLarge: NlsCode(400, 41040201, "DEFAULT_CLIENT_ERROR", "Gateway:DATA_NOT_REALTIME:"),
}

_CLOSE_CODES: Mapping[type[errors.AsrError], int] = {
    errors.AsrError: NORMAL,
    errors.Unauthenticated: POLICY_VIOLATION,
    errors.AudioTooLarge: TOO_BIG,
    errors.Overloaded: TRY_AGAIN_LATER,
    errors.UpstreamLost: FAULT,
    errors.Internal: FAULT,
}


def live_code(error: errors.AsrError) -> NlsCode:
    """How an error is told over the WebSocket."""
    return next((CODES[cls] for cls in type(error).__mro__ if cls in CODES), None) or nls_code(error)


def close_code(error: errors.AsrError) -> int:
    """The WebSocket code that ends a connection after ``error`` was told.

    A conversation whose end was told ended well, unless the client is to come back or the server failed.
    """
    return next(_CLOSE_CODES[cls] for cls in type(error).__mro__ if cls in _CLOSE_CODES)
