"""``POST /v1/jobs``: what came in becomes a job, if it can be served."""

import asyncio
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import JSONResponse

from serve_app.api.access import Client
from serve_app.api.jobs import schema
from serve_app.api.jobs.objects import JobObject, job_object, root_path
from serve_app.api.jobs.results import Presentation
from serve_app.api.jobs.wire import Order, read_order
from serve_app.api.openai.speakers import speaker_options
from serve_app.audio.decode import probe
from serve_app.audio.limits import DecodeLimits, check_declared
from serve_app.jobs.types import JobSpec, Webhook
from serve_app.services import Services
from serve_app.transcriber import TranscriptionOptions

PROTOCOL = "jobs"
"""``JobSpec.protocol`` of the jobs that come in here."""


def add_submission(router: APIRouter, services: Services) -> None:
    """Add ``POST /v1/jobs``."""
    caller = Depends(services.access.admit)
    settings, limits = services.settings, DecodeLimits(max_seconds=services.settings.max_audio_duration_sec)

    @router.post(
        "",
        status_code=202,
        response_model=JobObject,
        responses=schema.submission_responses(),
        openapi_extra=schema.submission_request(),
    )
    async def create_job(
        request: Request,
        client: Annotated[Client, caller],
        idempotency_key: Annotated[
            str | None,
            Header(min_length=1, max_length=255, description="The same key again gives the same job."),
        ] = None,
    ) -> Response:
        """Hand in a recording, as a file or as a URL, and get a job that transcribes it."""
        async with read_order(request, max_bytes=settings.max_audio_bytes) as order:
            options = order.form.checked_options(services.transcriber)
            await _check_recording(order, options, limits)
            # References are not kept; the voices in them go with the job.
            options = replace(options, speakers=await speaker_options(services, client.id, order.form))
            job, is_new = await services.jobs.submit(
                client.id, _spec(order, options), order.recording, idempotency_key
            )
        shown = job_object(job, root_path(request))
        headers = {"location": shown.links.self}
        return JSONResponse(shown.model_dump(), 202 if is_new else 200, headers)


async def _check_recording(order: Order, options: TranscriptionOptions, limits: DecodeLimits) -> None:
    """Tell at once what the begin of an upload tells; the rest shows when the job runs."""
    if order.recording is None:
        return
    info = await asyncio.to_thread(probe, order.recording, raw=options.raw)
    check_declared(info.seconds or 0.0, limits)
    order.recording.seek(0)


def _spec(order: Order, options: TranscriptionOptions) -> JobSpec:
    form, shown = order.form, Presentation.of(order.form)
    return JobSpec(
        options=options,
        split_channels=form.channels == "split",
        url=form.url,
        filename=order.filename,
        webhook=Webhook(form.webhook_url, form.webhook_secret) if form.webhook_url else None,
        metadata=form.metadata,
        response_format=shown.response_format,
        protocol=PROTOCOL,
        extra=shown.extra(),
    )
