"""``/v1/audio/*`` and ``/v1/models``, as OpenAI's SDKs and curl users call them."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from serve_app.api.access import Client
from serve_app.api.hotwords import transcript_report
from serve_app.api.openai.answers import answer
from serve_app.api.openai.events import error_event, transcription_events
from serve_app.api.openai.reading import read_recording_form, recording
from serve_app.api.openai.schema import (
    error_responses,
    transcription_request,
    transcription_responses,
    translation_request,
)
from serve_app.api.openai.speakers import speaker_options
from serve_app.api.openai.wire import LIST_FIELDS, RequestForm, TranslationForm
from serve_app.api.sse import event_response
from serve_app.api.uploads import read_form
from serve_app.errors import Unsupported
from serve_app.models import ServedModel
from serve_app.services import Services, is_loaded


def openai_router(services: Services) -> APIRouter:
    """The OpenAI routes, under ``/v1``, for clients with a valid key."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"], dependencies=[Depends(services.access.admit)])
    _add_audio(router, services)
    _add_models(router, services)
    return router


def _add_audio(router: APIRouter, services: Services) -> None:
    settings, transcriber = services.settings, services.transcriber
    caller = Depends(services.access.admit)

    @router.post(
        "/audio/transcriptions",
        response_class=Response,
        responses=transcription_responses(),
        openapi_extra=transcription_request(),
    )
    async def create_transcription(request: Request, client: Annotated[Client, caller]) -> Response:
        """Transcribe a recording."""
        async with AsyncExitStack() as held:
            held.enter_context(transcriber.admit())
            sent = await held.enter_async_context(
                read_recording_form(request, max_bytes=settings.max_audio_bytes)
            )
            form = RequestForm.parse(sent.fields(LIST_FIELDS))
            options = form.checked_options(transcriber)
            options = replace(options, speakers=await speaker_options(services, client.id, form))
            source = await held.enter_async_context(recording(sent, form.audio_address, services.fetcher))
            if form.stream:
                events = transcription_events(transcriber, source, options, form)
                # From here on the place and the upload belong to the answer, which outlives this function.
                return await event_response(events, on_error=error_event, held=held.pop_all())
            transcript = await transcriber.transcribe(source, options)
        return answer(
            transcript,
            form.effective_format,
            form.granularities,
            form.logprobs,
            languages=bool(form.languages),
            speakers=options.speakers is not None,
            hotwords=transcript_report(transcriber.models, options, [transcript]),
            raw=form.raw_tags,
        )

    @router.post(
        "/audio/translations", responses=error_responses(400, 413), openapi_extra=translation_request()
    )
    async def create_translation(request: Request) -> None:
        """Translate a recording into English: no model that can is served here, so this is refused."""
        with transcriber.admit():
            async with read_form(request, max_bytes=settings.max_audio_bytes) as sent:
                TranslationForm.parse(sent.fields())
                sent.file("file")
        raise Unsupported(
            "None of the loaded models translates; POST /v1/audio/transcriptions gives the text in the "
            "language that is spoken."
        )


def _add_models(router: APIRouter, services: Services) -> None:
    @router.get("/models", responses=error_responses())
    async def list_models() -> dict[str, Any]:
        """The models that are served here."""
        states = await services.readiness()
        return {"object": "list", "data": [_model(model, states) for model in services.models]}

    @router.get("/models/{model_id:path}", responses=error_responses(404))
    async def get_model(model_id: str) -> dict[str, Any]:
        """One model."""
        model = services.models.find(model_id)
        return _model(model, await services.readiness())


def _model(model: ServedModel, states: Mapping[str, str]) -> dict[str, Any]:
    """OpenAI's own fields; then ISO codes of the languages that it recognizes, what it gives (see
    :data:`deployments.catalogue.Gift`), and whether it can take requests now."""
    return {
        "id": model.id,
        "object": "model",
        "created": 0,
        "owned_by": "asr-serve",
        "languages": [*model.languages],
        "capabilities": sorted(model.gives),
        "loaded": is_loaded(model, states),
    }
