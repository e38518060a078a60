"""Traces over graphs that stand in for the models: which spans there are, and what they tell."""

import asyncio
import http.server
import io
import pickle
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from ray.exceptions import WorkerCrashedError

from benchmarks import tracing_cost
from deployments.batching import BatchQueue
from deployments.messages import (
    SAMPLE_RATE,
    AlignmentRequest,
    AudioSlice,
    EmbeddingRequest,
    LivePunctuationRequest,
    LiveVadRequest,
    PunctuationRequest,
    RecognitionRequest,
    SpeechRequest,
    StreamOptions,
    StreamStep,
    Token,
    VadOptions,
    VadRequest,
)
from deployments.origin import Origin, on_behalf_of, origin_now
from deployments.tracing import Observed, TraceOptions, observed, open_provider
from serve_app.audio.decode import RawPcm
from serve_app.calls import call_pure
from serve_app.errors import UpstreamLost
from serve_app.http import create_app
from serve_app.jobs.codec import dump_spec, load_spec
from serve_app.jobs.store import NewJob
from serve_app.jobs.types import JobSpec
from serve_app.pipeline.graph import StreamLost
from serve_app.pipeline.live.events import LiveOptions
from serve_app.pipeline.live.session import LiveSession
from serve_app.settings import Settings
from serve_app.stages import UNFOLLOWED, stage
from serve_app.tracing import Tracing
from serve_app.transcriber import TranscriptionOptions
from tests.funasr_world import ReadingGraph, World, speech, wav_file
from tests.live_graph import ToneGraph
from tests.live_sessions import settle, tones
from tests.test_http_app import SilentGraph
from tests.traces import Span, client_span, spans_of

SECRET = "SECRET-KEY"
ORIGIN = Origin("one", "openai")
NO_SAMPLES = np.zeros(0, np.int16)


async def ready() -> dict[str, str]:
    return {"Vad": "READY"}


@asynccontextmanager
async def service(
    graph: Any, data: Path, **settings: Any
) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """A service that traces to ``traces.jsonl`` in ``data``; all is there once this is left."""
    chosen = Settings(tracing="file", data_dir=data, **settings)
    app = create_app(chosen, graph, ready)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield app, client
    app.state.tracing.close()


def traces(data: Path) -> Path:
    return data / "traces.jsonl"


def one(spans: Sequence[Span], name: str) -> Span:
    (found,) = [span for span in spans if span.name == name]
    return found


async def test_a_request_goes_on_with_its_clients_trace(tmp_path: Path) -> None:
    trace_id, header = client_span(7)
    recording = wav_file(speech("东 南 西"))
    async with service(ReadingGraph(World()), tmp_path, api_key=SECRET) as (_, client):
        answer = await client.post(
            f"/v1/audio/transcriptions?token={SECRET}",
            files={"file": recording},
            headers={"traceparent": header, "x-request-id": "mine"},
        )
    assert answer.json()["text"].startswith("东南西")
    spans = spans_of(traces(tmp_path), trace_id)
    root = spans[0]
    assert (root.name, root.parent) == ("POST /v1/audio/transcriptions", "00000000000000aa")
    assert {span.path[0] for span in spans} == {root.name}
    assert {span.name for span in spans} >= {"decode", "vad", "recognition", "finishing", "answer"}
    assert root.attributes["asr.request_id"] == answer.headers["x-request-id"] == "mine"
    assert root.attributes["asr.protocol"] == "openai"
    assert root.attributes["asr.model"] == "paraformer-starter"
    assert root.attributes["asr.audio_seconds"] == pytest.approx(0.3, abs=0.01)
    assert root.attributes["http.response.status_code"] == 200
    assert one(spans, "recognition").attributes["asr.words"] == 3
    text = traces(tmp_path).read_text(encoding="utf-8")
    for kept in (SECRET, "东", "\\u4e1c"):
        assert kept not in text


