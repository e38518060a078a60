"""The ``Jobs`` deployment: it holds no model; it works off the jobs that the ingress takes in."""

import asyncio
import os
from typing import Any

import httpx
from pydantic import BaseModel, Field
from ray import serve

from deployments.tracing import UNOBSERVED, Observability, observe_process
from serve_app.api.hotwords import hotword_fields, job_report
from serve_app.api.jobs.objects import job_object
from serve_app.fetching import Fetcher, SystemResolver, guarded_client
from serve_app.following import job_follower
from serve_app.handles import ModelHandles, ServeGraph
from serve_app.jobs.database import Database, database_url
from serve_app.jobs.outbox import Outbox
from serve_app.jobs.queue import JobQueue
from serve_app.jobs.runner import Runner
from serve_app.jobs.service import retention_seconds, spool_dir
from serve_app.jobs.spool import Spool
from serve_app.jobs.store import JobStore
from serve_app.jobs.types import Job
from serve_app.jobs.webhook import WebhookSender, event_body
from serve_app.jobs.worker import Worker
from serve_app.models import ServedModels
from serve_app.observability.serving import FileMeter, JobCounts
from serve_app.pipeline.speakers.types import SpeakerTuning
from serve_app.rendering.filetrans import callback_body
from serve_app.settings import Settings
from serve_app.speakers.service import SpeakerService
from serve_app.tracing import Tracing
from serve_app.transcript_log import transcriber_of

_NICENESS = 10


class JobsConfig(BaseModel):
    """``user_config`` of the deployment; a change takes effect without a restart."""

    max_running_jobs: int = Field(2, ge=1)
    """Jobs that a replica works on at once."""

    segments_in_flight: int = Field(8, ge=1)
    """Segments of one job that may wait for recognition at once; for jobs that begin from now on."""


@serve.deployment(name="Jobs", max_ongoing_requests=64)
class Jobs:
    """Runs a :class:`serve_app.jobs.runner.Runner` and a :class:`serve_app.jobs.webhook.WebhookSender`."""

    def __init__(
        self,
        settings: Settings,
        models: ModelHandles,
        tuning: SpeakerTuning,
        *,
        observability: Observability = UNOBSERVED,
    ) -> None:
        tracing = Tracing(observability.tracing, observe_process(observability))
        database = Database(database_url(settings))
        self._queue = queue = JobQueue(database, retention_seconds(settings))
        spool = Spool(spool_dir(settings))
        served = ServeGraph(models, ServedModels(settings))
        graph = tracing.graph(served)
        transcriber = transcriber_of(graph, settings, tuning)
        enrolled = SpeakerService(settings, graph, tuning).voiceprints
        worker = Worker(queue, spool, transcriber, Fetcher(settings), enrolled)
        follow = job_follower(tracing, lines=observability.json_logs, meter=FileMeter([*served.stages]))
        counts = JobCounts()
        self._runner = Runner(queue, spool, worker, counts, follow=follow)
        self._sender = _webhook_sender(settings, database, counts)
        # Where all cores are busy, those who wait for an answer get them first; threads made here follow.
        os.nice(_NICENESS)
        # Serve makes a replica on the event loop that it lives on.
        self._work = [asyncio.create_task(self._runner.run()), asyncio.create_task(self._sender.run())]

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        config = JobsConfig(**user_config)
        self._runner.max_running = config.max_running_jobs
        self._runner.segments_in_flight = config.segments_in_flight
        self._runner.wake()

    async def wake(self) -> None:
        """There is a new job, or one was canceled."""
        self._runner.wake()

    async def counts(self) -> tuple[int, int]:
        """Jobs that wait and jobs that are worked on, of the whole database."""
        return await asyncio.to_thread(self._queue.counts)

    async def check_health(self) -> None:
        for task in self._work:
            if task.done():
                raise RuntimeError("the work on jobs has ended") from task.exception()

    async def __del__(self) -> None:
        """Serve calls and awaits this when the replica is to go: its jobs are put back for others."""
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)


def _webhook_sender(settings: Settings, database: Database, counts: JobCounts) -> WebhookSender:
    resolver, context = SystemResolver(), httpx.create_ssl_context()

    def client() -> httpx.AsyncClient:
        return guarded_client(settings, resolver=resolver, ssl_context=context)

    store = JobStore(database, retention_seconds(settings))
    models = ServedModels(settings)

    def as_in_the_api(job: Job) -> Any:
        return job_object(job, "").model_dump(mode="json")

    def as_aliyun_has_it(job: Job) -> Any:
        transcripts = store.transcripts(job.owner, job.id)
        return callback_body(job, transcripts) | hotword_fields(job_report(models, job, transcripts))

    secret = settings.webhook_secret
    return WebhookSender(
        Outbox(database),
        client,
        secret.get_secret_value() if secret else None,
        {None: event_body(as_in_the_api), "aliyun": as_aliyun_has_it},
        told=counts.webhook,
    )
