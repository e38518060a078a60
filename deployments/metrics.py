"""Every Prometheus metric that the service exports: one list.

Code that counts makes its instruments of this list (:mod:`deployments.instruments`); dashboards, alerts and
the table in ``docs/observability.md`` are made of it, too. No Ray here.

What a tag may be is listed as well where it can be: each value is a series of its own in each replica, so no
tag holds what a client chose.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
Source = Literal["models", "ingress", "jobs", "server"]
"""Who exports a metric: each model deployment, ``Ingress``, ``Jobs``, or ``asr-serve serve`` itself."""

ANY: tuple[str, ...] = ()
"""Values of a tag that the configuration decides, such as names of deployments."""

PROTOCOLS = (
    "openai",
    "realtime",
    "funasr",
    "nls",
    "aliyun",
    "dashscope",
    "qwen",
    "jobs",
    "speakers",
    "http",
)
"""What a client speaks; see :func:`serve_app.following.protocol_of`. ``http`` is none of recognition: pages,
and questions whether the service is there."""

LIVE_PROTOCOLS = ("realtime", "funasr", "nls", "dashscope", "qwen")
"""Those with live sessions."""

OUTCOMES = ("ok", "refused", "failed", "canceled")
"""How a request ended: served; the client was told what was wrong with it, or to come again; the server was
at fault; the client left before its answer."""

REFUSALS = ("unauthenticated", "rate_limited", "overloaded")
FAULTS = ("upstream_lost", "internal")

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 30, 60)
_LONG = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
_LATENCIES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 30)
_ITEMS = (1, 2, 4, 8, 16, 32, 64)
_SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
_RTF = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 2, 5)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: as the code knows it; see :attr:`exported`.
        unit: ``seconds``, ``bytes``, ``items``, ``share`` (0 to 1), ``events``, or what is divided by what.
        tags: values that each tag may have, or :data:`ANY`. Serve adds ``application``, ``deployment`` and
            ``replica``.
        buckets: upper bounds of a histogram.
        zeros: values of tags with which a counter is there from the start, with 0: of a series that begins
            with 1, Prometheus sees no increase.
    """

    name: str
    kind: Kind
    unit: str
    source: Source
    description: str
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()
    zeros: Mapping[str, tuple[str, ...]] | None = None

    @property
    def exported(self) -> str:
        """Its name in Prometheus: Ray's prefix, and the ending of counters."""
        return f"ray_{self.name}" + ("_total" if self.kind == "counter" else "")


def _models(name: str, kind: Kind, unit: str, description: str, *buckets: float) -> Metric:
    # Those without tags are one series, which is there from the start.
    return Metric(name, kind, unit, "models", description, buckets=buckets, zeros={})


_PROTOCOL = {"protocol": PROTOCOLS}
_LIVE = {"protocol": LIVE_PROTOCOLS}

AUDIO_SECONDS = _models("asr_audio_seconds", "counter", "seconds", "Audio that the model worked off.")
BUSY_SECONDS = _models("asr_busy_seconds", "counter", "seconds", "Time that the model needed for it.")
STAGE_RTF = _models("asr_stage_rtf", "histogram", "seconds / second", "Work per second of audio.", *_RTF)
BATCH_ITEMS = _models("asr_batch_items", "histogram", "items", "Items in a batch.", *_ITEMS)
BATCH_FILL = _models(
    "asr_batch_fill", "histogram", "share", "Share of its budget that a batch used.", *_SHARES
)
QUEUE_SECONDS = _models(
    "asr_queue_seconds", "histogram", "seconds", "Wait of an item before its batch ran.", *_SECONDS
)
WAITING_ITEMS = _models("asr_waiting_items", "gauge", "items", "Items that no batch has taken yet.")
WAITING_AUDIO = _models("asr_waiting_audio_seconds", "gauge", "seconds", "Audio of the items that wait.")
RUNNING_AUDIO = _models("asr_running_audio_seconds", "gauge", "seconds", "Audio that is being worked on.")
OLDEST_WAIT = _models(
    "asr_oldest_wait_seconds", "gauge", "seconds", "How long the item that waits longest has waited."
)
DRAIN_SECONDS = _models(
    "asr_drain_seconds", "gauge", "seconds", "Time that the model needs for all that waits or runs."
)
STAGE_LAG = _models(
    "asr_stage_lag_seconds",
    "gauge",
    "seconds",
    "95th percentile, over the last 10 s, from the arrival of an item of a live session to its result.",
)
BUSY_SHARE = _models("asr_busy_share", "gauge", "share", "Share of the last 10 s in which the model worked.")
MODEL_SPEED = _models(
    "asr_audio_per_busy_second", "gauge", "seconds / second", "Audio worked off in a second of work, lately."
)
STREAMS = _models("asr_streams", "gauge", "items", "Live streams that a ParaformerStreaming replica keeps.")
MODEL_LOAD = _models("asr_model_load_seconds", "gauge", "seconds", "What loading and warming up took.")
GPU_MEMORY = _models(
    "asr_gpu_memory_bytes",
    "gauge",
    "bytes",
    "GPU memory that PyTorch has reserved in the replica; 0 without a GPU. Not that of vLLM or ONNX Runtime.",
)

