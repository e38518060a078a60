"""Hotwords from each client to the model, and back: what is listened for, what is not, and why."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.messages import (
    AudioSlice,
    Hotword,
    Priority,
    Recognition,
    RecognitionOptions,
    VadOptions,
    VadResult,
    VadState,
)
from serve_app.http import create_app
from serve_app.jobs.types import JobSpec, JobStatus
from serve_app.pipeline.graph import DEFAULT_RECOGNITION
from serve_app.pipeline.hotwords_report import UNHEARD, UNKNOWN_LIST, UNSPELLABLE, UNUSED_LIVE
from serve_app.pipeline.types import Sentence, TimedWord, Transcript
from serve_app.settings import Settings
from serve_app.transcriber import TranscriptionOptions
from tests import audio_files
from tests.aliyun_world import MemoryJobs
from tests.aliyun_world import world as aliyun
from tests.dashscope_clients import FINISH, REALTIME, append, dashscope, sentences
from tests.dashscope_clients import whole_task as dashscope_task
from tests.funasr_clients import connected, receive, send_json
from tests.generative_graph import WritingGraph
from tests.jobs_world import OWNER, CountingGraph, JobsWorld, JumpingClock
from tests.live_graph import ToneGraph
from tests.live_sessions import PAUSE, tones
from tests.nls_clients import RECOGNIZER, named, nls_server, whole_task
from tests.realtime_world import TRANSCRIPTION, realtime
from tests.test_dashscope_files import ORDER, client_of
from tests.test_dashscope_files import order as dashscope_order
from tests.test_dashscope_files import service as dashscope_files
from tests.test_file_pipeline import ToneGraph as FileTones

SAID = tones([1, 2, *PAUSE, 3, *PAUSE])
"""Two sentences."""

WAV = audio_files.wav((SAID / 32768).astype("float32"), 16_000)
STEREO = np.stack([SAID / 32768] * 2, axis=1).astype("float32")
SILENCE = audio_files.wav(tones([0] * 20).astype("float32"), 16_000)
TOLD: dict[str, Any] = {"applied": ["魔搭"], "ignored": [{"text": "Öl", "reason": UNSPELLABLE}]}
"""Of 魔搭 and Öl, which the model cannot spell."""

SENT = (Hotword("魔搭", 20), Hotword("Öl", 7))
NO_HOTWORDS = "The model paraformer-starter has no hotwords."


def body(*applied: str, **ignored: str) -> dict[str, Any]:
    return {
        "applied": [*applied],
        "ignored": [{"text": text, "reason": reason} for text, reason in ignored.items()],
    }


class ListeningGraph(ToneGraph):
    """Listens for words without an Ö. ``asked`` is what each recognition was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[RecognitionOptions] = []
        self._files = FileTones()

    async def detect(
        self, audio: AudioSlice, state: VadState | None, final: bool, options: VadOptions
    ) -> VadResult:
        return await self._files.detect(audio, state, final, options)

    async def punctuate(self, words: Sequence[str]) -> list[str]:
        return [""] * (len(words) - 1) + ["。"]

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        self.asked.append(options)
        heard = await super().transcribe(audio, priority=priority, options=options)
        # As a model that knows small letters only.
        applied = tuple(word.text.lower() for word in options.hotwords if "Ö" not in word.text)
        return replace(heard, applied=applied)

    def hotwords(self) -> tuple[Hotword, ...]:
        """What all recognitions were asked to listen for."""
        (words,) = {options.hotwords for options in self.asked}
        return words


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory of a model that has hotwords, as far as the ingress looks."""
    directory = tmp_path_factory.mktemp("seaco")
    (directory / "config.yaml").write_text("model: SeacoParaformer\n", encoding="utf-8")
    return str(directory)


@pytest.fixture
def graph() -> ListeningGraph:
    return ListeningGraph()


@pytest.fixture
async def url(graph: ListeningGraph, listening: str) -> AsyncIterator[str]:
    async with nls_server(graph, paraformer_model=listening) as address:
        yield address


def http_client(graph: ToneGraph, **settings: Any) -> httpx.AsyncClient:
    async def readiness() -> dict[str, str]:
        return {}

    app = create_app(Settings(**settings), graph, readiness)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.fixture
async def client(graph: ListeningGraph, listening: str) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(graph, paraformer_model=listening) as opened:
        yield opened


Ask = Callable[[httpx.AsyncClient, bytes], Any]


def form(path: str, field: str, **data: Any) -> Ask:
    return lambda client, wav: client.post(path, files={field: wav}, data=data)


BY_HTTP: dict[str, tuple[Ask, tuple[Hotword, ...]]] = {
    "OpenAI, hotwords": (
        form("/v1/audio/transcriptions", "file", hotwords='{"魔搭": 20, "Öl": 7}'),
        SENT,
    ),
    "OpenAI, keywords[] and prompt": (
        form("/v1/audio/transcriptions", "file", prompt="Öl", **{"keywords[]": ["魔搭", "一=>二"]}),
        (Hotword("魔搭"), Hotword("Öl")),
    ),
    "OpenAI, verbose_json": (
        form("/v1/audio/transcriptions", "file", response_format="verbose_json", hotwords="魔搭 20 Öl 7"),
        SENT,
    ),
    "Aliyun, one sentence": (
        lambda client, wav: client.post("/stream/v1/asr?vocabulary_id=魔搭 20 Öl 7", content=wav),
        SENT,
    ),
    "Aliyun, flash": (
        lambda client, wav: client.post("/stream/v1/FlashRecognizer?vocabulary_id=魔搭 20 Öl 7", content=wav),
        SENT,
    ),
    "FunASR, /asr": (form("/asr", "file", hotwords="魔搭,Öl"), (Hotword("魔搭"), Hotword("Öl"))),
    "FunASR, /asr with weights": (form("/asr", "file", hotword='{"魔搭": "20", "Öl": 7}'), SENT),
    "FunASR, /recognition": (
        form("/recognition", "audio", hotwords="魔搭,Öl"),
        (Hotword("魔搭"), Hotword("Öl")),
    ),
    "FunASR, /": (form("/", "file", hotwords="魔搭,Öl"), (Hotword("魔搭"), Hotword("Öl"))),
}


@pytest.mark.parametrize("case", BY_HTTP)
async def test_of_a_recording(client: httpx.AsyncClient, graph: ListeningGraph, case: str) -> None:
    ask, sent = BY_HTTP[case]
    response = await ask(client, WAV)
    assert response.status_code == 200, response.text
    assert graph.hotwords() == sent
    assert response.json()["hotwords"] == TOLD


@pytest.mark.parametrize("case", [case for case in BY_HTTP if case != "Aliyun, flash"])
async def test_of_silence(client: httpx.AsyncClient, graph: ListeningGraph, case: str) -> None:
    response = await BY_HTTP[case][0](client, SILENCE)
    assert response.json()["hotwords"] == body(魔搭=UNHEARD, Öl=UNHEARD)
    assert graph.asked == []


@pytest.mark.parametrize("case", BY_HTTP)
async def test_a_model_without_hotwords_says_so(graph: ListeningGraph, case: str) -> None:
    async with http_client(graph) as client:
        response = await BY_HTTP[case][0](client, WAV)
    assert graph.hotwords() == ()
    assert response.json()["hotwords"] == body(魔搭=NO_HOTWORDS, Öl=NO_HOTWORDS)


async def test_who_sends_none_is_told_nothing(client: httpx.AsyncClient) -> None:
    for path, field in (("/v1/audio/transcriptions", "file"), ("/asr", "file"), ("/recognition", "audio")):
        assert "hotwords" not in (await client.post(path, files={field: WAV})).json()
    assert "hotwords" not in (await client.post("/stream/v1/asr", content=WAV)).json()


@pytest.mark.parametrize("response_format", ["text", "srt", "vtt"])
async def test_text_has_its_counts_in_headers(client: httpx.AsyncClient, response_format: str) -> None:
    data = {"response_format": response_format, "hotwords": "魔搭 20 Öl 7 Ray"}
    response = await client.post("/v1/audio/transcriptions", files={"file": WAV}, data=data)
    counts = {name: value for name, value in response.headers.items() if name.startswith("x-hotwords")}
    assert counts == {"x-hotwords-applied": "2", "x-hotwords-ignored": "1"}


async def test_the_last_event_of_a_stream_tells(client: httpx.AsyncClient) -> None:
    data = {"stream": "true", "hotwords": "魔搭 20 Öl 7"}
    response = await client.post("/v1/audio/transcriptions", files={"file": WAV}, data=data)
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith('data: {"type"')]
    assert events[-1]["hotwords"] == TOLD


async def test_who_speaks_by_channel(client: httpx.AsyncClient) -> None:
    both = audio_files.wav(STEREO, 16_000)
    data = {"channels": "speakers", "hotwords": "魔搭 20 Öl 7"}
    response = await client.post("/v1/audio/transcriptions", files={"file": both}, data=data)
    assert response.json()["hotwords"] == TOLD


REFUSED = [
    (form("/v1/audio/transcriptions", "file", hotwords='{"魔搭": 0}'), "hotwords", "from 1 to 100"),
    (form("/v1/audio/transcriptions", "file", hotwords="{'魔搭': 20}"), "hotwords", "must be JSON"),
    (form("/v1/audio/transcriptions", "file", **{"keywords[]": ["好" * 101]}), "keywords", "100 characters"),
    (
        form("/v1/audio/transcriptions", "file", hotwords=" ".join(f"词{i}" for i in range(1001))),
        "hotwords",
        "1000 hotwords at most",
    ),
    (
        form(
            "/v1/audio/transcriptions",
            "file",
            hotwords=" ".join(f"词{i}" for i in range(1000)),
            prompt="一, 二",
        ),
        "hotwords",
        "1000 hotwords at most, not 1002",
    ),
    (form("/asr", "file", hotwords="https://example.com/words.txt"), "hotwords", "no list is read"),
    (
        lambda client, wav: client.post("/stream/v1/asr?vocabulary_id=魔搭 200", content=wav),
        "vocabulary_id",
        "from 1 to 100, not '200'",
    ),
]


@pytest.mark.parametrize(("ask", "field", "message"), REFUSED)
async def test_what_cannot_be_is_told(client: httpx.AsyncClient, ask: Ask, field: str, message: str) -> None:
    response = await ask(client, WAV)
    assert response.status_code == 400
    assert message in response.text
    assert field in response.text


async def test_a_list_that_is_kept_elsewhere_is_not_passed_over_silently(client: httpx.AsyncClient) -> None:
    vocabulary = "0123456789abcdef0123456789abcdef"
    for path in ("asr", "FlashRecognizer"):
        response = await client.post(f"/stream/v1/{path}?vocabulary_id={vocabulary}", content=WAV)
        assert response.json()["hotwords"] == body(**{vocabulary: UNKNOWN_LIST})


async def test_the_servers_words_go_with_all_requests(
    graph: ListeningGraph, listening: str, tmp_path: Path
) -> None:
    path = tmp_path / "hotwords.txt"
    path.write_text("魔搭 90\n通义 30\n", encoding="utf-8")
    async with http_client(graph, paraformer_model=listening, hotwords_file=path) as client:
        await client.post("/asr", files={"file": WAV})
        assert graph.hotwords() == (Hotword("魔搭", 90), Hotword("通义", 30))
        graph.asked.clear()
        response = await client.post("/stream/v1/asr?vocabulary_id=魔搭 20 Öl 7", content=WAV)
        assert graph.hotwords() == (*SENT, Hotword("通义", 30))
        # What the operator of a server has in the list is nothing to tell a client.
        assert response.json()["hotwords"] == TOLD
        graph.asked.clear()
        path.write_text("达摩院\n", encoding="utf-8")
        assert "hotwords" not in (await client.post("/asr", files={"file": WAV})).json()
        assert graph.hotwords() == (Hotword("达摩院"),)
    async with nls_server(graph, paraformer_model=listening, hotwords_file=path) as url:
        graph.asked.clear()
        await whole_task(url, SAID.tobytes(), vocabulary_id="魔搭 20")
        assert graph.hotwords() == (Hotword("魔搭", 20), Hotword("达摩院"))


async def test_a_model_that_reads_is_told_by_its_context(tmp_path: Path) -> None:
    path = tmp_path / "hotwords.txt"
    path.write_text("\n".join(f"词{i} 30" for i in range(1000)) + "\n", encoding="utf-8")
    graph = WritingGraph()
    async with nls_server(graph, default_model="qwen3-asr-starter", hotwords_file=path) as url:
        events = await whole_task(
            url, SAID.tobytes(), vocabulary_id="魔搭 20", context="字" * 5000, enable_intermediate_result=True
        )
    (options,) = {*graph.finals, *(decoding.options for decoding in graph.decodings)}
    assert options.hotwords == ()
    assert options.context.startswith("魔搭, 词0, 词1, ")
    assert 9_900 < len(options.context) <= 10_000
    assert [told["hotwords"] for told in named(events, "SentenceEnd")] == [body("魔搭")] * 2


async def funasr(url: str, *configs: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The replies to an utterance after each config, on one connection."""
    told = []
    async with connected(f"{url}/") as socket:
        for config in configs:
            await send_json(socket, **config)
            await socket.send(SAID.tobytes())
            await send_json(socket, is_speaking=False)
            replies = [await receive(socket)]
            while not replies[-1]["is_final"]:
                replies.append(await receive(socket))
            told.append(replies)
    return told


