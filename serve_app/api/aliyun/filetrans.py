"""File transcription: ``SubmitTask`` and ``GetTaskResult``, over the jobs that all protocols share.

Aliyun serves it at the root of a host of its own, as an RPC API: parameters in the query or a form, errors
of access in one shape, those of a task in another.
"""

import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import Field

from serve_app import errors
from serve_app.api.access import Client
from serve_app.api.aliyun.errors import task_id
from serve_app.api.aliyun.signature import AccessDenied, verify
from serve_app.api.aliyun.wire import TextParameters, parse
from serve_app.api.uploads import spool_body
from serve_app.jobs.types import JobSpec, Webhook
from serve_app.rendering.filetrans import job_body, status_fields
from serve_app.services import Services
from serve_app.transcriber import TranscriptionOptions

PROTOCOL = "aliyun"

_MAX_FORM = 1 << 20
_MAX_FIELDS = 100


class FileTask(TextParameters):
    """The JSON object in the parameter ``Task``; times in milliseconds. Unknown names are ignored."""

    file_link: Any = None
    version: str = "4.0"
    enable_words: bool = False
    enable_punctuation_prediction: bool = True
    enable_disfluency: bool = False
    enable_callback: bool = False
    callback_url: Any = None
    first_channel_only: bool = False
    max_end_silence: int | None = None
    valid_times: list[dict[str, int]] = Field(default_factory=list)

    def windows(self) -> list[tuple[int, int, int]]:
        """``(begin, end, channel)`` of each of ``valid_times``. Raises :class:`InvalidParameter`."""
        found = []
        for item in self.valid_times:
            if not 0 <= item.get("begin_time", -1) < item.get("end_time", -1):
                raise errors.InvalidParameter(
                    "Each of valid_times needs a begin_time and a later end_time.", "valid_times"
                )
            found.append((item["begin_time"], item["end_time"], item.get("channel_id", 0)))
        return found


class TaskRefused(errors.AsrError):
    """An order that is told to be wrong by ``status_text``, in an answer with the HTTP status 200."""

    def __init__(self, message: str, status_text: str) -> None:
        super().__init__(message)
        self.status_text = status_text


class FileTranscription:
    """Answers the actions, for clients that may ask."""

    def __init__(self, services: Services) -> None:
        self._services = services
        keys = services.settings.api_key
        listed = keys.get_secret_value().split(",") if keys else []
        # An empty secret would let everybody sign.
        self._secrets = [key.strip() for key in listed if key.strip()]

    async def answer(self, request: Request) -> JSONResponse:
        """The answer to an action, whatever the HTTP method.

        Raises:
            AsrError: for :func:`answer_error`.
        """
        parameters = await _parameters(request)
        async with self._admitted(request, parameters) as client:
            match parameters.get("Action", ""):
                case "SubmitTask":
                    body = await self._submit(request, client, parameters)
                case "GetTaskResult":
                    body = await self._result(request, client, parameters)
                case "":
                    raise errors.InvalidParameter("The parameter Action is missing.", "Action")
                case action:
                    raise errors.NotFound(
                        f"The action {action!r:.40} is not known; SubmitTask and GetTaskResult are."
                    )
        return JSONResponse(body)

    @asynccontextmanager
    async def _admitted(self, request: Request, parameters: Mapping[str, str]) -> AsyncIterator[Client]:
        denied: errors.Unauthenticated | None = None
        if self._secrets and "Signature" in parameters:
            try:
                request = _with_key(request, verify(self._secrets, request.method, parameters))
            except AccessDenied as error:
                denied = error
        # Who tries signatures gets there, too: attempts are counted as those with keys are.
        try:
            async with self._services.access.serve(request) as client:
                yield client
        except errors.Unauthenticated as error:
            raise denied or error from None

    async def _submit(
        self, request: Request, client: Client, parameters: Mapping[str, str]
    ) -> dict[str, Any]:
        spec = _order(parameters, request_id(request))
        try:
            self._services.transcriber.check(spec.options)
        except errors.InvalidParameter as error:
            raise TaskRefused(error.message, "REQUEST_PARAMETER_INVALID") from error
        job, _ = await self._services.jobs.submit(client.id, spec)
        return {"TaskId": job.id, "RequestId": request_id(request), **status_fields("SUCCESS")}

    async def _result(
        self, request: Request, client: Client, parameters: Mapping[str, str]
    ) -> dict[str, Any]:
        job_id = parameters.get("TaskId", "")
        if not job_id:
            raise errors.InvalidParameter("The parameter TaskId is missing.", "TaskId")
        try:
            job = await self._services.jobs.get(client.id, job_id)
            if job.spec.protocol != PROTOCOL:
                raise errors.NotFound("The job came by another API.")
            done = job.status.is_final
            transcripts = await self._services.jobs.transcripts(client.id, job_id) if done else ()
        except errors.NotFound as error:
            raise TaskRefused(
                f"There is no task {job_id!r:.60}, or it has expired.", "FILE_TRANS_TASK_EXPIRED"
            ) from error
        return job_body(job, transcripts, request_id(request))


