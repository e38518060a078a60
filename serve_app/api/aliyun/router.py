"""Aliyun's and funasr-api's HTTP routes, under ``/stream/v1``."""

import time
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from deployments.model_store import ModelMissing, find_model
from serve_app.api.access import Client, bearer_token
from serve_app.api.aliyun.errors import NoSpeech, answer_error, task_id
from serve_app.api.aliyun.recording import Recording, open_recording, shared, together
from serve_app.api.aliyun.wire import AsrQuery, FlashQuery, RecordingQuery, openapi_query, parse
from serve_app.api.protocol import answering
from serve_app.errors import ModelNotFound
from serve_app.pipeline.types import Transcript
from serve_app.rendering import aliyun as render
from serve_app.services import READY, Services
from serve_app.transcriber import TranscriptionOptions

_ANY_MODEL = ("default", "string")
"""What Swagger's forms and lazy clients send for "whichever"."""


def aliyun_router(services: Services) -> APIRouter:
    """The routes of ``/stream/v1``, for clients with a valid key."""
    router = APIRouter(
        prefix="/stream/v1",
        tags=["Aliyun"],
        dependencies=[Depends(services.access.admit)],
        route_class=answering(answer_error),
    )
    recordings = _Recordings(services)
    caller = Depends(services.access.admit)

    @router.post("/asr", openapi_extra=openapi_query(AsrQuery))
    async def recognize(request: Request, client: Annotated[Client, caller]) -> JSONResponse:
        """Transcribe the audio in the body, or behind `audio_address`."""
        return await recordings.recognize(request, client)

    @router.get("/asr", openapi_extra=openapi_query(AsrQuery, body=False))
    async def recognize_address(request: Request, client: Annotated[Client, caller]) -> JSONResponse:
        """Transcribe the audio behind `audio_address`."""
        return await recordings.recognize(request, client)

    @router.post("/FlashRecognizer", openapi_extra=openapi_query(FlashQuery))
    async def recognize_file(request: Request, client: Annotated[Client, caller]) -> JSONResponse:
        """Transcribe a file, each channel of a telephone call by itself."""
        return await recordings.flash(request, client)

    @router.get("/asr/models")
    async def list_models() -> dict[str, Any]:
        """The recognition models, as both generations of funasr-api list them."""
        return _models(services, await services.readiness())

    @router.get("/asr/health")
    async def health() -> dict[str, Any]:
        """Whether recordings can be recognized now."""
        return _health(services, await services.readiness())

    return router


