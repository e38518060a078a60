"""Traces of the work in replicas, by OpenTelemetry: where spans go, and those of calls and their batches.

A provider of our own is used, not the global one: FastAPI and Ray Serve write to that, a span for each packet
of a live connection among them. OpenTelemetry is imported where it is used, since most services run without.
"""

import functools
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, Literal, Protocol, TypeVar

from deployments.batching import BatchReport
from deployments.logs import stamp_logs
from deployments.origin import Origin, on_behalf_of, origin_now

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, SpanContext

_EXPORT_MS = 1000
"""How long a span waits for others before they are sent, unless ``OTEL_BSP_SCHEDULE_DELAY`` says so."""

_MOST_LINKS = 31
_OTLP_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """Where spans go. ``sample``: the share of requests that is traced, of those whose client does not say;
    ``None``: ``OTEL_TRACES_SAMPLER``, or 0.01 of them, or all with ``file``. ``path``: of the file."""

    exporter: Literal["otlp", "file"]
    sample: float | None = None
    path: str = ""


@dataclass(frozen=True, slots=True)
class Observability:
    """How replicas tell what they do. ``tracing``: ``None`` is off."""

    json_logs: bool = False
    tracing: TraceOptions | None = None


UNOBSERVED = Observability()


def open_provider(options: TraceOptions, resource: Mapping[str, str]) -> "TracerProvider":
    """What makes spans, and sends them off from a thread of its own.

    Args:
        resource: attributes of this process; what ``OTEL_RESOURCE_ATTRIBUTES`` and ``OTEL_SERVICE_NAME`` say
            goes before it.
    """
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    ours = Resource({"service.name": "asr-serve", "service.version": version("asr-serve"), **resource})
    share = options.sample
    if share is None and "OTEL_TRACES_SAMPLER" not in os.environ:
        share = _OTLP_SHARE if options.exporter == "otlp" else 1.0
    provider = TracerProvider(
        sampler=None if share is None else ParentBasedTraceIdRatio(share),
        resource=ours.merge(OTELResourceDetector().detect()),
    )
    delay = None if "OTEL_BSP_SCHEDULE_DELAY" in os.environ else _EXPORT_MS
    provider.add_span_processor(BatchSpanProcessor(_exporter(options), schedule_delay_millis=delay))
    return provider


def _exporter(options: TraceOptions) -> "SpanExporter":
    if options.exporter == "file":
        return _file_exporter(Path(options.path))
    # Takes its address and headers from OTEL_EXPORTER_OTLP_*.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def _file_exporter(path: Path) -> "SpanExporter":
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class FileExporter(SpanExporter):
        """A line of JSON for each span. All processes write to one file: each piece with one call, to its
        end, so that no two of them mix."""

        def export(self, spans: "Sequence[ReadableSpan]") -> SpanExportResult:
            lines = "".join(f"{span.to_json(indent=None)}\n" for span in spans)
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(file, lines.encode())
            finally:
                os.close(file)
            return SpanExportResult.SUCCESS

    return FileExporter()


def traceparent_of(context: "SpanContext") -> str:
    """The header by which a span is named: W3C Trace Context, version 00."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def span_context(traceparent: str) -> "SpanContext":
    """The span that :func:`traceparent_of` has named."""
    from opentelemetry.trace import SpanContext, TraceFlags

    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)))


def context_under(parent: "SpanContext") -> "Context":
    """An OpenTelemetry context in which spans are made under ``parent``."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    return set_span_in_context(NonRecordingSpan(parent), Context())


def failed(span: "Span", error: BaseException | str) -> None:
    """Mark a span as failed, by an error or a kind of one. Messages are left out: they may hold what a client
    sent."""
    from opentelemetry.trace import Status, StatusCode

    kind = error if isinstance(error, str) else type(error).__name__
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, kind))


