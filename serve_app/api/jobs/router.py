"""``/v1/jobs``: recordings that take longer than a client holds its connection."""

import json
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from serve_app.api.access import Client
from serve_app.api.jobs import schema
from serve_app.api.jobs.events import Position, error_event, job_events
from serve_app.api.jobs.objects import DeletedJob, JobList, JobObject, Status, job_object, root_path
from serve_app.api.jobs.results import NoResult, check_completed, presentation, result
from serve_app.api.jobs.submission import PROTOCOL, add_submission
from serve_app.api.openai.errors import error_response
from serve_app.api.openai.wire import ResponseFormat
from serve_app.api.sse import event_response
from serve_app.errors import InvalidParameter, NotFound
from serve_app.jobs.types import Job, JobStatus
from serve_app.rendering.openai import Granularity
from serve_app.services import Services

_FIRST_EVENT_SECONDS = 1.0
"""A client that has seen all there is gets the begin of its answer after this long."""

JobId = Annotated[str, Path(description="Id of the job.")]


class _Route(APIRoute):
    """Answers :class:`NoResult` with a code of its own, and with ``Retry-After``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except NoResult as error:
                return _no_result(request, error)

        return answer


def _no_result(request: Request, error: NoResult) -> JSONResponse:
    response = error_response(request, error)
    body = json.loads(bytes(response.body))
    body["error"]["code"] = error.code
    headers = {"x-should-retry": "false"}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    return JSONResponse(body, response.status_code, headers)


def jobs_router(services: Services) -> APIRouter:
    """Its routes, for clients with a valid key."""
    router = APIRouter(prefix="/v1/jobs", tags=["Jobs"], route_class=_Route)
    add_submission(router, services)
    _add_listing(router, services)
    _add_control(router, services)
    _add_result(router, services)
    _add_events(router, services)
    return router


def _add_listing(router: APIRouter, services: Services) -> None:
    caller = Depends(services.access.admit)

    @router.get("", responses=schema.job_errors(400))
    async def list_jobs(
        request: Request,
        client: Annotated[Client, caller],
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: Annotated[str | None, Query(description="Id of the last job of the page before.")] = None,
        status: Annotated[Status | None, Query(description="Only jobs that are in it.")] = None,
    ) -> JobList:
        """The jobs of this client, from the newest to the oldest."""
        if after is not None:
            try:
                await _job(services, client, after)
            except NotFound as error:
                raise InvalidParameter(error.message, "after") from error
        wanted = JobStatus(status) if status else None
        found = await services.jobs.list(
            client.id, limit=limit + 1, after=after, status=wanted, protocol=PROTOCOL
        )
        page = [job_object(job, root_path(request)) for job in found[:limit]]
        return JobList(
            data=page,
            first_id=page[0].id if page else None,
            last_id=page[-1].id if page else None,
            has_more=len(found) > limit,
        )

    @router.get("/{job_id}", responses=schema.job_errors(404))
    async def get_job(request: Request, client: Annotated[Client, caller], job_id: JobId) -> JobObject:
        """A job as it is now."""
        return job_object(await _job(services, client, job_id), root_path(request))


def _add_control(router: APIRouter, services: Services) -> None:
    caller = Depends(services.access.admit)

    @router.post("/{job_id}/cancel", responses=schema.job_errors(404))
    async def cancel_job(request: Request, client: Annotated[Client, caller], job_id: JobId) -> JobObject:
        """Stop a job, and keep what it has transcribed. One that has ended stays as it is."""
        await _job(services, client, job_id)
        return job_object(await services.jobs.cancel(client.id, job_id), root_path(request))

    @router.delete("/{job_id}", responses=schema.job_errors(404))
    async def delete_job(client: Annotated[Client, caller], job_id: JobId) -> DeletedJob:
        """Stop a job, and forget all about it, its recording and its result included."""
        await _job(services, client, job_id)
        await services.jobs.delete(client.id, job_id)
        return DeletedJob(id=job_id)


def _add_result(router: APIRouter, services: Services) -> None:
    caller = Depends(services.access.admit)

    @router.get("/{job_id}/result", response_class=Response, responses=schema.result_responses())
    async def get_result(
        client: Annotated[Client, caller],
        job_id: JobId,
        asked: Annotated[dict[str, str | list[str]], Depends(_asked)],
        partial: Annotated[
            bool, Query(description="What there is, if the job is not completed: it may still grow.")
        ] = False,
        channel: Annotated[
            int | None, Query(ge=0, description="Only this one, with `channels=split`.")
        ] = None,
    ) -> Response:
        """The transcript, in any format of `POST /v1/audio/transcriptions`."""
        job = await _job(services, client, job_id)
        wanted = presentation(job.spec, asked)
        if not partial:
            check_completed(job)
        transcripts = await services.jobs.transcripts(client.id, job_id)
        response = result(transcripts, job.spec, wanted, channel, services.models)
        response.headers["x-job-status"] = job.status.value
        return response


def _asked(
    response_format: Annotated[
        ResponseFormat | None, Query(description="Default: as the job was submitted.")
    ] = None,
    granularities: Annotated[list[Granularity] | None, Query(alias="timestamp_granularities[]")] = None,
    include: Annotated[list[Literal["logprobs"]] | None, Query(alias="include[]")] = None,
    granularities_by_hand: Annotated[
        list[Granularity] | None, Query(alias="timestamp_granularities", include_in_schema=False)
    ] = None,
    include_by_hand: Annotated[
        list[Literal["logprobs"]] | None, Query(alias="include", include_in_schema=False)
    ] = None,
) -> dict[str, str | list[str]]:
    """Dependency: the fields of a form that a request for a result has, those that it lacks left out."""
    given: dict[str, Any] = {
        "response_format": response_format,
        "timestamp_granularities": [*(granularities or ()), *(granularities_by_hand or ())],
        "include": [*(include or ()), *(include_by_hand or ())],
    }
    return {name: value for name, value in given.items() if value}


def _add_events(router: APIRouter, services: Services) -> None:
    caller = Depends(services.access.admit)

    @router.get("/{job_id}/events", response_class=Response, responses=schema.event_responses())
    async def watch_job(
        request: Request,
        client: Annotated[Client, caller],
        job_id: JobId,
        sentences: Annotated[bool, Query(description="Tell each sentence, too.")] = False,
        last_event_id: Annotated[
            str | None, Header(description="Id of the last event that was seen.")
        ] = None,
    ) -> Response:
        """Follow a job by events: `progress`, and at its end `completed`, `failed` or `canceled`."""
        job = await _job(services, client, job_id)
        seen = Position.read(last_event_id)
        if job.status.is_final and seen.status == job.status.value:
            return Response(status_code=204)
        events = job_events(
            services.jobs, client.id, job_id, root=root_path(request), seen=seen, sentences=sentences
        )
        return await event_response(events, on_error=error_event, wait=_FIRST_EVENT_SECONDS)


async def _job(services: Services, client: Client, job_id: str) -> Job:
    """A job of this client that came by this API."""
    job = await services.jobs.get(client.id, job_id)
    if job.spec.protocol != PROTOCOL:
        raise NotFound(f"There is no job {job_id!r:.80}.")
    return job
