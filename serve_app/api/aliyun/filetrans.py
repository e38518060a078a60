"""File transcription: ``SubmitTask`` and ``GetTaskResult``, over the jobs that all protocols share.

Aliyun serves it at the root of a host of its own, as an RPC API: parameters in the query or a form, errors
of access in one shape, those of a task in another.
"""

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.responses import JSONResponse

from serve_app import errors
from serve_app.api.access import Client
from serve_app.api.aliyun.errors import task_id
from serve_app.api.aliyun.orders import PROTOCOL, TaskRefused, job_spec, read_task
from serve_app.api.aliyun.signature import AccessDenied, verify
from serve_app.api.hotwords import hotword_fields, job_report
from serve_app.api.uploads import spool_body
from serve_app.rendering.filetrans import job_body, status_fields
from serve_app.services import Services

_MAX_FORM = 1 << 20
_MAX_FIELDS = 100


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
        task = read_task(parameters.get("Task", ""))
        spec = job_spec(task, parameters, request_id(request))
        count, most = task.speaker_counts()
        try:
            speakers = await self._services.speakers.options(
                client.id, wanted=task.auto_split, shown=False, count=count, most=most, param="auto_split"
            )
            options = self._services.transcriber.check(replace(spec.options, speakers=speakers))
        except (errors.InvalidParameter, errors.ModelNotFound, errors.Unsupported) as error:
            raise TaskRefused(error.message, "REQUEST_PARAMETER_INVALID") from error
        spec = replace(spec, options=options)
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
        body = job_body(job, transcripts, request_id(request))
        return body | hotword_fields(job_report(self._services.models, job, transcripts))


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