async def test_funasr_keeps_them_for_the_connection(url: str, graph: ListeningGraph) -> None:
    first, second, cleared = await funasr(
        url, {"mode": "offline", "hotwords": '{"魔搭": "20", "Öl": 7}'}, {}, {"hotwords": ""}
    )
    for (reply,) in (first, second):
        assert reply["hotwords"] == TOLD
        assert reply["hotwords_applied"] is True
    assert {"hotwords", "hotwords_applied"}.isdisjoint(cleared[0])
    assert {options.hotwords for options in graph.asked} == {SENT, ()}


async def test_funasr_in_2pass(url: str, graph: ListeningGraph) -> None:
    (replies,) = await funasr(url, {"mode": "2pass", "hotword": "魔搭 20 Öl 700 Öl 7"})
    finals = [reply for reply in replies if reply["mode"] == "2pass-offline"]
    partials = [reply for reply in replies if reply["mode"] == "2pass-online"]
    assert len(finals) >= 2
    assert {options.hotwords for options in graph.asked} == {(*SENT, Hotword("700"))}
    with_number = {"applied": ["魔搭", "700"], "ignored": TOLD["ignored"]}
    assert [reply["hotwords"] for reply in finals] == [with_number] * len(finals)
    assert {reply["hotwords_applied"] for reply in finals} == {True}
    assert partials
    # The model of live text has no hotwords.
    assert {reply["hotwords_applied"] for reply in partials} == {False}


