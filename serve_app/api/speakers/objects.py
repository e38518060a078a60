"""What the routes of speakers answer with. Times are seconds since 1970 (UTC), as in OpenAI's objects."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from serve_app.speakers.types import EnrolledSpeaker


class SpeakerObject(BaseModel):
    """A named voice of this client."""

    id: str
    object: Literal["speaker"] = "speaker"
    name: str
    created_at: int
    recordings: int = Field(ge=1, description="Recordings that its voice was made of.")
    seconds: float = Field(ge=0, description="Speech in them.")
    model: str = Field(description="Fingerprint of the speaker model that made the voice.")
    usable: bool = Field(
        description="Whether that model is loaded. A voice of another model is not looked for: send its "
        "recordings again."
    )


class SpeakerWithVoice(SpeakerObject):
    """The same with `include[]=embedding`, where the server allows it."""

    embedding: list[float] = Field(description="The voice, as a vector of length 1.")


class SpeakerList(BaseModel):
    """A page of speakers, from the newest to the oldest."""

    object: Literal["list"] = "list"
    data: list[SpeakerObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedSpeaker(BaseModel):
    """What is left of a speaker that was deleted."""

    id: str
    object: Literal["speaker.deleted"] = "speaker.deleted"
    deleted: Annotated[Literal[True], Field()] = True


def speaker_object(speaker: EnrolledSpeaker) -> SpeakerObject:
    """``speaker`` for a client."""
    return SpeakerObject(
        id=speaker.id,
        name=speaker.name,
        created_at=int(speaker.created_at.timestamp()),
        recordings=speaker.recordings,
        seconds=round(speaker.seconds, 2),
        model=speaker.model,
        usable=speaker.usable,
    )


def speaker_with_voice(speaker: EnrolledSpeaker) -> SpeakerWithVoice:
    """``speaker`` for a client that may see vectors."""
    return SpeakerWithVoice(**speaker_object(speaker).model_dump(), embedding=speaker.voice.tolist())
