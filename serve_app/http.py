"""The FastAPI application: one router per protocol over one transcriber and one live service."""

import uuid
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.access import Access
from serve_app.api.admin.router import admin_router
from serve_app.api.aliyun.router import aliyun_router
from serve_app.api.dashscope.router import dashscope_router
from serve_app.api.funasr.http import funasr_http_router
from serve_app.api.funasr.router import funasr_router
from serve_app.api.funasr.utterance import Recognizers
from serve_app.api.jobs.router import jobs_router
from serve_app.api.nls.router import nls_router
from serve_app.api.openai.errors import add_error_handlers
from serve_app.api.openai.router import openai_router
from serve_app.api.qwen.router import qwen_router
from serve_app.api.realtime.router import realtime_router
from serve_app.api.root import root_router
from serve_app.api.speakers.router import speakers_router
from serve_app.fetching import Fetcher
from serve_app.following import Followed
from serve_app.jobs.service import DatabaseJobs, Wake, wake_nobody
from serve_app.observability.meter import Meter
from serve_app.overview import OverviewSource
from serve_app.pipeline.graph import LiveGraph
from serve_app.pipeline.speakers.types import SpeakerTuning
from serve_app.services import READY, Readiness, Services
from serve_app.settings import Settings
from serve_app.speakers.service import SpeakerService
from serve_app.tracing import Tracing, trace_options
from serve_app.transcript_log import live_service_of, transcriber_of
from serve_app.web.router import page_router


def create_app(
    settings: Settings,
    graph: LiveGraph,
    readiness: Readiness,
    metrics: Meter | None = None,
    wake: Wake = wake_nobody,
    tuning: SpeakerTuning | None = None,
    *,
    behind_proxy: bool = False,
    overview: OverviewSource | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """Build the HTTP side. Knows nothing of Ray: tests give it a graph of their own.

    ``wake`` tells a worker of jobs that there is something to do. ``tuning`` is what the speaker model asks
    for. ``behind_proxy``: something in front, as Serve's proxy, numbers requests and puts the number on each
    answer. ``overview`` tells what runs; without it there is no ``/admin``. ``tracing`` is what the settings
    ask for, where the caller has opened it.
    """
    tracing = tracing or Tracing(trace_options(settings))
    graph = tracing.graph(graph)
    app = FastAPI(
        title="asr-serve",
        version=version("asr-serve"),
        description="Speech recognition over a Ray Serve graph of FunASR and Qwen3-ASR models.",
    )
    add_error_handlers(app)
    _add_cors(app, settings.cors_origins)
    app.add_middleware(Followed, tracing=tracing, lines=settings.log_format == "json", meter=metrics)
    if not behind_proxy:
        app.add_middleware(RequestId)
    services = Services(
        settings=settings,
        access=Access(settings),
        transcriber=transcriber_of(graph, settings, tuning),
        live=live_service_of(graph, settings, metrics, tuning),
        fetcher=Fetcher(settings),
        jobs=DatabaseJobs(settings, wake),
        speakers=SpeakerService(settings, graph, tuning),
        readiness=readiness,
    )
    app.state.services = services
    app.state.tracing = tracing
    app.include_router(openai_router(services))
    app.include_router(
        funasr_router(
            services.access, Recognizers(settings, services.transcriber, services.live, services.speakers)
        )
    )
    app.include_router(jobs_router(services))
    app.include_router(speakers_router(services))
    app.include_router(aliyun_router(services))
    app.include_router(nls_router(services))
    app.include_router(qwen_router(services))
    app.include_router(realtime_router(services))
    app.include_router(dashscope_router(services))
    app.include_router(funasr_http_router(services))
    app.include_router(root_router(services))
    app.include_router(page_router(services.live.models))
    if overview is not None:
        app.include_router(admin_router(services, overview))

    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str | int]:
        """Answers as long as this process does, with the live sessions that it holds."""
        return {"status": "ok", "live_sessions": services.live.active}

    @app.get("/readyz", tags=["health"])
    async def readyz() -> JSONResponse:
        """200 once every deployment of the graph is ready, else 503 with the state of each."""
        deployments = await readiness()
        ready = bool(deployments) and all(state == READY for state in deployments.values())
        body = {"status": "ready" if ready else "not ready", "deployments": deployments}
        return JSONResponse(body, 200 if ready else 503)

    return app


def _add_cors(app: FastAPI, listed: str) -> None:
    """Let web pages of the ``listed`` origins read answers. Cookies are none of them: scripts send keys."""
    origins = [origin.strip().rstrip("/") for origin in listed.split(",") if origin.strip()]
    if origins and origins != ["none"]:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["*"],
        )


class RequestId:
    """Gives every HTTP answer an ``x-request-id``: the client's own, or a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id")
        request_id = given or uuid.uuid4().hex.encode()
        if given is None:
            scope = {**scope, "headers": [*scope["headers"], (b"x-request-id", request_id)]}

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id)]}
            await send(message)

        await self._app(scope, receive, send_with_id)
