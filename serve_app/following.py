"""Follows requests, live connections and jobs from their begin to their end: traces, and lines in the log."""

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.origin import Origin, on_behalf_of
from serve_app.activity import Activity, active
from serve_app.jobs.types import Job
from serve_app.observability.meter import Meter, error_name
from serve_app.stages import UNFOLLOWED, Stage
from serve_app.tracing import Tracing

logger = logging.getLogger("ray.serve")

_LONGEST_ID = 200
"""Characters of a client's own request id that are told; it may send any."""

_FAULTS = 500
"""From here on, a status says that the server is at fault."""

_PROTOCOLS = (
    ("/v1/realtime", "realtime"),
    ("/v1/jobs", "jobs"),
    ("/v1/speakers", "speakers"),
    ("/v1/", "openai"),
    ("/stream/v1/", "aliyun"),
    ("/ws/v1/asr/funasr", "funasr"),
    ("/ws/v1/asr/qwen", "qwen"),
    ("/ws/v1", "nls"),
    ("/api-ws/", "dashscope"),
    ("/api/v1/", "dashscope"),
    ("/recognition", "funasr"),
    ("/asr", "funasr"),
)

_CLIENT_GONE = 499
"""The status with which an upload ends whose client left."""

_LOST, _FAULT = 1006, 1011
_GOOD_ENDS = frozenset({1000, 1001, 1005})
"""Codes that close a WebSocket (RFC 6455, section 7.4.1): it was lost, by a fault of the server, in order."""

_PROBES = frozenset({"/healthz", "/readyz", "/health", "/stream/v1/asr/health"})
"""Asked for every few seconds by machines: no traces, no counts, and lines only at ``DEBUG``."""


def protocol_of(scope: Scope) -> str:
    """The protocol of a request by its path; ``http`` where it is none of recognition."""
    path: str = scope["path"]
    if path == "/":
        aliyun = scope["type"] == "http" and b"Action=" in scope.get("query_string", b"")
        return "aliyun" if aliyun else "funasr"
    return next((name for prefix, name in _PROTOCOLS if path.startswith(prefix)), "http")


class Followed:
    """ASGI middleware. Needs an ``x-request-id`` in each request, which Serve's proxy puts there."""

    def __init__(self, app: ASGIApp, tracing: Tracing, *, lines: bool, meter: Meter | None = None) -> None:
        """``lines``: write one for each request; else Serve does. ``meter`` counts what comes of them."""
        self._app = app
        self._meter = meter
        self._tracing = tracing
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = headers.get(b"x-request-id", b"").decode("latin-1")[:_LONGEST_ID] or uuid.uuid4().hex
        origin = Origin(request_id, protocol_of(scope))
        activity = Activity(origin.request_id, origin.protocol, meter=self._meter)
        method = scope.get("method", "WS")
        root = UNFOLLOWED
        if origin.protocol != "http" and scope["path"] not in _PROBES:
            traceparent = headers.get(b"traceparent", b"").decode("latin-1")
            root = self._tracing.begin(method, origin, {"http.request.method": method}, traceparent)
        exchange = _Exchange(receive, send, is_live=scope["type"] == "websocket")
        with on_behalf_of(origin), active(activity), root.holding():
            try:
                await self._app(scope, exchange.receive, exchange.send)
            except BaseException as error:
                root.fail(error)
                raise
            finally:
                self._end(scope, method, exchange.status, activity, root)

    def _end(self, scope: Scope, method: str, status: int, activity: Activity, root: Stage) -> None:
        if scope["path"] not in _PROBES:
            _count(activity, status, is_live=scope["type"] == "websocket")
        # The path itself may be anything; that of the route holds nothing of a client's.
        route = getattr(scope.get("route"), "path", None) or "(none)"
        _tell(root, activity)
        root.rename(f"{method} {route}")
        key = "asr.close_code" if scope["type"] == "websocket" else "http.response.status_code"
        root.set(**{"http.route": route, key: status})
        if activity.failed or (status >= _FAULTS and scope["type"] == "http"):
            root.fail(str(status) if activity.error is None else error_name(activity.error))
        if activity.transcribed_at:
            root.child_since("answer", activity.transcribed_at).end()
        root.end()
        if self._lines:
            level = logging.DEBUG if scope["path"] in _PROBES else logging.INFO
            _write(level, f"{method} {route} {status}", activity, method=method, route=route, status=status)