REQUESTS = Metric(
    "asr_requests",
    "counter",
    "events",
    "ingress",
    "HTTP requests that were answered, but for questions about health, and WebSocket connections that ended.",
    {**_PROTOCOL, "outcome": OUTCOMES},
    zeros={**_PROTOCOL, "outcome": OUTCOMES},
)
REQUEST_SECONDS = Metric(
    "asr_request_seconds",
    "histogram",
    "seconds",
    "ingress",
    "From an HTTP request to the end of its answer, the upload included.",
    _PROTOCOL,
    _LONG,
)
ERRORS = Metric(
    "asr_errors",
    "counter",
    "events",
    "ingress",
    "Errors that clients were told of, by the class in serve_app/errors.py; a connection may have several.",
    {**_PROTOCOL, "error": ANY},
    zeros={**_PROTOCOL, "error": REFUSALS + FAULTS},
)
RECEIVED_AUDIO = Metric(
    "asr_received_audio_seconds",
    "counter",
    "seconds",
    "ingress",
    "Audio that was taken in and decoded: files at their end, live audio as it comes. Jobs count in Jobs.",
    {**_PROTOCOL, "kind": ("file", "live")},
    zeros={**_PROTOCOL, "kind": ("file", "live")},
)
FILES = Metric("asr_files", "gauge", "items", "ingress", "Files that hold a place.")
MAX_FILES = Metric("asr_max_files", "gauge", "items", "ingress", "Files that may: MAX_CONCURRENT_FILES.")
FILE_SECONDS = Metric(
    "asr_file_seconds",
    "histogram",
    "seconds",
    "ingress",
    "From the begin of decoding a file to its transcript.",
    _PROTOCOL,
    _LONG,
)
FILE_RTF = Metric(
    "asr_file_rtf",
    "histogram",
    "seconds / second",
    "ingress",
    "The same, per second of its audio.",
    _PROTOCOL,
    _RTF,
)
FILE_WORK_SECONDS = Metric(
    "asr_file_work_seconds",
    "counter",
    "seconds",
    "ingress",
    "Sum of asr_file_seconds, exactly: divided by the audio of files it is their mean RTF.",
    _PROTOCOL,
    zeros=_PROTOCOL,
)
LIVE_SESSIONS = Metric(
    "asr_live_sessions", "gauge", "items", "ingress", "Live sessions that are open.", _LIVE
)
MAX_LIVE_SESSIONS = Metric(
    "asr_max_live_sessions", "gauge", "items", "ingress", "Live sessions that may be: MAX_LIVE_SESSIONS."
)
LIVE_ENDED = Metric(
    "asr_live_sessions_ended",
    "counter",
    "events",
    "ingress",
    "Live sessions by how they ended: with all events told, by an error, or because the client left.",
    {**_LIVE, "outcome": ("finished", "error", "abandoned")},
    zeros={**_LIVE, "outcome": ("finished", "error", "abandoned")},
)
LIVE_FIRST_PARTIAL = Metric(
    "asr_live_first_partial_seconds",
    "histogram",
    "seconds",
    "ingress",
    "From a session's first audio to its first partial text.",
    _LIVE,
    _LATENCIES,
)
LIVE_FINAL_AFTER_END = Metric(
    "asr_live_final_after_end_seconds",
    "histogram",
    "seconds",
    "ingress",
    "From the end of a session's audio to its last event.",
    _LIVE,
    _LATENCIES,
)
LIVE_LAG = Metric(
    "asr_live_lag_seconds",
    "histogram",
    "seconds",
    "ingress",
    "From the arrival of the end of a sentence to its final text; the pause that ends it is a part.",
    _LIVE,
    _LATENCIES,
)
LIVE_REPLAYS = Metric(
    "asr_live_replays",
    "counter",
    "events",
    "ingress",
    "Streams that were lost with a replica, and begun again with the audio that was kept.",
    _LIVE,
    zeros=_LIVE,
)
LOST_CALLS = Metric(
    "asr_lost_calls",
    "counter",
    "events",
    "ingress",
    "Calls whose replica was lost and that were made again, by the deployment that was called. In Jobs, too.",
    {"stage": ANY},
)

JOBS_QUEUED = Metric("asr_jobs_queued", "gauge", "items", "jobs", "Jobs that wait, in the whole database.")
JOBS_RUNNING = Metric(
    "asr_jobs_running", "gauge", "items", "jobs", "Jobs that are worked on, in the whole database."
)
JOBS_OLDEST = Metric(
    "asr_jobs_oldest_seconds", "gauge", "seconds", "jobs", "Age of the oldest job that has not begun."
)
JOBS_ENDED = Metric(
    "asr_jobs_ended",
    "counter",
    "events",
    "jobs",
    "Jobs that ended, by status.",
    {"status": ("completed", "failed")},
    zeros={"status": ("completed", "failed")},
)
JOB_AUDIO = Metric(
    "asr_job_audio_seconds", "counter", "seconds", "jobs", "Audio of the jobs that were completed.", zeros={}
)
WEBHOOKS = Metric(
    "asr_webhooks",
    "counter",
    "events",
    "jobs",
    "Attempts to tell the end of a job: it was taken, will be tried again, or was given up.",
    {"outcome": ("delivered", "postponed", "given_up")},
    zeros={"outcome": ("delivered", "postponed", "given_up")},
)

CERTIFICATE_END = Metric(
    "asr_certificate_expiry_timestamp_seconds",
    "gauge",
    "seconds since 1970",
    "server",
    "When the certificate of the edge ends that `asr-serve serve` started.",
)

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them, in the order of this file."""