async def test_funasr_in_online(url: str, graph: ListeningGraph) -> None:
    (replies,) = await funasr(url, {"mode": "online", "hotwords": "魔搭"})
    assert graph.asked == []
    assert replies[-1]["hotwords"] == body(魔搭=UNUSED_LIVE)
    assert {reply["hotwords_applied"] for reply in replies} == {False}


async def test_nls(url: str, graph: ListeningGraph) -> None:
    events = await whole_task(url, SAID.tobytes(), vocabulary_id="魔搭 20 Öl 7 一=>二")
    assert graph.hotwords() == SENT
    assert [told["hotwords"] for told in named(events, "SentenceEnd")] == [TOLD] * 2
    events = await whole_task(url, SAID.tobytes(), service=RECOGNIZER, vocabulary_id="魔搭 20 Öl 7")
    assert named(events, "RecognitionCompleted")[0]["hotwords"] == TOLD
    events = await whole_task(url, SAID.tobytes())
    assert all("hotwords" not in told for told in named(events, "SentenceEnd"))
    vocabulary = "0123456789abcdef0123456789abcdef"
    events = await whole_task(url, SAID.tobytes(), vocabulary_id=vocabulary)
    assert named(events, "SentenceEnd")[0]["hotwords"] == body(**{vocabulary: UNKNOWN_LIST})


