"""What the OpenAPI document says of the routes of jobs where FastAPI cannot see it by itself."""

from typing import Any

from serve_app.api.jobs.objects import JobObject
from serve_app.api.jobs.wire import JobForm
from serve_app.api.openai.schema import ErrorBody, error_responses, form_properties, transcription_properties

_OF_REQUESTS = ("audio_address", "stream")
"""Fields of a transcription that a job has not, or under another name."""

_LOCATION = {"Location": {"description": "Path of the job.", "schema": {"type": "string"}}}


def job_errors(*statuses: int, conflict: str = "") -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route for its errors; ``conflict`` says when it answers 409."""
    declared = error_responses(*statuses)
    return {**declared, 409: {"model": ErrorBody, "description": conflict}} if conflict else declared


def submission_responses() -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of ``POST /v1/jobs``."""
    return {
        202: {"description": "The job was taken.", "headers": _LOCATION},
        200: {
            "model": JobObject,
            "description": "This Idempotency-Key has given this job before.",
            "headers": _LOCATION,
        },
        **job_errors(400, 413, conflict="The Idempotency-Key was used before, for another order."),
    }


def submission_request() -> dict[str, Any]:
    """The ``openapi_extra`` of ``POST /v1/jobs``."""
    own = {name: form_properties(JobForm)[name] for name in JobForm.__annotations__ if name[0] != "_"}
    fields = {**transcription_properties(), **own}
    metadata = {
        "type": "string",
        "contentMediaType": "application/json",
        "description": f"As JSON, or each in a field `metadata[key]`. {own['metadata']['description']}",
    }
    form = {name: schema for name, schema in fields.items() if name not in _OF_REQUESTS}
    form["metadata"] = metadata
    upload = {
        "type": "object",
        "properties": {
            "file": {"type": "string", "format": "binary", "description": "The recording."},
            **form,
        },
        "oneOf": [{"required": ["file"]}, {"required": ["url"]}],
    }
    by_url = {"type": "object", "properties": form, "required": ["url"]}
    schemas = {
        "multipart/form-data": upload,
        "application/x-www-form-urlencoded": by_url,
        "application/json": {"type": "object", "properties": _as_json(fields), "required": ["url"]},
    }
    content = {kind: {"schema": schema} for kind, schema in schemas.items()}
    return {"requestBody": {"required": True, "content": content}}


def _as_json(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of a form as those of an object: without brackets in their names."""
    plain = {name.removesuffix("[]"): schema for name, schema in fields.items()}
    chunking = {
        name[len("chunking_strategy[") : -1]: schema
        for name, schema in plain.items()
        if name.startswith("chunking_strategy[")
    }
    kept = {name: schema for name, schema in plain.items() if "[" not in name and name not in _OF_REQUESTS}
    kept["chunking_strategy"] = {
        "anyOf": [
            kept["chunking_strategy"],
            {"type": "object", "properties": chunking, "required": ["type"]},
        ]
    }
    return kept


def result_responses() -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of ``GET /v1/jobs/{id}/result``."""
    kinds = {
        "application/json": {"schema": {"type": "object", "required": ["text"]}},
        "text/plain": {"schema": {"type": "string"}},
        "text/vtt": {"schema": {"type": "string"}},
    }
    status = {"description": "Status of the job.", "schema": {"type": "string"}}
    found = {
        "description": "The transcript, in the format that was asked for.",
        "headers": {"X-Job-Status": status},
        "content": kinds,
    }
    conflict = (
        "The job is not completed: it is under way (`Retry-After` says when to ask again), has failed "
        "(`code` and `message` say why) or was canceled."
    )
    return {200: found, **job_errors(400, 404, conflict=conflict)}


def event_responses() -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of ``GET /v1/jobs/{id}/events``."""
    stream = {"text/event-stream": {"schema": {"type": "string"}}}
    return {
        200: {"description": "Events, up to the end of the job.", "content": stream},
        204: {"description": "The client has seen the last event (`Last-Event-ID`)."},
        **job_errors(400, 404),
    }
