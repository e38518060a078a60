"""The small HTTP servers of FunASR: ``/recognition``, ``/asr``, ``/health``; ``POST /`` is in ``root.py``.

Their sources: ``runtime/python/http/server.py``, ``funasr/bin/_server_app.py`` and ``runtime/http`` in
https://github.com/modelscope/FunASR.
"""

import time
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from serve_app.api.access import Client
from serve_app.api.funasr import replies
from serve_app.api.funasr.http_errors import detail_error, recognition_error
from serve_app.api.hotwords import hotword_fields, transcript_report
from serve_app.api.protocol import answering
from serve_app.api.uploads import read_form
from serve_app.errors import InvalidParameter
from serve_app.pipeline.finishing import TextOptions, parse_corrections
from serve_app.pipeline.hotwords_parsing import separated_words
from serve_app.pipeline.types import Sentence, Transcript
from serve_app.rendering.openai import CONFIDENCE_DIGITS
from serve_app.rendering.tones import language_of, tone_of
from serve_app.services import READY, Services, is_loaded
from serve_app.transcriber import TranscriptionOptions


class AsrForm(BaseModel):
    """The fields of ``POST /asr`` beside ``file``. Unknown ones are ignored."""

    model_config = ConfigDict(extra="ignore")

    model: str = ""
    language: str | None = None
    hotwords: str = Field("", validation_alias=AliasChoices("hotwords", "hotword"))
    corrections: list[str] = []
    spk: bool = False

    def options(self) -> TranscriptionOptions:
        """Raises :class:`InvalidParameter`."""
        try:
            corrections = parse_corrections(self.corrections)
        except ValueError as error:
            raise InvalidParameter(str(error), "corrections") from error
        try:
            listed = separated_words(self.hotwords)
        except ValueError as error:
            reason = str(error).rstrip(".")
            raise InvalidParameter(
                f"The value {self.hotwords!r:.80} of 'hotwords' is not valid: {reason}.", "hotwords"
            ) from error
        text = TextOptions(itn=True, corrections=(*corrections, *listed.corrections))
        return TranscriptionOptions(language=self.language, text=text, hotwords=listed.words)


def funasr_http_router(services: Services) -> APIRouter:
    """Its routes, for clients with a valid key; ``/health`` is for everybody."""
    router = APIRouter(tags=["FunASR"])
    for route in (_recognition(services), _asr(services), _health(services)):
        router.include_router(route)
    return router


async def transcribe_upload(
    services: Services, request: Request, field: str, client: Client, *, shows_speakers: bool = False
) -> tuple[Transcript, dict[str, Any]]:
    """The recording in a form's ``field``, with the options in its other fields, and what the answer says of
    hotwords.

    ``shows_speakers``: whether the answer has a place for them.

    Raises:
        AsrError: see :mod:`serve_app.errors`.
    """
    with services.transcriber.admit():
        async with read_form(request, max_bytes=services.settings.max_audio_bytes) as form:
            fields = form.fields(lists={"corrections"})
            try:
                asked = AsrForm.model_validate(fields)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                name = str(first["loc"][0])
                raise InvalidParameter(
                    f"The value {first['input']!r:.80} of {name!r} is not valid: {first['msg']}.", name
                ) from error
            options = asked.options()
            speakers = await services.speakers.options(
                client.id, wanted=asked.spk and shows_speakers, shown=False, param="spk"
            )
            model = services.models.meant(asked.model)
            options = replace(options, model=model.id, speakers=speakers)
            transcript = await services.transcriber.transcribe(form.file(field), options)
            return transcript, hotword_fields(transcript_report(services.models, options, [transcript]))


def upload_schema(field: str, *options: str) -> dict[str, Any]:
    """What Swagger shows for a form, since it is parsed while it streams in and not by FastAPI."""
    properties = {field: {"type": "string", "format": "binary"}}
    known = AsrForm.model_json_schema()["properties"]
    schema = {
        "type": "object",
        "required": [field],
        "properties": {**properties, **{name: known[name] for name in options}},
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def offline_reply(transcript: Transcript) -> replies.Reply:
    """``POST /``: what the offline WebSocket replies; this server says ``is_final`` false, always."""
    text = replies.spaced(transcript.text)
    return {
        **replies.result("offline", text, final=False, words=transcript.words),
        "wav_name": "wav-default-id",
    }


def _recognition(services: Services) -> APIRouter:
    router = APIRouter(
        dependencies=[Depends(services.access.admit)], route_class=answering(recognition_error)
    )
    caller = Depends(services.access.admit)

    @router.post("/recognition", openapi_extra=upload_schema("audio", "model", "hotwords"))
    async def recognition(request: Request, client: Annotated[Client, caller]) -> dict[str, Any]:
        """Transcribe a recording; times in milliseconds."""
        transcript, hotwords = await transcribe_upload(services, request, "audio", client)
        sentences = [
            {
                "text": sentence.text,
                "start": replies.milliseconds(sentence.begin),
                "end": replies.milliseconds(sentence.end),
                **tone_of(sentence),
            }
            for sentence in transcript.sentences
        ]
        return {"text": transcript.text, "sentences": sentences, "code": 0, **hotwords}

    return router


def _asr(services: Services) -> APIRouter:
    router = APIRouter(dependencies=[Depends(services.access.admit)], route_class=answering(detail_error))
    caller = Depends(services.access.admit)

    @router.post(
        "/asr", openapi_extra=upload_schema("file", "model", "language", "hotwords", "corrections", "spk")
    )
    async def asr(request: Request, client: Annotated[Client, caller]) -> dict[str, Any]:
        """Transcribe a recording; times in seconds."""
        begin = time.perf_counter()
        transcript, hotwords = await transcribe_upload(services, request, "file", client, shows_speakers=True)
        seconds = time.perf_counter() - begin
        return {
            "text": transcript.text,
            "segments": [_segment(sentence) for sentence in transcript.sentences],
            "duration": round(transcript.duration, 3),
            "processing_time": round(seconds, 3),
            "rtf": round(seconds / transcript.duration, 4),
            **language_of(transcript),
            **hotwords,
        }

    return router


def _segment(sentence: Sentence) -> dict[str, Any]:
    segment: dict[str, Any] = {
        "text": sentence.text,
        "start": round(sentence.begin, 3),
        "end": round(sentence.end, 3),
        "words": [
            {"word": word.text, "start": round(word.begin, 3), "end": round(word.end, 3)}
            for word in sentence.words
        ],
    }
    if sentence.speaker:
        # FunASR's speakers are numbers, from 0; the other two are named as in its live results.
        segment["speaker"] = sentence.speaker.number - 1
        segment["spk_name"] = sentence.speaker.label
        segment["spk_score"] = round(sentence.speaker.confidence, CONFIDENCE_DIGITS)
    return segment | tone_of(sentence)


def _health(services: Services) -> APIRouter:
    router = APIRouter()

    @router.get("/health")
    async def health() -> JSONResponse:
        """200 once recordings can be recognized, else 503."""
        states = await services.readiness()
        ready = bool(states) and all(state == READY for state in states.values())
        loaded = [model.id for model in services.models if is_loaded(model, states)]
        device = services.settings.device
        body = {
            "status": "ok" if ready else "not ready",
            # Where a replica runs only the replica knows, if it may choose.
            "device": "unknown" if device == "auto" else device,
            "models_loaded": loaded,
        }
        return JSONResponse(body, 200 if ready else 503)

    return router