@pytest.mark.parametrize("detection", [{"type": "server_vad", "silence_duration_ms": 500}, None])
async def test_realtime(url: str, graph: ListeningGraph, detection: dict[str, Any] | None) -> None:
    async with realtime(url.replace("ws", "http", 1)) as client:
        asked = {"hotwords": {"魔搭": 20}, "keywords": ["一=>二"], "prompt": "Öl, 通义"}
        answer = await client.update(transcription=asked, turn_detection=detection)
        shown = answer["session"]["audio"]["input"]["transcription"]
        assert {name: shown[name] for name in asked} == asked
        await client.say(SAID)
        if detection is None:
            await client.commit()
        told = await client.until(f"{TRANSCRIPTION}.completed")
        assert told["hotwords"] == {**TOLD, "applied": ["魔搭", "通义"]}
        assert graph.hotwords() == (Hotword("魔搭", 20), Hotword("Öl"), Hotword("通义"))
        answer = await client.update(transcription={"hotwords": {"魔搭": 200}})
        assert answer["error"]["param"] == "session.audio.input.transcription.hotwords"
        assert "from 1 to 100" in answer["error"]["message"]
        await client.update(transcription={"hotwords": None, "prompt": None, "keywords": None})
        await client.say(SAID)
        if detection is None:
            await client.commit()
        await client.until(f"{TRANSCRIPTION}.completed")
        assert graph.asked[-1].hotwords == ()