async def test_a_request_without_a_trace_begins_one_and_probes_do_not(tmp_path: Path) -> None:
    async with service(SilentGraph(), tmp_path) as (_, client):
        await client.get("/healthz")
        await client.get("/readyz")
        await client.get("/demo")
        await client.get("/v1/models")
        await client.get("/v1/models")
    lines = traces(tmp_path).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    assert all('"GET /v1/models"' in line for line in lines)
    assert lines[0].split("trace_id")[1] != lines[1].split("trace_id")[1]


async def test_a_fault_is_told_by_its_kind_and_not_by_its_message(tmp_path: Path) -> None:
    graph = SilentGraph()
    graph.fault = UpstreamLost(SECRET)
    trace_id, header = client_span(8)
    async with service(graph, tmp_path) as (_, client):
        files = {"file": wav_file(speech("一"))}
        await client.post("/v1/audio/transcriptions", files=files, headers={"traceparent": header})
    spans = spans_of(traces(tmp_path), trace_id)
    assert one(spans, "vad").failed
    assert one(spans, "vad").attributes["error.type"] == "UpstreamLost"
    assert spans[0].attributes["http.response.status_code"] == 503
    assert spans[0].failed
    assert spans[0].attributes["error.type"] == spans[0].attributes["asr.error"]
    assert SECRET not in traces(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize(("sample", "flag", "traced"), [(0, "00", 0), (1, "00", 0), (0, "01", 1)])
async def test_a_client_that_says_so_decides_whether_it_is_traced(
    tmp_path: Path, sample: float, flag: str, traced: int
) -> None:
    trace_id, header = client_span(9)
    async with service(SilentGraph(), tmp_path, tracing_sample=sample) as (_, client):
        await client.get("/v1/models", headers={"traceparent": f"{header[:-2]}{flag}"})
        await client.get("/v1/models", headers={"traceparent": "nonsense"})
    assert len(spans_of(traces(tmp_path), trace_id)) == traced


async def read(session: LiveSession) -> None:
    async for _ in session.events():
        pass


class ForgetfulGraph(ToneGraph):
    """Loses the first stream."""

    async def stream(self, step: StreamStep) -> tuple[Token, ...]:
        if step.stream_id.endswith(".0.0"):
            raise StreamLost("it is gone")
        return await super().stream(step)


async def test_a_live_session_is_a_span_with_one_for_each_sentence(tmp_path: Path) -> None:
    async with service(ForgetfulGraph(), tmp_path) as (app, _):
        live, tracing = app.state.services.live, app.state.tracing
        root: Any = tracing.begin("WS /", ORIGIN, {})
        with on_behalf_of(ORIGIN), root.holding():
            async with live.open(LiveOptions(near_field=None)) as session:
                # As protocols do: who reads is there before the first audio.
                reading = asyncio.create_task(read(session))
                await settle()
                await session.push(tones([0, 3, 4, *[0] * 12, 5, 6, *[0] * 12]))
                await session.finish()
                await reading
        root.end()
    spans = spans_of(traces(tmp_path), root.trace_id)
    session_span = one(spans, "session")
    assert session_span.path == ("WS /", "session")
    assert session_span.attributes["asr.sentences"] == 2
    assert session_span.attributes["asr.audio_seconds"] == pytest.approx(3.7, abs=0.01)
    assert session_span.events.count("replay") == 1
    assert [span.path for span in spans if span.name == "sentence"] == [("WS /", "session", "sentence")] * 2
    recognized = [span for span in spans if span.name == "recognition"]
    assert [span.path for span in recognized] == [("WS /", "session", "sentence", "recognition")] * 2
    assert {span.name for span in spans} == {"WS /", "session", "sentence", "recognition", "punctuation"}


async def test_what_a_client_leaves_undone_ends_with_its_session(tmp_path: Path) -> None:
    graph = ToneGraph()
    async with service(graph, tmp_path) as (app, _):
        live, tracing = app.state.services.live, app.state.tracing
        root: Any = tracing.begin("WS /", ORIGIN, {})
        with root.holding():
            left = stage("sentence")
            async with live.open(LiveOptions(near_field=None)) as session:
                await session.push(tones([0, 3]))
        root.end()
        left.end()
    spans = spans_of(traces(tmp_path), root.trace_id)
    assert sorted(span.path for span in spans) == [("WS /",), ("WS /", "sentence"), ("WS /", "session")]
    assert max(span.end for span in spans) == spans[0].end


async def test_calls_that_are_made_again_are_told(tmp_path: Path) -> None:
    tracing = Tracing(TraceOptions("file", 1.0, str(traces(tmp_path))))
    attempts = iter([WorkerCrashedError(), None])

    async def send() -> str:
        if (error := next(attempts)) is not None:
            raise error
        return "answer"

    root: Any = tracing.begin("request", ORIGIN, {})
    with root.holding(), stage("vad"):
        assert await call_pure("Vad", send) == "answer"
    root.end()
    tracing.close()
    assert one(spans_of(traces(tmp_path), root.trace_id), "vad").events == ("retry",)


class Marks:
    """A deployment without a model, nor Ray."""

    def __init__(self, watcher: Observed) -> None:
        self._observed = watcher
        self.origins: list[Origin | None] = []
        self.reported: list[Origin | None] = []
        self.queue: BatchQueue[int, int] = BatchQueue(
            self._work,
            100,
            report=watcher.reporting(lambda report: self.reported.append(origin_now())),
            wait_seconds=0.2,
            max_items=3,
            traceparent=watcher.traceparent_now,
        )

    def _work(self, items: Sequence[int]) -> list[int]:
        if 0 in items:
            raise ValueError(SECRET)
        return [*items]

    @observed
    async def punctuate(self, request: PunctuationRequest) -> int:
        self.origins.append(origin_now())
        return await self.queue.submit(len(request.words), audio_seconds=2.0)


async def test_items_of_one_batch_stay_in_their_own_traces(tmp_path: Path) -> None:
    options = TraceOptions("file", 1.0, str(traces(tmp_path)))
    tracing, provider = Tracing(options), open_provider(options, {"asr.deployment": "Marks"})
    marks = Marks(Observed(provider, "Marks"))
    roots: list[Any] = [tracing.begin("request", Origin(name, "openai"), {}) for name in ("one", "two")]

    async def ask(root: Any, words: int) -> None:
        with root.holding(), stage("punctuation"):
            await marks.punctuate(PunctuationRequest(["x"] * words))

    with on_behalf_of(Origin("untraced", "openai")):
        untraced = PunctuationRequest(["x"])
    results = await asyncio.gather(
        ask(roots[0], 1), ask(roots[1], 0), marks.punctuate(untraced), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), ValueError, int]
    for root in roots:
        root.end()
    tracing.close()
    provider.shutdown()
    ids = [root.trace_id for root in roots]
    for trace_id, mate, failed in ((ids[0], ids[1], False), (ids[1], ids[0], True)):
        spans = spans_of(traces(tmp_path), trace_id)
        call = ("request", "punctuation", "Marks.punctuate")
        assert [span.path for span in spans] == [
            call[:1],
            call[:2],
            call,
            (*call, "queue"),
            (*call, "batch"),
        ]
        batch = spans[-1]
        assert batch.attributes["asr.batch.items"] == 3
        assert batch.attributes["asr.batch.audio_seconds"] == 6.0
        assert batch.links == (mate,)
        assert batch.begin == spans[-2].end
        assert spans[2].failed == failed
        assert spans[2].deployment == "Marks"
    assert SECRET not in traces(tmp_path).read_text(encoding="utf-8")
    assert {origin.request_id for origin in marks.origins if origin} == {"one", "two", "untraced"}
    assert marks.reported == [None]


