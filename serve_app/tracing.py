"""Traces of requests, live sessions and jobs: a span for each, and one for each stage in it.

Parents are kept in contexts of our own and not in OpenTelemetry's, into which FastAPI and Ray Serve put spans
that are not exported.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from deployments.messages import (
    AudioPiece,
    AudioSlice,
    Embeddings,
    Hypothesis,
    Pcm,
    Priority,
    PunctuatedBlock,
    Recognition,
    RecognitionOptions,
    StreamStep,
    Token,
    VadOptions,
    VadResult,
    VadState,
)
from deployments.origin import Origin, on_behalf_of, untraced_origin
from deployments.tracing import Observability, TraceOptions, failed, open_provider, traceparent_of
from serve_app.pipeline.graph import DEFAULT_RECOGNITION, LiveGraph
from serve_app.settings import Settings
from serve_app.stages import UNFOLLOWED, Stage, Value, as_current, stage

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

MOST_SPANS = 2000
"""Stages of one trace that get spans; a day of speech has more sentences than a trace can show."""


def trace_options(settings: Settings) -> TraceOptions | None:
    """Where spans go, by the settings; ``None``: nothing is traced."""
    if settings.tracing == "off":
        return None
    path = settings.data_dir.expanduser() / "traces.jsonl"
    return TraceOptions(settings.tracing, settings.tracing_sample, str(path.absolute()))


def observability_of(settings: Settings) -> Observability:
    """What replicas are told of the settings."""
    return Observability(settings.log_format == "json", trace_options(settings))


class Tracing:
    """Begins the trace of each request, if it is one of those that are traced."""

    def __init__(self, options: TraceOptions | None, resource: Mapping[str, str] | None = None) -> None:
        """``resource``: attributes of this process."""
        self._provider: TracerProvider | None = None
        self._tracer: Tracer | None = None
        if options is not None:
            self._provider = open_provider(options, resource or {})
            self._tracer = self._provider.get_tracer("asr_serve")

    @property
    def is_on(self) -> bool:
        """Whether any request may be traced."""
        return self._tracer is not None

    def begin(self, name: str, origin: Origin, values: Mapping[str, Value], traceparent: str = "") -> Stage:
        """The first span of a request, of its own trace or of the one that ``traceparent`` names."""
        if self._tracer is None:
            return UNFOLLOWED
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        about: dict[str, Value] = {"request_id": origin.request_id, "protocol": origin.protocol, **values}
        given = TraceContextTextMapPropagator().extract({"traceparent": traceparent}, context=Context())
        span = self._tracer.start_span(name, given, SpanKind.SERVER, _named(about))
        if not span.get_span_context().trace_flags.sampled:
            return UNFOLLOWED
        return TracedStage(self._tracer, span, origin, [MOST_SPANS])

    def graph(self, graph: LiveGraph) -> LiveGraph:
        """``graph``, of which calls are traced."""
        return graph if self._tracer is None else TracedGraph(graph)

    def close(self) -> None:
        """Send off what is left."""
        if self._provider is not None:
            self._provider.shutdown()


def _named(values: Mapping[str, Value]) -> dict[str, Value]:
    """Attributes are ours unless they say whose they are."""
    return {name if "." in name else f"asr.{name}": value for name, value in values.items()}


class TracedStage(Stage):
    """A stage with a span."""

    __slots__ = ("_entered", "_origin", "_parent", "_parts", "_room", "_span", "_tracer", "_worked")

    def __init__(
        self,
        tracer: "Tracer",
        span: "Span",
        origin: Origin,
        room: list[int],
        parent: "TracedStage | None" = None,
    ) -> None:
        """``room``: how many more spans the trace may have, shared by all of its stages."""
        self._tracer = tracer
        self._span = span
        self._origin = Origin(origin.request_id, origin.protocol, traceparent_of(span.get_span_context()))
        self._room = room
        self._parent = parent
        self._parts: set[TracedStage] = set()
        self._worked: float | None = None
        self._entered = ExitStack()

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return f"{self._span.get_span_context().trace_id:032x}"

    def child(self, name: str, values: dict[str, Value]) -> Stage:
        return self._begin(name, values)

    def child_since(self, name: str, begin: int) -> Stage:
        return self._begin(name, {}, begin)

    def _begin(self, name: str, values: dict[str, Value], begin: int | None = None) -> Stage:
        if self._room[0] <= 0:
            return UNFOLLOWED
        self._room[0] -= 1
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        here = set_span_in_context(self._span, Context())
        span = self._tracer.start_span(name, here, attributes=_named(values), start_time=begin)
        part = TracedStage(self._tracer, span, self._origin, self._room, self)
        self._parts.add(part)
        return part

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def set(self, **values: Value) -> None:
        self._span.set_attributes(_named(values))

    def event(self, name: str, **values: Value) -> None:
        self._span.add_event(name, _named(values))

    def fail(self, error: BaseException | str) -> None:
        failed(self._span, error)

    def end(self) -> None:
        if not self._span.is_recording():
            return
        # What was left undone ends with the whole, so that no span lacks its parent.
        for part in [*self._parts]:
            part.end()
        if self._parent is not None:
            self._parent._parts.discard(self)
        if self._worked is not None:
            self._span.set_attribute("asr.busy_seconds", round(self._worked, 6))
        self._span.end()

    @contextmanager
    def _holding(self) -> Iterator[None]:
        with as_current(self), on_behalf_of(self._origin):
            yield

    def holding(self) -> AbstractContextManager[None]:
        return self._holding()

    @contextmanager
    def _working(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._worked = (self._worked or 0.0) + time.perf_counter() - began

    def working(self) -> AbstractContextManager[None]:
        return self._working()

    def __enter__(self) -> Self:
        self._entered.enter_context(self._holding())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entered.close()
        if error is not None:
            self.fail(error)
        self.end()


class TracedGraph:
    """Implements :class:`serve_app.pipeline.graph.LiveGraph`: another graph, whose calls are stages.

    Those that a live session makes for each packet are none: there are several in a second, of which none
    tells more than its metrics do.
    """

    def __init__(self, graph: LiveGraph) -> None:
        self._graph = graph

    async def store(self, samples: Pcm) -> AudioPiece:
        return await self._graph.store(samples)

    async def detect(
        self, audio: AudioSlice, state: VadState | None, final: bool, options: VadOptions
    ) -> VadResult:
        with stage("vad", audio_seconds=audio.seconds):
            return await self._graph.detect(audio, state, final, options)

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        with stage("recognition", model=options.model, audio_seconds=audio.seconds) as recognizing:
            recognition = await self._graph.transcribe(audio, priority=priority, options=options)
            recognizing.set(words=len(recognition.words))
            return recognition

    async def embed(
        self, audio: AudioSlice, windows: Sequence[tuple[int, int]], *, priority: Priority = Priority.REQUEST
    ) -> Embeddings:
        with stage("voices", audio_seconds=audio.seconds, windows=len(windows)):
            return await self._graph.embed(audio, windows, priority=priority)

    async def punctuate(self, words: Sequence[str]) -> list[str]:
        with stage("punctuation", words=len(words)):
            return await self._graph.punctuate(words)

    async def detect_live(
        self, samples: Pcm, block: int, state: VadState | None, final: bool, options: VadOptions
    ) -> list[VadResult]:
        return await self._graph.detect_live(samples, block, state, final, options)

    async def stream(self, step: StreamStep) -> tuple[Token, ...]:
        return await self._graph.stream(step)

    async def drop_stream(self, stream_id: str) -> None:
        await self._graph.drop_stream(stream_id)

    async def decode(
        self,
        audio: AudioSlice,
        tail: Pcm,
        options: RecognitionOptions,
        *,
        prefix: Sequence[int],
        max_tokens: int,
        session_id: str,
    ) -> Hypothesis:
        with on_behalf_of(untraced_origin()):
            return await self._graph.decode(
                audio, tail, options, prefix=prefix, max_tokens=max_tokens, session_id=session_id
            )

    async def punctuate_live(self, words: Sequence[str], context: Sequence[str]) -> PunctuatedBlock:
        with stage("punctuation", words=len(words)):
            return await self._graph.punctuate_live(words, context)