async def test_dashscope(url: str, graph: ListeningGraph) -> None:
    events = await dashscope_task(url, SAID.tobytes(), vocabulary_id="魔搭 20 Öl 7")
    assert graph.hotwords() == SENT
    ends = [sentence for sentence in sentences(events) if sentence["sentence_end"]]
    assert [sentence["hotwords"] for sentence in ends] == [TOLD] * 2
    assert all("hotwords" not in sentence for sentence in sentences(events) if sentence not in ends)


@pytest.mark.parametrize("manual", [False, True])
async def test_dashscope_in_the_dialect_of_qwen(url: str, graph: ListeningGraph, manual: bool) -> None:
    corpus = "魔搭, Öl\n一=>二\n这是一段前文。没有热词。"
    session: dict[str, Any] = {"input_audio_transcription": {"corpus": {"text": corpus}}}
    if manual:
        session["turn_detection"] = None
    async with dashscope(url, f"{REALTIME}?model=paraformer-realtime-v2") as client:
        await client.send({"type": "session.update", "session": session})
        await client.send(append(SAID.tobytes()))
        if manual:
            await client.send({"type": "input_audio_buffer.commit"})
        await client.send(FINISH)
        events, _ = await client.closed()
    told = [event["hotwords"] for event in events if event["type"].endswith(".completed")]
    assert told == [TOLD] * (1 if manual else 2)
    assert graph.hotwords() == (Hotword("魔搭"), Hotword("Öl"))


async def test_qwen() -> None:
    graph = WritingGraph()
    async with nls_server(graph) as url, dashscope(url, "/ws/v1/asr/qwen") as client:
        await client.send({"type": "start", "payload": {"hotwords": {"魔搭": 200}}})
        error = await client.event()
        assert error["details"] == {"param": "hotwords"}
        assert "from 1 to 100, not 200" in error["message"]
        await client.send({"type": "start", "payload": {"hotwords": "魔搭 20 丁=>一", "context": "会议"}})
        await client.send(SAID.tobytes())
        await client.send({"type": "stop"})
        events, _ = await client.closed()
    ends = [event["result"] for event in events if event["type"] in ("segment_end", "final")]
    assert [result["hotwords"] for result in ends] == [body("魔搭")] * len(ends)
    assert ends[0]["text"].startswith("一")
    assert {options.context for options in graph.finals} == {"魔搭\n会议"}


class ListeningJobs(CountingGraph):
    """Listens for the first of its words where 丁 is said, else for the second, if that has no Ö."""

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        heard = await super().transcribe(audio, priority=priority, options=options)
        words = options.hotwords[:1] if heard.words[0].text == "丁" else options.hotwords[1:2]
        return replace(heard, applied=tuple(word.text for word in words if "Ö" not in word.text))


async def test_of_a_job_that_goes_on_after_a_crash(tmp_path: Path, listening: str) -> None:
    """What was listened for before is known after; the result tells it, whatever is served by then."""
    world = JobsWorld.at(tmp_path, paraformer_model=listening, merge_segment_sec=0)
    world.graph = ListeningJobs()
    words = (Hotword("魔搭"), Hotword("通义"), Hotword("Öl"))
    spec = JobSpec(TranscriptionOptions(hotwords=words), protocol="jobs")
    job = await world.submit([1, 2, 3, 4], spec)
    doomed = world.queue(JumpingClock())
    doomed.saves = 2
    async with world.running(doomed, segments_in_flight=1):
        await asyncio.wait_for(doomed.died.wait(), 20)
    world.clock.ahead = 61
    async with world.running(segments_in_flight=1):
        ended = await world.ended(job)
    assert (ended.status, ended.attempts) == (JobStatus.COMPLETED, 2)
    (transcript,) = await world.jobs.transcripts(OWNER, job.id)
    assert sorted(transcript.applied) == ["通义", "魔搭"]