class _Exchange:
    """What goes between a client and the application, with how it ended: the status of the answer, or the
    code by which a WebSocket was closed. 500 and 1006: there was none."""

    def __init__(self, receive: Receive, send: Send, *, is_live: bool) -> None:
        self._receive, self._send = receive, send
        self.status = 1006 if is_live else 500
        if not is_live:
            # Uploads come in many messages, of which none tells the status.
            self.receive: Receive = receive
        else:
            self.receive = self._watched

    async def _watched(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self.status = message.get("code") or 1005
        return message

    async def send(self, message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            self.status = message["status"]
        elif message["type"] == "websocket.close":
            self.status = message.get("code", 1000)
        await self._send(message)


def _count(activity: Activity, status: int, *, is_live: bool) -> None:
    if activity.meter is not None:
        outcome = _connection_outcome(activity, status) if is_live else _answer_outcome(activity, status)
        activity.meter.request(activity.protocol, outcome, None if is_live else activity.seconds)


def _answer_outcome(activity: Activity, status: int) -> str:
    """``status`` is that of HTTP; an answer that had begun may have ended with an error."""
    if status == _CLIENT_GONE:
        return "canceled"
    if activity.failed or status >= 500:
        return "failed"
    return "ok" if status < 400 and activity.error is None else "refused"


def _connection_outcome(activity: Activity, code: int) -> str:
    """``code`` closed the WebSocket, or is the status of HTTP by which it was refused. What a client was told
    and then went on is no end."""
    if activity.failed or code in (_FAULT, 500):
        return "failed"
    if code == _LOST:
        return "canceled"
    return "ok" if code in _GOOD_ENDS else "refused"


def _tell(root: Stage, activity: Activity) -> None:
    """What is known at the end."""
    root.set(
        audio_seconds=round(activity.audio_seconds, 3), retries=activity.retries, replays=activity.replays
    )
    if activity.model is not None:
        root.set(model=activity.model)
    if activity.error is not None:
        root.set(error=error_name(activity.error))


def _write(level: int, message: str, activity: Activity, **fields: str | int) -> None:
    about: dict[str, str | int | float] = {
        **fields,
        "seconds": round(activity.seconds, 3),
        "audio_seconds": round(activity.audio_seconds, 3),
        "retries": activity.retries,
        "replays": activity.replays,
    }
    if activity.model is not None:
        about["model"] = activity.model
    if activity.error is not None:
        about["error"] = error_name(activity.error)
    logger.log(level, "%s %.3fs", message, activity.seconds, extra=about)


FollowJob = Callable[[Job], AbstractContextManager[None]]


def job_follower(tracing: Tracing, *, lines: bool, meter: Meter | None = None) -> FollowJob:
    """What follows an attempt of a job; ``lines``: write one for each; ``meter``: counts what is in it."""

    @contextmanager
    def follow(job: Job) -> Iterator[None]:
        origin = Origin(job.id, job.spec.protocol)
        activity = Activity(origin.request_id, origin.protocol, meter=meter)
        root = tracing.begin("job", origin, {"attempt": job.attempts}, job.spec.traceparent or "")
        with on_behalf_of(origin), active(activity), root.holding():
            try:
                yield
            except BaseException as error:
                activity.status = activity.status or "interrupted"
                root.fail(error)
                raise
            finally:
                status = activity.status or "put back"
                _tell(root, activity)
                root.set(status=status)
                root.end()
                if lines:
                    _write(logging.INFO, f"JOB {status}", activity, status=status, attempt=job.attempts)

    return follow
