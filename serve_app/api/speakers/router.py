"""``/v1/speakers``: named voices, by which transcripts name who speaks."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from serve_app.api.access import Client
from serve_app.api.jobs.objects import root_path
from serve_app.api.speakers.objects import (
    DeletedSpeaker,
    SpeakerList,
    SpeakerObject,
    SpeakerWithVoice,
    speaker_object,
    speaker_with_voice,
)
from serve_app.api.speakers.wire import enrollment_request, read_enrollment, speaker_errors
from serve_app.errors import InvalidParameter, NotFound
from serve_app.services import Services

SpeakerId = Annotated[str, Path(description="Id of the speaker.")]
Included = list[Literal["embedding"]] | None

_LOCATION = {"Location": {"description": "Path of the speaker.", "schema": {"type": "string"}}}
_CONFLICT = "The client has as many speakers as it may, or the name is known as that of another voice."


def speakers_router(services: Services) -> APIRouter:
    """Its routes, for clients with a valid key."""
    router = APIRouter(prefix="/v1/speakers", tags=["Speakers"])
    _add_enrollment(router, services)
    _add_reading(router, services)
    _add_deletion(router, services)
    return router


def _add_enrollment(router: APIRouter, services: Services) -> None:
    caller, max_bytes = Depends(services.access.admit), services.settings.max_audio_bytes

    @router.post(
        "",
        status_code=201,
        response_model=SpeakerObject,
        responses={
            201: {"description": "The speaker is known from now on.", "headers": _LOCATION},
            200: {
                "model": SpeakerObject,
                "description": "The speaker was known; the recordings are beside those before.",
                "headers": _LOCATION,
            },
            **speaker_errors(400, 413, 503, conflict=_CONFLICT),
        },
        openapi_extra=enrollment_request(),
    )
    async def enroll_speaker(request: Request, client: Annotated[Client, caller]) -> Response:
        """Learn a voice, of one recording or of several of the same person."""
        with services.transcriber.admit():
            async with read_enrollment(request, services.fetcher, max_bytes=max_bytes) as sent:
                speaker, is_new = await services.speakers.enroll(client.id, sent.name, sent.recordings)
        shown = speaker_object(speaker).model_dump()
        headers = {"location": f"{root_path(request)}/v1/speakers/{speaker.id}"}
        return JSONResponse(shown, 201 if is_new else 200, headers)


def _add_reading(router: APIRouter, services: Services) -> None:
    caller = Depends(services.access.admit)

    @router.get("", responses=speaker_errors(400))
    async def list_speakers(
        client: Annotated[Client, caller],
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: Annotated[str | None, Query(description="Id of the last speaker of the page before.")] = None,
        name: Annotated[str | None, Query(description="Only the speaker of this name.")] = None,
    ) -> SpeakerList:
        """The speakers of this client, from the newest to the oldest."""
        if after is not None:
            try:
                await services.speakers.get(client.id, after)
            except NotFound as error:
                raise InvalidParameter(error.message, "after") from error
        found = await services.speakers.list(client.id, limit=limit + 1, after=after, name=name)
        page = [speaker_object(speaker) for speaker in found[:limit]]
        return SpeakerList(
            data=page,
            first_id=page[0].id if page else None,
            last_id=page[-1].id if page else None,
            has_more=len(found) > limit,
        )

    @router.get("/{speaker_id}", responses=speaker_errors(400, 404))
    async def get_speaker(
        client: Annotated[Client, caller],
        speaker_id: SpeakerId,
        include: Annotated[Included, Query(alias="include[]")] = None,
        include_by_hand: Annotated[Included, Query(alias="include", include_in_schema=False)] = None,
    ) -> SpeakerWithVoice | SpeakerObject:
        """A speaker. Its voice as a vector, too, with `include[]=embedding` where the server allows it."""
        if not (include or include_by_hand):
            return speaker_object(await services.speakers.get(client.id, speaker_id))
        if not services.settings.expose_voiceprints:
            raise InvalidParameter("This server keeps voiceprints to itself.", "include[]")
        return speaker_with_voice(await services.speakers.get(client.id, speaker_id))


def _add_deletion(router: APIRouter, services: Services) -> None:
    caller = Depends(services.access.admit)

    @router.delete("/{speaker_id}", responses=speaker_errors(404))
    async def delete_speaker(client: Annotated[Client, caller], speaker_id: SpeakerId) -> DeletedSpeaker:
        """Forget a speaker, and the voice. Transcripts that were made before keep the name."""
        await services.speakers.delete(client.id, speaker_id)
        return DeletedSpeaker(id=speaker_id)
