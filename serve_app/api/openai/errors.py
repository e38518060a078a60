"""Errors as OpenAI's SDKs expect them, with the fields that clients of funasr-api look for beside them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from serve_app import errors

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
    app.add_exception_handler(ClientDisconnect, _client_gone)
    app.add_exception_handler(Exception, _fault)


def _envelope(
    request: Request,
    status: int,
    message: str,
    *,
    type_: str,
    code: str,
    peer_code: str,
    param: str | None = None,
) -> JSONResponse:
    body: dict[str, Any] = {
        "error": {"message": message, "type": type_, "param": param, "code": code},
        "error_code": peer_code,
        "message": message,
        "task_id": request.headers.get("x-request-id", ""),
        "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "details": {},
    }
    return JSONResponse(body, status)


async def _asr_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.AsrError)
    shape = next(_SHAPES[cls] for cls in type(error).__mro__ if cls in _SHAPES)
    response = _envelope(
        request,
        shape.status,
        error.message,
        type_=shape.type,
        code=shape.code,
        peer_code=shape.peer_code,
        param=error.param if isinstance(error, errors.InvalidParameter) else None,
    )
    if isinstance(error, errors.Overloaded):
        response.headers["retry-after"] = f"{error.retry_after:.0f}"
    if isinstance(error, errors.Unauthenticated):
        response.headers["www-authenticate"] = "Bearer"
    return response


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    address = f"{request.method} {request.url.path}"
    message = {404: f"Nothing answers to {address}.", 405: f"The server does not know {address}."}.get(
        error.status_code, f"{error.detail} ({address})."
    )
    response = _envelope(
        request,
        error.status_code,
        message,
        type_="invalid_request_error",
        code="not_found" if error.status_code == 404 else "invalid_request",
        peer_code="DEFAULT_CLIENT_ERROR",
    )
    response.headers.update(error.headers or {})
    return response


async def _client_gone(request: Request, error: Exception) -> Response:
    """Nobody is there to read it; 499 is what proxies log for a client that went away."""
    return Response(status_code=499)


async def _fault(request: Request, error: Exception) -> JSONResponse:
    logger.error("unexpected fault in %s %s", request.method, request.url.path, exc_info=error)
    response = await _asr_error(
        request, errors.Internal("The server met an unexpected fault; its log holds the details.")
    )
    # The official SDKs repeat a request after a 500, which for a long recording means two more uploads.
    response.headers["x-should-retry"] = "false"
    return response
