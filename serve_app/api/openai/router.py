"""``/v1/audio/transcriptions`` and ``/v1/models``, as OpenAI's SDKs and curl users call them."""

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from serve_app.api.openai.wire import TranscriptionForm, openapi_request_body
from serve_app.api.uploads import read_form
from serve_app.audio.decode import RawPcm
from serve_app.errors import InvalidParameter, ModelNotFound
from serve_app.pipeline.types import Transcript
from serve_app.rendering import openai as render
from serve_app.rendering import subtitles
from serve_app.services import Services
from serve_app.transcriber import TranscriptionOptions


def openai_router(services: Services) -> APIRouter:
    """The OpenAI routes, under ``/v1``, for clients with a valid key."""
    settings, transcriber = services.settings, services.transcriber
    router = APIRouter(prefix="/v1", tags=["OpenAI"], dependencies=[Depends(services.access.admit)])
    model = {"id": settings.model_name, "object": "model", "created": 0, "owned_by": "asr-serve"}

    @router.post("/audio/transcriptions", openapi_extra=openapi_request_body())
    async def create_transcription(request: Request) -> Response:
        """Transcribe a recording."""
        with transcriber.admit():
            async with read_form(request, max_bytes=settings.max_audio_bytes) as form:
                options = TranscriptionForm.parse(form.fields(lists={"timestamp_granularities"}))
                if options.stream:
                    raise InvalidParameter(
                        "Streaming answers (stream=true) are not supported by this server.", "stream"
                    )
                raw = RawPcm(options.sample_rate) if options.format == "pcm" else None
                transcript = await transcriber.transcribe(
                    form.file("file"), TranscriptionOptions(raw=raw, language=options.language)
                )
        return _render(transcript, options)

    @router.get("/models")
    async def list_models() -> dict[str, Any]:
        """The models that are served here."""
        return {"object": "list", "data": [model]}

    @router.get("/models/{model_id:path}")
    async def get_model(model_id: str) -> dict[str, Any]:
        """One model."""
        if model_id != settings.model_name:
            raise ModelNotFound(
                f"The model {model_id!r} does not exist here; GET /v1/models lists those that do."
            )
        return model

    return router


def _render(transcript: Transcript, options: TranscriptionForm) -> Response:
    match options.effective_format:
        case "json":
            return JSONResponse(render.json_body(transcript))
        case "verbose_json":
            granularities = options.timestamp_granularities or render.DEFAULT_GRANULARITIES
            return JSONResponse(render.verbose_json_body(transcript, granularities))
        case "text":
            return PlainTextResponse(render.text_body(transcript))
        case "srt":
            return PlainTextResponse(subtitles.srt(transcript))
        case "vtt":
            return PlainTextResponse(subtitles.vtt(transcript), media_type="text/vtt")