def request_id(request: Request) -> str:
    """The id of the request as Aliyun writes such ids: in groups, in capitals."""
    return str(uuid.UUID(task_id(request))).upper()


async def _parameters(request: Request) -> dict[str, str]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "GET" or kind not in ("", "application/x-www-form-urlencoded"):
        return dict(request.query_params)
    async with spool_body(request, max_bytes=_MAX_FORM) as body:
        text = body.read().decode("utf-8", "replace")
    try:
        form = parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise errors.InvalidParameter(f"The form has more than {_MAX_FIELDS} fields.") from error
    return {**request.query_params, **dict(form)}


def _with_key(request: Request, key: str) -> Request:
    """The request as if it carried the key that it was signed with."""
    headers = [(name, value) for name, value in request.scope["headers"] if name != b"authorization"]
    scope = {**request.scope, "headers": [*headers, (b"authorization", f"Bearer {key}".encode())]}
    return Request(scope, request.receive)


def _order(parameters: Mapping[str, str], request: str) -> JobSpec:
    task = _task(parameters.get("Task", ""))
    if not _is_web_address(task.file_link):
        raise TaskRefused(
            "The parameter file_link must be the http or https URL of a recording.",
            "REQUEST_INVALID_FILE_URL_VALUE",
        )
    if task.enable_callback and not _is_web_address(task.callback_url):
        raise TaskRefused(
            "With enable_callback, callback_url must be an http or https URL.",
            "REQUEST_INVALID_CALLBACK_VALUE",
        )
    signed = any(name in parameters for name in ("Signature", "AccessKeyId"))
    extra = {
        "version": task.version,
        "request_id": request,
        "enable_words": json.dumps(task.enable_words),
        "valid_times": json.dumps(task.windows()),
        **({"callback": PROTOCOL} if task.enable_callback else {}),
    }
    return JobSpec(
        options=TranscriptionOptions(
            text=task.text_options(
                official=signed or task.appkey is not None,
                punctuation=task.enable_punctuation_prediction,
                drop_fillers=task.enable_disfluency,
            ),
            hotwords=task.hotwords,
            end_silence_ms=task.max_end_silence,
            speech_noise_threshold=task.speech_noise_threshold,
        ),
        split_channels=True,
        first_channel_only=task.first_channel_only,
        url=task.file_link,
        webhook=Webhook(task.callback_url) if task.enable_callback else None,
        protocol=PROTOCOL,
        extra=extra,
    )


def _task(text: str) -> FileTask:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise TaskRefused(
            "The parameter Task must be a JSON object as a string.", "REQUEST_PARAMETER_INVALID"
        )
    try:
        task = parse(FileTask, {name: value for name, value in values.items() if value is not None})
        task.windows()
    except errors.InvalidParameter as error:
        raise TaskRefused(error.message, "REQUEST_PARAMETER_INVALID") from error
    return task


def _is_web_address(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return parts.scheme.lower() in ("http", "https") and bool(parts.hostname)


_POP = {
    errors.AsrError: (400, "InvalidParameter"),
    errors.Unauthenticated: (403, "MissingAccessKeyId"),
    errors.NotFound: (404, "InvalidAction.NotFound"),
    errors.AudioTooLarge: (413, "RequestTooLarge"),
    errors.Overloaded: (429, "Throttling.User"),
    errors.UpstreamLost: (503, "ServiceUnavailable"),
    errors.Internal: (500, "InternalError"),
}
"""HTTP status and ``Code`` by error."""


def answer_error(request: Request, error: errors.AsrError) -> JSONResponse:
    """An error of a task in the shape of its result, any other one in that of Aliyun's RPC APIs."""
    if isinstance(error, TaskRefused):
        fields = {"TaskId": "", "RequestId": request_id(request), **status_fields(error.status_text)}
        return JSONResponse({**fields, "Message": error.message})
    status, code = next(_POP[cls] for cls in type(error).__mro__ if cls in _POP)
    body = {
        "RequestId": request_id(request),
        "HostId": request.headers.get("host", ""),
        "Code": error.code if isinstance(error, AccessDenied) else code,
        "Message": error.message,
    }
    response = JSONResponse(body, status)
    if isinstance(error, errors.Overloaded):
        response.headers["retry-after"] = f"{error.retry_after:.0f}"
    return response