async def run_jobs(directory: Path, model: str) -> None:
    """Work off the one job that waits there."""
    world = JobsWorld.at(directory, paraformer_model=model)
    world.graph = ListeningJobs()
    async with world.running():
        await world.until(lambda: nothing_waits(world))


def nothing_waits(world: JobsWorld) -> bool:
    return world.queue().counts() == (0, 0)


async def test_jobs(graph: ListeningGraph, listening: str, tmp_path: Path) -> None:
    settings = {"paraformer_model": listening, "data_dir": tmp_path / "data"}
    data = {"hotwords": '{"魔搭": 20, "Öl": 7}', "channels": "split"}
    async with http_client(graph, **settings) as client:
        job = (
            await client.post("/v1/jobs", files={"file": audio_files.wav(STEREO, 16_000)}, data=data)
        ).json()
        result = job["links"]["result"]
        early = (await client.get(f"{result}?partial=true")).json()
        assert early["hotwords"] == body(魔搭=UNHEARD, Öl=UNHEARD)
        await run_jobs(tmp_path, listening)
        told = (await client.get(result)).json()
        assert told["hotwords"] == TOLD
        assert [channel["hotwords"] for channel in told["channels"]] == [TOLD] * 2
        text = await client.get(f"{result}?response_format=srt")
        assert text.headers["x-hotwords-ignored"] == "1"
    async with http_client(graph, data_dir=tmp_path / "data") as client:
        # The model that it was recognized by is not served any more.
        told = (await client.get(result)).json()
        assert told["hotwords"] == TOLD


@pytest.mark.parametrize("speakers", ["mix", "speakers"])
async def test_jobs_say_where_a_model_has_none(graph: ListeningGraph, tmp_path: Path, speakers: str) -> None:
    data = {"hotwords": "魔搭", "channels": speakers}
    async with http_client(graph, data_dir=tmp_path / "data") as client:
        job = (await client.post("/v1/jobs", files={"file": WAV}, data=data)).json()
        await run_jobs(tmp_path, Settings().paraformer_model)
        told = (await client.get(job["links"]["result"])).json()
    assert told["hotwords"] == body(魔搭=NO_HOTWORDS)


LISTED = "0123456789abcdef0123456789abcdef"
TRANSCRIPT = Transcript.of(2.0, [Sentence((TimedWord("丁", 0.0, 1.0),))], "zh", ["魔搭"])


async def test_orders_of_dashscope(listening: str) -> None:
    jobs = MemoryJobs()
    app = dashscope_files(jobs, paraformer_model=listening)
    order = dashscope_order("https://example.com/a.wav", vocabulary_id="魔搭 20 Öl 7")
    order["resources"] = [{"resource_id": f"vocab-{LISTED}", "resource_type": "asr_phrase"}]
    async with client_of(app) as client:
        task = (await client.post(ORDER, json=order)).json()["output"]["task_id"]
        (job,) = jobs.jobs.values()
        assert job.spec.options.hotwords == SENT
        jobs.results[task] = (TRANSCRIPT,)
        jobs.change(task, JobStatus.COMPLETED)
        state = (await client.get(f"/api/v1/tasks/{task}")).json()
        told = (await client.get(state["output"]["results"][0]["transcription_url"])).json()
    listed = {"text": f"vocab-{LISTED}", "reason": UNKNOWN_LIST}
    assert told["hotwords"] == {**TOLD, "ignored": [*TOLD["ignored"], listed]}


@pytest.mark.parametrize(
    ("vocabulary", "told"),
    [("魔搭 20 Öl 7", TOLD), (LISTED, body(**{LISTED: UNKNOWN_LIST})), (None, None)],
)
async def test_orders_of_aliyun(listening: str, vocabulary: str | None, told: Any) -> None:
    task = {"file_link": "https://example.com/a.wav", "vocabulary_id": vocabulary}
    async with aliyun(paraformer_model=listening) as here:
        ordered = await here.client.post("/?Action=SubmitTask", data={"Task": json.dumps(task)})
        job = ordered.json()["TaskId"]
        path = f"/?Action=GetTaskResult&TaskId={job}"
        assert "hotwords" not in (await here.client.get(path)).json()
        here.jobs.results[job] = (TRANSCRIPT,)
        here.jobs.change(job, JobStatus.COMPLETED)
        assert (await here.client.get(path)).json().get("hotwords") == told
