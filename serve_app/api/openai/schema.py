"""What the OpenAPI document says of the ``/v1`` routes, whose forms FastAPI does not see.

They are read while they stream in, after a place is free for their file.
"""

from typing import Any

from pydantic import BaseModel

from serve_app.api.openai.chunking import ChunkingStrategy
from serve_app.api.openai.wire import LIST_FIELDS, RequestForm, TranslationForm

_FORM = "multipart/form-data"
_URL_ENCODED = "application/x-www-form-urlencoded"

_ERRORS = {
    400: "What was sent cannot be taken: a parameter (`param` names it), or the audio.",
    401: "The API key is missing or wrong.",
    404: "There is nothing of that name.",
    413: "The upload, or what it decodes to, is too large.",
    429: "The server is full, or the client sends more than its share; `retry-after` says when to try again.",
    503: "A model was lost while it worked on this; the same request may be sent again.",
}


class ErrorObject(BaseModel):
    """OpenAI's own fields."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """OpenAI's envelope, with the fields of funasr-api beside it."""

    error: ErrorObject
    error_code: str
    message: str
    task_id: str
    timestamp: str
    details: dict[str, Any]


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route, for the errors that it answers beside those of any route."""
    declared: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": _ERRORS[status]} for status in (*statuses, 401, 429)
    }
    # With this, FastAPI does not add its own 422, which is never sent.
    return {**declared, "4XX": {"model": ErrorBody, "description": "Another error of the request."}}


def transcription_responses() -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a transcription: all formats, and all errors."""
    answers = {
        "application/json": {"schema": {"type": "object", "required": ["text"]}},
        "text/plain": {"schema": {"type": "string"}},
        "text/vtt": {"schema": {"type": "string"}},
        "text/event-stream": {"schema": {"type": "string"}},
    }
    transcript = {"description": "The transcript, in the format that was asked for.", "content": answers}
    return {200: transcript, **error_responses(400, 413, 503)}


def transcription_request() -> dict[str, Any]:
    """The ``openapi_extra`` of a transcription."""
    properties = transcription_properties()
    form = {
        "type": "object",
        "properties": {"file": _file(), **properties},
        "anyOf": [{"required": ["file"]}, {"required": ["audio_address"]}],
    }
    without_file = {"type": "object", "properties": properties, "required": ["audio_address"]}
    return _request({_FORM: form, _URL_ENCODED: without_file})


def translation_request() -> dict[str, Any]:
    """The ``openapi_extra`` of a translation."""
    properties = {"file": _file(), **form_properties(TranslationForm)}
    return _request({_FORM: {"type": "object", "properties": properties, "required": ["file"]}})


def transcription_properties() -> dict[str, Any]:
    """JSON schemas of the fields beside ``file``, by their names on the wire."""
    properties = form_properties(RequestForm)
    properties["chunking_strategy"] = {
        "type": "string",
        "enum": ["auto", "server_vad"],
        "description": "How speech is found: as the server is set, or as the fields below say.",
    }
    for name, schema in form_properties(ChunkingStrategy).items():
        properties[f"chunking_strategy[{name}]"] = schema
    return properties


def form_properties(form: type[BaseModel]) -> dict[str, Any]:
    """JSON schemas of a form's fields: in a form, a field may be left out, but there is no ``null``."""
    properties = form.model_json_schema()["properties"]
    return {
        f"{name}[]" if name in LIST_FIELDS else name: _without_null(schema)
        for name, schema in properties.items()
    }


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in schema.items() if key not in ("anyOf", "title")}
    if kept.get("default", "") is None:
        del kept["default"]
    for option in schema.get("anyOf", ()):
        if option != {"type": "null"}:
            kept |= option
    return kept


def _file() -> dict[str, Any]:
    return {"type": "string", "format": "binary", "description": "The recording."}


def _request(schemas: dict[str, dict[str, Any]]) -> dict[str, Any]:
    content = {kind: {"schema": schema} for kind, schema in schemas.items()}
    return {"requestBody": {"required": True, "content": content}}
