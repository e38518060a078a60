"""Errors as OpenAI's SDKs expect them, with the fields that clients of funasr-api look for beside them."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app import errors
from serve_app.activity import note_error

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class _Shape:
    status: int
    type: str
    code: str
    peer_code: str


_SHAPES: Mapping[type[errors.AsrError], _Shape] = {
    errors.UnsupportedFormat: _Shape(400, "invalid_request_error", "unsupported_format", "INVALID_PARAMETER"),
    errors.InvalidAudio: _Shape(400, "invalid_request_error", "invalid_audio", "INVALID_PARAMETER"),
    errors.AudioTooLarge: _Shape(413, "invalid_request_error", "audio_too_large", "INVALID_PARAMETER"),
    errors.InvalidParameter: _Shape(400, "invalid_request_error", "invalid_value", "INVALID_PARAMETER"),
    errors.Unauthenticated: _Shape(401, "authentication_error", "invalid_api_key", "AUTHENTICATION_FAILED"),
    errors.DownloadFailed: _Shape(400, "invalid_request_error", "download_failed", "INVALID_PARAMETER"),
    errors.Unsupported: _Shape(400, "invalid_request_error", "unsupported", "INVALID_PARAMETER"),
    errors.NotFound: _Shape(404, "invalid_request_error", "not_found", "INVALID_PARAMETER"),
    errors.Conflict: _Shape(409, "invalid_request_error", "conflict", "INVALID_PARAMETER"),
    errors.RateLimited: _Shape(429, "rate_limit_error", "rate_limit_exceeded", "TOO_MANY_REQUESTS"),
    errors.ModelNotFound: _Shape(404, "invalid_request_error", "model_not_found", "INVALID_PARAMETER"),
    errors.Overloaded: _Shape(429, "rate_limit_error", "overloaded", "TOO_MANY_REQUESTS"),
    errors.UpstreamLost: _Shape(503, "server_error", "model_unavailable", "DEFAULT_SERVER_ERROR"),
    errors.Internal: _Shape(500, "server_error", "internal_error", "DEFAULT_SERVER_ERROR"),
}


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of ``app`` in OpenAI's envelope, unknown paths and our own faults included."""
    app.add_exception_handler(errors.AsrError, _asr_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(ClientDisconnect, _client_gone)
    app.add_middleware(_Faults)


def error_object(error: errors.AsrError) -> dict[str, Any]:
    """An error as the ``error`` of OpenAI's envelope."""
    # All errors of the protocols that have OpenAI's envelope come by here.
    note_error(error)
    shape = _shape(error)
    param = error.param if isinstance(error, errors.InvalidParameter) else None
    return {"message": error.message, "type": shape.type, "param": param, "code": shape.code}


def error_response(request: Request, error: errors.AsrError) -> JSONResponse:
    """An error as an answer of its own, with the headers that tell the SDKs whether to try again."""
    shape = _shape(error)
    response = _envelope(request, shape.status, error_object(error), shape.peer_code)
    if isinstance(error, errors.Overloaded):
        response.headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, errors.Unauthenticated):
        response.headers["www-authenticate"] = "Bearer"
    if isinstance(error, errors.Overloaded | errors.UpstreamLost):
        del response.headers["x-should-retry"]
    return response


def _shape(error: errors.AsrError) -> _Shape:
    return next(_SHAPES[cls] for cls in type(error).__mro__ if cls in _SHAPES)


def _envelope(request: Request, status: int, error: Mapping[str, Any], peer_code: str) -> JSONResponse:
    body = {
        "error": error,
        "error_code": peer_code,
        "message": error["message"],
        "task_id": request.headers.get("x-request-id", ""),
        "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "details": {},
    }
    # The official SDKs repeat a request after some errors, which for a long recording means two more
    # uploads that end in the same way.
    return JSONResponse(body, status, {"x-should-retry": "false"})


async def _asr_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.AsrError)
    return error_response(request, error)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    """What FastAPI finds wrong with the parameters of a route, told as we tell it ourselves."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    # The first part says where the value was: in the path, the query, a header or the body.
    name = ".".join(str(part) for part in first["loc"][1:] if not isinstance(part, int))
    if first["type"] == "missing":
        message = f"The parameter {name!r} is missing." if name else "The body of the request is missing."
    elif name:
        message = f"The value {first['input']!r:.80} of {name!r} is not valid: {first['msg'].rstrip('.')}."
    else:
        message = f"The body of the request is not valid: {first['msg'].rstrip('.')}."
    return error_response(request, errors.InvalidParameter(message, name or None))


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    address = f"{request.method} {request.url.path}"
    message = {404: f"Nothing answers to {address}.", 405: f"The server does not know {address}."}.get(
        error.status_code, f"{error.detail} ({address})."
    )
    described = {
        "message": message,
        "type": "invalid_request_error",
        "param": None,
        "code": "not_found" if error.status_code == 404 else "invalid_request",
    }
    response = _envelope(request, error.status_code, described, "DEFAULT_CLIENT_ERROR")
    response.headers.update(error.headers or {})
    return response


async def _client_gone(request: Request, error: Exception) -> Response:
    """Nobody is there to read it; 499 is what proxies log for a client that went away."""
    return Response(status_code=499)


class _Faults:
    """Answers what nobody foresaw. A handler of Starlette's would stand outside of all middleware, so that
    such answers had neither a request id nor the headers that let a browser read them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noticing_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, noticing_send)
        except Exception as error:
            if started or scope["type"] != "http":
                raise
            request = Request(scope)
            logger.error("unexpected fault in %s %s", request.method, request.url.path, exc_info=error)
            fault = errors.Internal("The server met an unexpected fault; its log holds the details.")
            await error_response(request, fault)(scope, receive, send)
