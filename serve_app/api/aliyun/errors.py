"""Errors as Aliyun's gateway answers them, with the fields that clients of funasr-api look for beside them.

Codes: https://help.aliyun.com/zh/isi/developer-reference/overview-of-error-codes
"""

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from serve_app import errors
from serve_app.api.access import bearer_token


class EmptyMessage(errors.InvalidAudio):
    """Neither audio nor the address of any."""


class BadWavHeader(errors.InvalidAudio):
    """It begins as a WAV file, but its header cannot be right."""


class NoSpeech(errors.AsrError):
    """Nobody spoke, which the flash API answers as an error."""


class UnsupportedSampleRate(errors.InvalidParameter):
    """A sample rate that no Aliyun model is for."""


@dataclass(frozen=True, slots=True)
class NlsCode:
    """How an error is told.

    Attributes:
        http: status of the answer.
        status: Aliyun's code.
        name: funasr-api's name for it.
        prefix: what Aliyun puts before the message.
    """

    http: int
    status: int
    name: str
    prefix: str = ""


_CODES: Mapping[type[errors.AsrError], NlsCode] = {
    errors.AsrError: NlsCode(400, 40000000, "DEFAULT_CLIENT_ERROR"),
    errors.Unauthenticated: NlsCode(400, 40000001, "AUTHENTICATION_FAILED", "Gateway:ACCESS_DENIED:"),
    EmptyMessage: NlsCode(400, 40000002, "INVALID_MESSAGE", "Gateway:MESSAGE_INVALID:"),
    errors.Conflict: NlsCode(400, 40000002, "INVALID_MESSAGE", "Gateway:MESSAGE_INVALID:"),
    errors.InvalidParameter: NlsCode(400, 40000003, "INVALID_PARAMETER", "Gateway:PARAMETER_INVALID:"),
    errors.NotFound: NlsCode(400, 40000003, "INVALID_PARAMETER", "Gateway:PARAMETER_INVALID:"),
    errors.Unsupported: NlsCode(400, 40000003, "INVALID_PARAMETER", "Gateway:PARAMETER_INVALID:"),
    errors.Overloaded: NlsCode(429, 40000005, "TOO_MANY_REQUESTS", "Gateway:TOO_MANY_REQUESTS:"),
    BadWavHeader: NlsCode(400, 40000009, "INVALID_PARAMETER"),
    errors.UnsupportedFormat: NlsCode(400, 40270001, "INVALID_PARAMETER"),
    NoSpeech: NlsCode(400, 40270002, "DEFAULT_CLIENT_ERROR"),
    errors.InvalidAudio: NlsCode(400, 40270003, "INVALID_PARAMETER"),
    errors.NoAudioTrack: NlsCode(400, 40270004, "INVALID_PARAMETER"),
    errors.DownloadFailed: NlsCode(400, 40270006, "INVALID_PARAMETER"),
    UnsupportedSampleRate: NlsCode(400, 41010101, "UNSUPPORTED_SAMPLE_RATE"),
    errors.UpstreamLost: NlsCode(503, 50000001, "INTERNAL_GRPC_ERROR"),
    errors.Internal: NlsCode(500, 50000000, "DEFAULT_SERVER_ERROR"),
}


def nls_code(error: errors.AsrError) -> NlsCode:
    """The codes of an error, or those of the nearest kind that has any."""
    return next(_CODES[cls] for cls in type(error).__mro__ if cls in _CODES)


def task_id(request: Request) -> str:
    """32 hexadecimal digits that name the request: its ``x-request-id`` where that is one, as in the log."""
    known: str | None = getattr(request.state, "task_id", None)
    if known is None:
        given = request.headers.get("x-request-id", "")
        known = given if re.fullmatch("[0-9a-f]{32}", given) else uuid.uuid4().hex
        request.state.task_id = known
    return known


def answer_error(request: Request, error: errors.AsrError) -> JSONResponse:
    """An error in the shape of ``/stream/v1``; the header ``task_id`` is there as in all answers."""
    code = nls_code(error)
    message = error.message
    if isinstance(error, errors.Unauthenticated):
        message = f"The token '{(bearer_token(request) or '')[:64]}' is invalid!"
    body: dict[str, Any] = {
        "task_id": task_id(request),
        "result": "",
        "status": code.status,
        "message": code.prefix + message,
        "error_code": code.name,
        "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "details": _details(error),
    }
    response = JSONResponse(body, code.http, {"task_id": task_id(request)})
    if isinstance(error, errors.Overloaded):
        response.headers["retry-after"] = f"{error.retry_after:.0f}"
    return response


def _details(error: errors.AsrError) -> dict[str, str]:
    param = error.param if isinstance(error, errors.InvalidParameter) else None
    return {} if param is None else {"param": param}
