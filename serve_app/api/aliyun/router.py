"""Aliyun's and funasr-api's HTTP routes, under ``/stream/v1``."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from serve_app.api.access import Client, bearer_token
from serve_app.api.aliyun.catalogue import health_body, models_body
from serve_app.api.aliyun.errors import NoSpeech, answer_error, task_id
from serve_app.api.aliyun.recording import Recording, open_recording, shared, together
from serve_app.api.aliyun.wire import AsrQuery, FlashQuery, RecordingQuery, openapi_query, parse
from serve_app.api.hotwords import AskedWords, hotword_fields, transcript_report
from serve_app.api.protocol import answering
from serve_app.pipeline.types import Transcript
from serve_app.rendering import aliyun as render
from serve_app.rendering.tones import raw_text
from serve_app.services import Services
from serve_app.transcriber import TranscriptionOptions


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
        return models_body(services, await services.readiness())

    @router.get("/asr/health")
    async def health() -> dict[str, Any]:
        """Whether recordings can be recognized now."""
        return health_body(services, await services.readiness())

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
        model = self._transcriber.models.find(query.model_id or "")
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
                    language=query.language,
                    raw=recording.raw,
                    text=text,
                    hotwords=query.hotwords,
                    model=model.id,
                    # Clients of Aliyun's are told the text only.
                    word_times=not official,
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
        more = self._hotwords(query, options, [transcript]) | _raw(query, [transcript])
        return JSONResponse({**body, **more}, headers={"task_id": task_id(request)})

    async def flash(self, request: Request, client: Client) -> JSONResponse:
        begin = time.perf_counter()
        query = parse(FlashQuery, request.query_params)
        model = self._transcriber.models.find(query.model or "")
        with self._transcriber.admit():
            speakers = await self._speakers.options(
                client.id, wanted=query.enable_speaker_diarization, shown=False
            )
            async with open_recording(request, query, self._services) as recording:
                options = TranscriptionOptions(
                    language=query.language,
                    raw=recording.raw,
                    text=query.text_options(official=_is_official(request, query)),
                    hotwords=query.hotwords,
                    model=model.id,
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
        more = self._hotwords(query, options, transcripts) | _raw(query, transcripts)
        return JSONResponse({**body, **more}, headers={"task_id": task_id(request)})

    def _hotwords(
        self, query: RecordingQuery, options: TranscriptionOptions, transcripts: Sequence[Transcript]
    ) -> dict[str, Any]:
        lists = AskedWords.of(query.vocabulary_id).lists
        return hotword_fields(transcript_report(self._transcriber.models, options, transcripts, lists))

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


def _raw(query: RecordingQuery, transcripts: Sequence[Transcript]) -> dict[str, Any]:
    """What the model wrote, if it is asked for; each channel on a line of its own."""
    return {"raw_text": "\n".join(map(raw_text, transcripts))} if query.raw_tags else {}


def _is_official(request: Request, query: RecordingQuery) -> bool:
    """Whether a client of Aliyun's is calling, who knows Aliyun's defaults."""
    return query.appkey is not None or bearer_token(request) is not None
