"""Errors of FunASR's HTTP servers, each in the shape that its own clients read."""

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from serve_app import errors
from serve_app.api.funasr import replies

_HTTP: Mapping[type[errors.AsrError], int] = {
    errors.AsrError: 400,
    errors.Unauthenticated: 401,
    errors.NotFound: 404,
    errors.AudioTooLarge: 413,
    errors.Overloaded: 429,
    errors.UpstreamLost: 503,
    errors.Internal: 500,
}

_UNREADABLE = "读取音频文件发生错误"
_UNKNOWN = "未知错误"


def recognition_error(request: Request, error: errors.AsrError) -> JSONResponse:
    """``POST /recognition``: audio that cannot be read is an answer with the HTTP status 200 and code 1.

    ``detail`` is added: the sentence that says what was wrong.
    """
    if isinstance(error, errors.InvalidAudio):
        return JSONResponse({"msg": _UNREADABLE, "code": 1, "detail": error.message})
    return _answer(error, {"msg": _UNKNOWN, "code": -1, "detail": error.message})


def detail_error(request: Request, error: errors.AsrError) -> JSONResponse:
    """``POST /asr``: FastAPI's own shape, which that server is made with."""
    return _answer(error, {"detail": error.message})


def offline_error(request: Request, error: errors.AsrError) -> JSONResponse:
    """``POST /``: an offline result without text, as over the WebSocket."""
    return _answer(error, replies.failure("offline", error))


def _answer(error: errors.AsrError, body: dict[str, Any]) -> JSONResponse:
    response = JSONResponse(body, next(_HTTP[cls] for cls in type(error).__mro__ if cls in _HTTP))
    if isinstance(error, errors.Overloaded):
        response.headers["retry-after"] = f"{error.retry_after:.0f}"
    if isinstance(error, errors.Unauthenticated):
        response.headers["www-authenticate"] = "Bearer"
    return response