def test_requests_say_on_whose_behalf_they_are_made_and_packets_are_not_traced() -> None:
    origin = Origin("one", "openai", client_span(1)[1])
    nothing = AudioSlice(())
    with on_behalf_of(origin):
        traced: list[Any] = [
            VadRequest(nothing, None, False, VadOptions()),
            RecognitionRequest(nothing),
            SpeechRequest(nothing),
            AlignmentRequest(nothing, (), "zh"),
            EmbeddingRequest(nothing, ()),
            PunctuationRequest(()),
            LivePunctuationRequest((), ()),
        ]
        packets: list[Any] = [
            StreamStep("s", 0, NO_SAMPLES, False, StreamOptions()),
            LiveVadRequest(NO_SAMPLES, 1, None, False, VadOptions()),
        ]
    assert {pickle.loads(pickle.dumps(request)).origin for request in traced} == {origin}
    assert {request.origin for request in packets} == {Origin("one", "openai")}
    assert RecognitionRequest(nothing) == traced[1]
    assert RecognitionRequest(nothing).origin is None


Received = tuple[str, str | None, ExportTraceServiceRequest]


class _Collector(http.server.BaseHTTPRequestHandler):
    """Takes what OTLP exporters send."""

    received: list[Received]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        sent = ExportTraceServiceRequest.FromString(body)
        self.received.append((self.path, self.headers.get("x-tenant"), sent))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the name is http.server's
        return


