"""What a client sends to enroll a speaker: a form with a name, and recordings as files or by URL."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO

from fastapi import Request
from pydantic import Field

from serve_app.api.openai.forms import Form
from serve_app.api.openai.reading import read_recording_form
from serve_app.api.openai.schema import ErrorBody, error_responses, form_properties
from serve_app.errors import InvalidParameter
from serve_app.fetching import Fetcher
from serve_app.speakers.names import MOST_CHARACTERS

MOST_RECORDINGS = 4
"""In one request."""

_LISTS = frozenset({"audio_address"})
_LONGEST_URL = 8192
_WITHOUT_RECORDING = (
    "A recording of the speaker is missing: send it as a file in the form field 'file', or its URL in "
    "'audio_address'."
)


class SpeakerForm(Form):
    """The fields beside ``file``."""

    name: str = Field(
        description=f"Who speaks: {MOST_CHARACTERS} characters at most. A name that is known already "
        "gets the recordings beside those that it has."
    )
    audio_address: list[Annotated[str, Field(max_length=_LONGEST_URL)]] = Field(
        default_factory=list,
        max_length=MOST_RECORDINGS,
        description="URL (http or https) of a recording, beside or in place of `file`.",
    )


@dataclass(frozen=True, slots=True)
class Enrollment:
    """What came in; the recordings are open files."""

    name: str
    recordings: tuple[BinaryIO, ...]


@asynccontextmanager
async def read_enrollment(request: Request, fetcher: Fetcher, *, max_bytes: int) -> AsyncIterator[Enrollment]:
    """Read a request; its recordings are closed on the way out.

    Args:
        max_bytes: of each recording.

    Raises:
        InvalidParameter: no form, a field that is not valid, no recording, or too many.
        DownloadFailed: a URL cannot be fetched.
        AudioTooLarge: a recording is larger than ``max_bytes``.
    """
    async with read_recording_form(request, max_bytes=max_bytes) as sent, AsyncExitStack() as fetched:
        form = SpeakerForm.parse(sent.fields(lists=_LISTS))
        recordings = sent.files("file")
        if len(recordings) + len(form.audio_address) > MOST_RECORDINGS:
            raise InvalidParameter(
                f"One request may bring {MOST_RECORDINGS} recordings; send more in others.", "file"
            )
        for url in form.audio_address:
            recordings.append(await fetched.enter_async_context(fetcher.fetch(url, param="audio_address")))
        if not recordings:
            raise InvalidParameter(_WITHOUT_RECORDING, "file")
        yield Enrollment(form.name, tuple(recordings))


def enrollment_request() -> dict[str, Any]:
    """The ``openapi_extra`` of ``POST /v1/speakers``, whose form FastAPI does not see."""
    fields = form_properties(SpeakerForm)
    fields["audio_address"]["items"] |= {"format": "uri"}
    files = {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "maxItems": MOST_RECORDINGS,
        "description": "Recordings of the speaker: of each, 60 s at most and 1 s of speech at least.",
    }
    upload = {
        "type": "object",
        "properties": {"file": files, **fields},
        "anyOf": [{"required": ["name", "file"]}, {"required": ["name", "audio_address"]}],
    }
    by_url = {"type": "object", "properties": fields, "required": ["name", "audio_address"]}
    schemas = {"multipart/form-data": upload, "application/x-www-form-urlencoded": by_url}
    content = {kind: {"schema": schema} for kind, schema in schemas.items()}
    return {"requestBody": {"required": True, "content": content}}


def speaker_errors(*statuses: int, conflict: str = "") -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route for its errors; ``conflict`` says when it answers 409."""
    declared = error_responses(*statuses)
    return {**declared, 409: {"model": ErrorBody, "description": conflict}} if conflict else declared
