"""The routes for recordings, over the jobs that all protocols share.

A task is as many jobs as it has recordings. It goes by the id of the first one, which knows the others.
"""

import json
import uuid
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from serve_app.api.access import Client
from serve_app.api.dashscope.errors import error_response
from serve_app.api.dashscope.files.links import Links
from serve_app.api.dashscope.files.results import task_body, transcription_body
from serve_app.api.dashscope.files.wire import PROTOCOL, read_order
from serve_app.api.dashscope.parsing import MAX_TEXT
from serve_app.api.hotwords import hotword_fields, job_report
from serve_app.api.protocol import answering
from serve_app.api.uploads import spool_body
from serve_app.errors import AsrError, InvalidParameter, NotFound
from serve_app.jobs.types import Job, JobSpec, JobStatus
from serve_app.pipeline.speakers.types import SpeakerOptions
from serve_app.services import Services
from serve_app.transcriber import TranscriptionOptions

_ORDER = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


def files_router(services: Services) -> APIRouter:
    """Its routes, for clients with a valid key."""
    router = APIRouter(prefix="/api/v1", tags=["DashScope"], route_class=answering(_answer_error))
    tasks = _Tasks(services)
    caller = Depends(services.access.admit)

    @router.post("/services/audio/asr/transcription", openapi_extra=_ORDER)
    async def order(request: Request, client: Annotated[Client, caller]) -> JSONResponse:
        """Order transcripts of recordings, which are fetched by their URLs."""
        return await tasks.order(request, client)

    @router.get("/tasks/{task_id}")
    @router.post("/tasks/{task_id}", include_in_schema=False)
    async def task(request: Request, client: Annotated[Client, caller], task_id: str) -> JSONResponse:
        """How a task is doing, and where its transcripts are."""
        return await tasks.state(request, client, task_id)

    @router.post("/tasks/{task_id}/cancel")
    async def cancel(request: Request, client: Annotated[Client, caller], task_id: str) -> JSONResponse:
        """Stop a task."""
        return await tasks.cancel(request, client, task_id)

    @router.get("/tasks/{task_id}/transcription")
    async def transcription(request: Request, task_id: str) -> JSONResponse:
        """A transcript, for whoever has the URL that the task told."""
        return await tasks.transcription(request, task_id)

    return router


class _Tasks:
    def __init__(self, services: Services) -> None:
        self._jobs = services.jobs
        self._transcriber = services.transcriber
        self._speakers = services.speakers
        self._links = Links(services.settings)

    async def order(self, request: Request, client: Client) -> JSONResponse:
        if request.headers.get("x-dashscope-async", "").lower() != "enable":
            raise InvalidParameter(
                "Recordings are transcribed asynchronously: send the header X-DashScope-Async: enable."
            )
        async with spool_body(request, max_bytes=MAX_TEXT) as body:
            specs, asked = read_order(body.read().decode("utf-8", "replace"))
        speakers = await self._speakers.options(
            client.id,
            wanted=asked.wanted,
            shown=False,
            count=asked.count,
            param="parameters.diarization_enabled",
        )
        specs = [replace(spec, options=self._options(spec.options, speakers)) for spec in specs]
        first = await self._submit(client, specs)
        return _answer(request, {"output": {"task_id": first.id, "task_status": "PENDING"}})

    def _options(
        self, options: TranscriptionOptions, speakers: SpeakerOptions | None
    ) -> TranscriptionOptions:
        """Raises what :meth:`Transcriber.check` raises."""
        model = self._transcriber.models.meant(options.model)
        # Languages are hints: a model that recognizes what it knows, whatever is asked, needs none.
        language = options.language if model.hears_languages else None
        return self._transcriber.check(replace(options, model=model.id, language=language, speakers=speakers))

    async def state(self, request: Request, client: Client, task_id: str) -> JSONResponse:
        def link(job: Job) -> str:
            query = urlencode(self._links.signed(client.id, job.id))
            base = f"{request.base_url}".rstrip("/")
            return f"{base}/api/v1/tasks/{job.id}/transcription?{query}"

        return _answer(request, task_body(await self._task(client.id, task_id), link))

    async def cancel(self, request: Request, client: Client, task_id: str) -> JSONResponse:
        for job in await self._task(client.id, task_id):
            await self._jobs.cancel(client.id, job.id)
        return _answer(request, {})

    async def transcription(self, request: Request, job_id: str) -> JSONResponse:
        owner = self._links.owner(request.query_params, job_id)
        job = await self._job(owner, job_id)
        if job.status is not JobStatus.COMPLETED:
            raise NotFound(f"The recording is not transcribed: it is {job.status.value}.")
        transcripts = await self._jobs.transcripts(owner, job_id)
        report = job_report(self._transcriber.models, job, transcripts)
        return JSONResponse(transcription_body(job, transcripts) | hotword_fields(report))

    async def _submit(self, client: Client, specs: list[JobSpec]) -> Job:
        """Take all recordings in, or none of them; the first one's job."""
        first, *others = specs
        taken: list[str] = []
        try:
            for spec in others:
                job, _ = await self._jobs.submit(client.id, spec)
                taken.append(job.id)
            extra = {**first.extra, "others": json.dumps(taken)}
            job, _ = await self._jobs.submit(client.id, replace(first, extra=extra))
        except AsrError:
            for job_id in taken:
                await self._jobs.delete(client.id, job_id)
            raise
        return job

    async def _task(self, owner: str, task_id: str) -> list[Job]:
        first = await self._job(owner, task_id)
        others = json.loads(first.spec.extra.get("others", "[]"))
        return [first, *[await self._job(owner, job_id) for job_id in others]]

    async def _job(self, owner: str, job_id: str) -> Job:
        job = await self._jobs.get(owner, job_id)
        if job.spec.protocol != PROTOCOL:
            raise NotFound("The job came by another API.")
        return job


def _request_id(request: Request) -> str:
    return request.headers.get("x-request-id") or str(uuid.uuid4())


def _answer(request: Request, body: dict[str, Any]) -> JSONResponse:
    return JSONResponse({"request_id": _request_id(request), **body})


def _answer_error(request: Request, error: AsrError) -> JSONResponse:
    return error_response(error, _request_id(request))