class _Recordings:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.settings
        self._transcriber = services.transcriber
        self._speakers = services.speakers

    async def recognize(self, request: Request, client: Client) -> JSONResponse:
        begin = time.perf_counter()
        query = parse(AsrQuery, request.query_params)
        self._check_model(query.model_id)
        official = _is_official(request, query)
        punctuation = query.enable_punctuation_prediction
        text = query.text_options(
            official=official,
            punctuation=not official if punctuation is None else punctuation,
            drop_fillers=query.disfluency,
        )
        with self._transcriber.admit():
            # Clients of Aliyun's get what they know, unless they ask for more.
            speakers = await self._speakers.options(
                client.id, wanted=query.enable_speaker_diarization, shown=not official
            )
            async with open_recording(request, query, self._services) as recording:
                options = TranscriptionOptions(
                    raw=recording.raw,
                    text=text,
                    hotwords=query.hotwords,
                    speech_noise_threshold=query.speech_noise_threshold,
                    speakers=speakers,
                )
                transcript = await self._transcriber.transcribe(recording.source, options)
        body = render.recognition_body(
            transcript,
            task_id=task_id(request),
            status=self._settings.aliyun_success_status,
            lines=not official,
            words=query.word_timestamps,
            seconds=time.perf_counter() - begin,
        )
        return JSONResponse(body, headers={"task_id": task_id(request)})

    async def flash(self, request: Request, client: Client) -> JSONResponse:
        begin = time.perf_counter()
        query = parse(FlashQuery, request.query_params)
        with self._transcriber.admit():
            speakers = await self._speakers.options(
                client.id, wanted=query.enable_speaker_diarization, shown=False
            )
            async with open_recording(request, query, self._services) as recording:
                options = TranscriptionOptions(
                    raw=recording.raw,
                    text=query.text_options(official=_is_official(request, query)),
                    hotwords=query.hotwords,
                    speech_noise_threshold=query.speech_noise_threshold,
                    speakers=speakers,
                )
                transcripts = await self._channels(recording, query.first_channel_only, options)
        if not any(transcript.sentences for transcript in transcripts):
            raise NoSpeech("vad silent")
        body = render.flash_body(
            transcripts,
            task_id=task_id(request),
            words=query.enable_word_level_result,
            seconds=time.perf_counter() - begin,
        )
        return JSONResponse(body, headers={"task_id": task_id(request)})

    async def _channels(
        self, recording: Recording, first_only: bool | None, options: TranscriptionOptions
    ) -> list[Transcript]:
        info = recording.info
        if first_only is None:
            first_only = info.sample_rate != 8000
        count = 1 if first_only else info.channels
        readers = shared(recording.source, count)

        async def transcribe(channel: int) -> Transcript:
            of_channel = replace(options, channel=channel if info.channels > 1 else None)
            in_flight = max(1, self._settings.segments_in_flight // count)
            async with self._transcriber.open(readers[channel], of_channel, in_flight=in_flight) as work:
                return await work.transcript()

        return await together(transcribe(channel) for channel in range(count))

    def _check_model(self, name: str | None) -> None:
        """Other names of the same kind of model are taken for it: clients of funasr-api send its own."""
        served = self._settings.model_name
        if name not in (None, served, *_ANY_MODEL) and not name.lower().startswith("paraformer"):
            raise ModelNotFound(
                f"The model {name!r} is not loaded here; {served!r} is. Leave model_id out to use it."
            )


def _is_official(request: Request, query: RecordingQuery) -> bool:
    """Whether a client of Aliyun's is calling, who knows Aliyun's defaults."""
    return query.appkey is not None or bearer_token(request) is not None


def _is_ready(states: dict[str, str]) -> bool:
    return bool(states) and all(state == READY for state in states.values())


def _health(services: Services, states: dict[str, str]) -> dict[str, Any]:
    ready, loaded = _is_ready(states), states.get("Paraformer") == READY
    missing = ", ".join(f"{name} is {state}" for name, state in states.items() if state != READY)
    device = services.settings.device
    return {
        "status": "healthy" if ready else "unhealthy",
        "model_loaded": loaded,
        # Where a replica runs only the replica knows, if it may choose.
        "device": "unknown" if device == "auto" else device,
        "version": version("asr-serve"),
        "message": "All models are ready."
        if ready
        else f"Not all models are ready: {missing or 'none runs'}.",
        "loaded_models": [services.settings.model_name] if loaded else [],
        "memory_usage": None,
    }


def _models(services: Services, states: dict[str, str]) -> dict[str, Any]:
    settings = services.settings
    loaded = [settings.model_name] if states.get("Paraformer") == READY else []
    live = states.get("ParaformerStreaming") == READY
    shared_fields = {
        "id": settings.model_name,
        "name": settings.model_name,
        "engine": "paraformer",
        "description": "Paraformer: Chinese, with English words in it; files and live speech.",
        "languages": ["zh", "en"],
        "default": True,
        "supports_realtime": live,
        "offline_model": _model_files(services, settings.paraformer_model),
        "realtime_model": _model_files(services, settings.paraformer_streaming_model),
    }
    return {
        "models": [{**shared_fields, "loaded": bool(loaded), "asr_model_mode": "all"}],
        "total": 1,
        "loaded_count": len(loaded),
        "asr_model_mode": "all",
        "declared_entries": [{**shared_fields, "kind": "model"}],
        "declared_count": 1,
        "runtime": {
            "loaded_model_ids": loaded,
            "loaded_count": len(loaded),
            "default_offline_model_id": settings.model_name,
        },
    }


def _model_files(services: Services, reference: str) -> dict[str, Any]:
    exists = False
    with suppress(ModelMissing):
        find_model(reference, services.settings.modelscope_path)
        exists = True
    return {"path": reference, "exists": exists}
