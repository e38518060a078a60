"""What a client sends to order a job: a form with the recording, or JSON with its URL."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, Literal

import httpx
from fastapi import Request
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import from_json

from serve_app.api.openai.reading import read_recording_form
from serve_app.api.openai.wire import LIST_FIELDS, TranscriptionForm
from serve_app.api.uploads import UploadForm, spool_body
from serve_app.errors import InvalidParameter

_MAX_JSON_BYTES = 1 << 20
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
_LONGEST_NAME = 255
_URL_ALIASES = ("audio_address", "audio_url")


def _web_address(url: str) -> str:
    url = url.strip()
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError("it cannot be read as a URL") from error
    if parsed.scheme not in ("http", "https"):
        raise ValueError("it must begin with http:// or https://")
    if not parsed.host:
        raise ValueError("it names no host")
    if parsed.userinfo:
        raise ValueError("it holds a user name or password, which is not taken; sign the URL instead")
    return url


def _object(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        found = from_json(value, allow_inf_nan=False)
    except ValueError as error:
        raise ValueError("it must be a JSON object of strings") from error
    if not isinstance(found, dict):
        raise ValueError("it must be a JSON object of strings")
    return found


WebAddress = Annotated[str, Field(max_length=8192), AfterValidator(_web_address)]
Metadata = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]


class JobForm(TranscriptionForm):
    """The fields of a transcription, and those of its job."""

    url: WebAddress | None = Field(
        None,
        description="URL (http or https) of the recording, in place of `file`. `audio_address` and "
        "`audio_url` mean the same.",
    )
    channels: Literal["mix", "split", "speakers"] = Field(
        "mix",
        description="`split`: transcribe each channel by itself; `speakers`: the same, and each channel is "
        "one speaker; `mix`: their mean.",
    )
    webhook_url: WebAddress | None = Field(None, description="Is sent a signed POST when the job has ended.")
    webhook_secret: Annotated[str, Field(min_length=16, max_length=256)] | None = Field(
        None, description="Signs what is sent to `webhook_url`; default: the server's own secret."
    )
    metadata: Annotated[Metadata, BeforeValidator(_object)] = Field(
        default_factory=dict,
        description="Comes back with the job: 16 entries at most, keys of 64 and values of 512 characters.",
    )

    @property
    def by_channel(self) -> bool:
        return self.channels == "speakers"

    @property
    def shows_times(self) -> bool:
        # As with speakers, and nobody waits for a job.
        return True

    @property
    def shows_speakers(self) -> bool:
        # Its result may be asked for in any format later on.
        return self.response_format not in ("json", "text")

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "JobForm":
        """Read fields, and see that they belong together.

        Raises:
            InvalidParameter: naming the first bad one.
        """
        form = cls.parse(_one_url(_with_metadata(fields)))
        if form.stream:
            raise InvalidParameter(
                "A job is not answered with a stream; GET /v1/jobs/{id}/events tells of its progress.",
                "stream",
            )
        if form.raw_tags:
            raise InvalidParameter(
                "A job does not keep the model's tags; POST /v1/audio/transcriptions gives them.", "raw_tags"
            )
        if form.webhook_secret is not None and form.webhook_url is None:
            raise InvalidParameter("A webhook_secret needs a webhook_url.", "webhook_url")
        return form


@dataclass(frozen=True, slots=True)
class Order:
    """What came in. ``recording`` is an open file, ``None`` where ``form.url`` tells where it is."""

    form: JobForm
    recording: BinaryIO | None = None
    filename: str | None = None


@asynccontextmanager
async def read_order(request: Request, *, max_bytes: int) -> AsyncIterator[Order]:
    """Read a request for a job; the recording is closed on the way out.

    Args:
        max_bytes: of the recording.

    Raises:
        InvalidParameter: neither a form nor JSON, a field that is not valid, no recording, or two.
        AudioTooLarge: it is larger than ``max_bytes``.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        async with spool_body(request, max_bytes=_MAX_JSON_BYTES) as body:
            form = JobForm.of(_fields(body.read()))
        if form.url is None:
            raise InvalidParameter("The field 'url' with the address of the recording is missing.", "url")
        yield Order(form)
    elif kind in _FORMS:
        async with read_recording_form(request, max_bytes=max_bytes) as sent:
            yield _from_form(sent)
    else:
        raise InvalidParameter(
            "The content type must be multipart/form-data, for an upload, or application/json, for a URL; "
            + (f"this request has {kind!r:.80}." if kind else "this request has none.")
        )


def _from_form(sent: UploadForm) -> Order:
    form = JobForm.of(sent.fields(lists=LIST_FIELDS))
    if form.url is None:
        return Order(form, sent.file("file"), _filename(sent))
    if sent.filename("file") is not None:
        raise InvalidParameter("Send either a file or a URL, not both.", "url")
    return Order(form)


def _filename(sent: UploadForm) -> str | None:
    name = (sent.filename("file") or "").replace("\\", "/").rpartition("/")[2]
    return name.encode("utf-8", "replace").decode()[:_LONGEST_NAME] or None


def _fields(body: bytes) -> dict[str, Any]:
    """A JSON object as the fields of a form: what is ``null`` was not sent, ``false`` is a word."""
    try:
        found = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidParameter(f"The body is not valid JSON: {error}.") from error
    if not isinstance(found, dict):
        raise InvalidParameter("The body must be a JSON object.")
    return {name: _field(value) for name, value in found.items() if value is not None}


def _field(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, bool | int | float) else value


def _with_metadata(fields: Mapping[str, Any]) -> dict[str, Any]:
    """``metadata[key]`` as ``key`` of an object ``metadata``."""
    entries: dict[str, Any] = {}
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if name.startswith("metadata[") and name.endswith("]"):
            entries[name[len("metadata[") : -1]] = value
        else:
            found[name] = value
    if entries and "metadata" in found:
        raise InvalidParameter("Send either metadata or metadata[key], not both.", "metadata")
    return {**found, "metadata": entries} if entries else found


def _one_url(fields: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(fields)
    given = [found.pop(name) for name in _URL_ALIASES if found.get(name)]
    if found.get("url"):
        given.append(found["url"])
    if any(url != given[0] for url in given):
        raise InvalidParameter("Send one URL: 'audio_address' and 'audio_url' are other names of it.", "url")
    return {**found, "url": given[0]} if given else found