@contextmanager
def collector() -> Iterator[tuple[str, list[Received]]]:
    received: list[Received] = []
    handler = type("Collector", (_Collector,), {"received": received})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()


def test_spans_go_where_the_standard_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as (address, received):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=speech")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "callcenter")
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
        tracing = Tracing(TraceOptions("otlp"), {"asr.deployment": "Ingress"})
        tracing.begin("request", ORIGIN, {"audio_seconds": 1.5}).end()
        tracing.close()
    ((path, tenant, sent),) = received
    assert (path, tenant) == ("/v1/traces", "speech")
    (process,) = sent.resource_spans
    resource = {attribute.key: attribute.value.string_value for attribute in process.resource.attributes}
    assert resource["service.name"] == "callcenter"
    assert resource["asr.deployment"] == "Ingress"
    (span,) = process.scope_spans[0].spans
    assert span.name == "request"
    assert {attribute.key for attribute in span.attributes} == {
        "asr.request_id",
        "asr.protocol",
        "asr.audio_seconds",
    }


def test_an_order_is_the_same_whoever_traces_it() -> None:
    plain, traced = JobSpec(), JobSpec(traceparent=client_span(1)[1])
    assert NewJob("a", "me", plain, "").fingerprint == NewJob("b", "me", traced, "").fingerprint
    assert "traceparent" not in dump_spec(plain)
    assert load_spec(dump_spec(plain)) == plain
    assert load_spec(dump_spec(traced)) == traced


def test_a_request_that_is_not_sampled_costs_nothing_more(tmp_path: Path) -> None:
    tracing = Tracing(TraceOptions("file", 0.0, str(traces(tmp_path))))
    assert tracing.begin("request", ORIGIN, {}) is UNFOLLOWED
    tracing.close()
    assert not traces(tmp_path).exists()


def test_off_is_off() -> None:
    tracing = Tracing(None)
    assert tracing.begin("request", ORIGIN, {}) is UNFOLLOWED
    assert stage("vad", audio_seconds=1.0) is UNFOLLOWED
    graph: Any = SilentGraph()
    assert tracing.graph(graph) is graph


async def test_a_long_recording_does_not_fill_its_trace(tmp_path: Path) -> None:
    async with service(ReadingGraph(World()), tmp_path) as (app, _):
        root = app.state.tracing.begin("request", ORIGIN, {})
        with root.holding():
            for _ in range(2100):
                stage("vad").end()
            options = TranscriptionOptions(raw=RawPcm(SAMPLE_RATE))
            source = io.BytesIO(speech("一 二 三"))
            assert (await app.state.services.transcriber.transcribe(source, options)).text
        root.end()
    assert len(spans_of(traces(tmp_path), root.trace_id)) == 2001


async def test_what_tracing_costs_can_be_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracing_cost, "CALLS", 3)
    monkeypatch.setattr(tracing_cost, "ROUNDS", 1)
    await tracing_cost.main()
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("  ")[0] for row in rows] == ["off", "not sampled", "sampled"]