class Observed:
    """Follows the calls of a replica, and their batches."""

    def __init__(self, provider: "TracerProvider | None" = None, deployment: str = "") -> None:
        """``provider``: ``None``: nothing is traced."""
        self._tracer = None if provider is None else provider.get_tracer("asr_serve")
        self._deployment = deployment

    @contextmanager
    def serving(self, origin: Origin, method: str) -> Iterator[None]:
        """A call of ``method`` is worked on, on behalf of ``origin``."""
        if self._tracer is None or origin.traceparent is None:
            with on_behalf_of(origin):
                yield
            return
        from opentelemetry.trace import SpanKind

        span = self._tracer.start_span(
            f"{self._deployment}.{method}",
            context_under(span_context(origin.traceparent)),
            SpanKind.SERVER,
            {"asr.request_id": origin.request_id, "asr.protocol": origin.protocol},
        )
        here = Origin(origin.request_id, origin.protocol, traceparent_of(span.get_span_context()))
        try:
            with on_behalf_of(here):
                yield
        except BaseException as error:
            failed(span, error)
            raise
        finally:
            span.end()

    def traceparent_now(self) -> str | None:
        """Under which span an item is that comes to a queue now; ``None``: it is not traced."""
        origin = None if self._tracer is None else origin_now()
        return None if origin is None else origin.traceparent

    def reporting(self, report: Callable[[BatchReport], None]) -> Callable[[BatchReport], None]:
        """``report`` that tells of traced items too."""
        if self._tracer is None:
            return report

        def both(batch: BatchReport) -> None:
            report(batch)
            if any(batch.traceparents):
                self._batch(batch)

        return both

    def _batch(self, batch: BatchReport) -> None:
        """Each traced item gets its wait and the batch; that one links to the others of the batch."""
        assert self._tracer is not None
        from opentelemetry.trace import Link

        end = time.time_ns()
        begin = end - round(batch.seconds * 1e9)
        parents = {
            number: span_context(traceparent)
            for number, traceparent in enumerate(batch.traceparents)
            if traceparent is not None
        }
        links = {number: Link(parent) for number, parent in parents.items()}
        about = {
            "asr.batch.items": batch.items,
            "asr.batch.fill": round(batch.fill, 4),
            "asr.batch.audio_seconds": round(batch.audio_seconds, 3),
        }
        for number, parent in parents.items():
            context = context_under(parent)
            arrival = begin - round(batch.waits[number] * 1e9)
            self._tracer.start_span("queue", context, start_time=arrival).end(begin)
            mates = [link for other, link in links.items() if other != number][:_MOST_LINKS]
            span = self._tracer.start_span("batch", context, attributes=about, links=mates, start_time=begin)
            span.end(end)


def observe_process(observability: Observability) -> dict[str, str]:
    """Have the log lines of a replica say whose they are; gives what its spans say of it, if there are any.

    To be called by its constructor.
    """
    stamp_logs(json_lines=observability.json_logs)
    if observability.tracing is None:
        return {}
    from ray import serve

    replica = serve.get_replica_context()
    return {
        "service.instance.id": replica.replica_tag,
        "asr.deployment": replica.deployment,
        "asr.replica": replica.replica_tag,
    }


def observe(observability: Observability) -> Observed:
    """Begin to follow what a replica of a model does. To be called by its constructor."""
    resource = observe_process(observability)
    if observability.tracing is None:
        return Observed()
    return Observed(open_provider(observability.tracing, resource), resource["asr.deployment"])


class _Serving(Protocol):
    _observed: Observed


Replica = TypeVar("Replica", bound=_Serving)
Request = TypeVar("Request")
Reply = TypeVar("Reply")


def observed(
    method: Callable[[Replica, Request], Awaitable[Reply]],
) -> Callable[Concatenate[Replica, Request, ...], Awaitable[Reply]]:
    """A method of a deployment that works on behalf of whom its request names."""

    @functools.wraps(method)
    async def call(self: Replica, request: Request) -> Reply:
        # While a service is replaced by a newer one, requests of the older come here too.
        origin: Origin | None = getattr(request, "origin", None)
        if origin is None:
            return await method(self, request)
        with self._observed.serving(origin, method.__name__):
            return await method(self, request)

    return call
