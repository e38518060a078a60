"""``/``, where three protocols meet: an index, Aliyun's file transcription, FunASR's C++ HTTP server.

(The fourth, FunASR's WebSocket, is another kind of request.)
"""

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from serve_app.api.aliyun import filetrans
from serve_app.api.funasr.http import offline_reply, transcribe_upload, upload_schema
from serve_app.api.funasr.http_errors import offline_error
from serve_app.api.protocol import answering
from serve_app.errors import AsrError
from serve_app.services import Services

_ENDPOINTS = {
    "transcriptions": "POST /v1/audio/transcriptions",
    "models": "GET /v1/models",
    "jobs": "POST /v1/jobs",
    "speakers": "POST /v1/speakers",
    "aliyun_asr": "POST /stream/v1/asr",
    "aliyun_flash": "POST /stream/v1/FlashRecognizer",
    "aliyun_file_transcription": "POST /?Action=SubmitTask",
    "funasr_live": "WebSocket /",
    "qwen3_live": "WebSocket /ws/v1/asr/qwen",
    "funasr_recognition": "POST /recognition",
    "live_test_page": "GET /ws/v1/asr/test",
    "health": "GET /healthz",
    "readiness": "GET /readyz",
    "documentation": "GET /docs",
}


def root_router(services: Services) -> APIRouter:
    """``GET /`` and ``POST /``. The index is for everybody, all else for clients with a valid key."""
    router = APIRouter(route_class=answering(_answer_error))
    files = filetrans.FileTranscription(services)
    action = {"name": "Action", "in": "query", "schema": {"type": "string"}}

    @router.get("/", tags=["Aliyun"], openapi_extra={"parameters": [action]})
    async def index(request: Request) -> Response:
        """What is served here; with `Action`, Aliyun's file transcription."""
        if "Action" in request.query_params:
            return await files.answer(request)
        return JSONResponse(_index())

    @router.post("/", tags=["FunASR", "Aliyun"], openapi_extra=upload_schema("file", "hotwords"))
    async def transcribe(request: Request) -> Response:
        """Transcribe a form's file as FunASR's C++ server does; with `Action`, file transcription."""
        if not _is_upload(request):
            return await files.answer(request)
        async with services.access.serve(request) as client:
            transcript, hotwords = await transcribe_upload(services, request, "file", client)
            return JSONResponse({**offline_reply(transcript), **hotwords})

    return router


def _is_upload(request: Request) -> bool:
    kind = request.headers.get("content-type", "").lower()
    return kind.startswith("multipart/form-data") and "Action" not in request.query_params


def _answer_error(request: Request, error: AsrError) -> JSONResponse:
    shape = offline_error if _is_upload(request) else filetrans.answer_error
    return shape(request, error)


def _index() -> dict[str, Any]:
    return {
        "message": "asr-serve is running.",
        "version": version("asr-serve"),
        "description": "Speech recognition over a Ray Serve graph of FunASR and Qwen3-ASR models.",
        "endpoints": _ENDPOINTS,
    }
