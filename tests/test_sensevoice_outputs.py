"""Language, emotion and audio events in the answers of all protocols, over a graph that tells them."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.messages import (
    AudioSlice,
    Priority,
    Recognition,
    RecognitionOptions,
    VadOptions,
    VadResult,
    VadState,
)
from serve_app.http import create_app
from serve_app.jobs.types import Job, JobSpec, JobStatus
from serve_app.pipeline.graph import DEFAULT_RECOGNITION
from serve_app.pipeline.types import Sentence, TimedWord, Transcript
from serve_app.rendering.filetrans import callback_body, job_body
from serve_app.settings import Settings
from tests import (
    audio_files,
    dashscope_clients,
    funasr_clients,
    memory_jobs,
    nls_clients,
    test_file_pipeline,
)
from tests.live_graph import ToneGraph
from tests.live_sessions import PAUSE, tones
from tests.memory_jobs import MemoryJobs
from tests.openai_world import recording
from tests.realtime_world import TRANSCRIPTION, realtime, realtime_server
from tests.test_jobs_api import events_in

PATH = "/v1/audio/transcriptions"
HEARD = {
    "丁": ("zh", "happy", ("laughter",)),
    "丂": ("zh", "sad", ()),
    "七": ("en", None, ("bgm", "cough")),
}
"""What is told of a segment that begins with this character, those of the levels 1, 2 and 3."""

RAW = "".join(
    (
        "<|zh|><|HAPPY|><|laughter|><|withitn|>丁。",
        "<|zh|><|SAD|><|withitn|>丂。",
        "<|en|><|bgm|><|cough|><|withitn|>七。",
    )
)
FELT = [("happy", ["laughter"]), ("sad", []), (None, ["bgm", "cough"])]
TALK = [1, *PAUSE, 2, *PAUSE, 3, *PAUSE]
LONG_TALK = [1, *PAUSE * 4, 2, *PAUSE * 4, 3]
"""With pauses that end a segment of a recording, too."""

TOLD = [
    {"language": "zh", "emotion": "happy", "events": ["laughter"]},
    {"language": "zh", "emotion": "sad", "events": []},
    {"language": "en", "emotion": None, "events": ["bgm", "cough"]},
]


class FeelingGraph(ToneGraph):
    """Tells of each segment what :data:`HEARD` says; writes marks if it is to write numbers in digits."""

    def __init__(self) -> None:
        super().__init__()
        self._files = test_file_pipeline.ToneGraph()
        self.asked: list[RecognitionOptions] = []

    async def detect(
        self, audio: AudioSlice, state: VadState | None, final: bool, options: VadOptions
    ) -> VadResult:
        return await self._files.detect(audio, state, final, options)

    async def punctuate(self, words: Sequence[str]) -> list[str]:
        return ["？"] * len(words)

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        self.asked.append(options)
        words = (await super().transcribe(audio, priority=priority, options=options)).words
        if not words:
            return Recognition(raw="<|nospeech|><|woitn|>")
        language, emotion, events = HEARD[words[0].text]
        written = "".join(word.text for word in words)
        words = tuple(replace(word, mark="。" if options.itn else "") for word in words)
        tags = [
            language,
            *([emotion.upper()] if emotion else []),
            *events,
            "withitn" if options.itn else "woitn",
        ]
        raw = "".join(f"<|{tag}|>" for tag in tags) + written + ("。" if options.itn else "")
        return Recognition(words, language, options.itn, emotion, events, raw=raw)


SETTINGS: dict[str, Any] = {"enabled_models": "sensevoice-small"}


@asynccontextmanager
async def client(graph: FeelingGraph | None = None) -> AsyncIterator[httpx.AsyncClient]:
    async def readiness() -> dict[str, str]:
        return {"Vad": "READY"}

    app = create_app(Settings(**SETTINGS), graph or FeelingGraph(), readiness)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as made:
        yield made


async def ask(made: httpx.AsyncClient, path: str = PATH, name: str = "file", **fields: Any) -> httpx.Response:
    response = await made.post(path, files={name: recording(3)}, data=fields)
    assert response.status_code == 200, response.text
    return response


def felt(items: Sequence[dict[str, Any]]) -> list[tuple[Any, Any]]:
    return [(item["emotion"], item["events"]) for item in items]


# --- Recordings


async def test_openai_tells_them_in_segments_and_nowhere_else() -> None:
    async with client() as made:
        verbose = (await ask(made, response_format="verbose_json")).json()
        assert felt(verbose["segments"]) == FELT
        assert (verbose["language"], verbose["text"]) == ("zh", "丁。丂。七。")
        diarized = (await ask(made, response_format="diarized_json")).json()
        assert felt(diarized["segments"]) == FELT
        assert set((await ask(made)).json()) == {"text", "usage"}
        for plain in ("text", "srt", "vtt", "json"):
            text = (await ask(made, response_format=plain)).text
            assert "丁。" in text
            assert "happy" not in text.lower()
            assert "<|" not in text
        streamed = (await ask(made, response_format="verbose_json", stream="true")).text
    events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert felt([event for event in events if event["type"].endswith(".segment")]) == FELT


async def test_openai_gives_the_tags_to_those_who_ask() -> None:
    async with client() as made:
        for shape in ("json", "verbose_json", "diarized_json"):
            body = (await ask(made, response_format=shape, raw_tags="true")).json()
            assert (body["raw_text"], body["text"]) == (RAW, "丁。丂。七。")
        assert (await ask(made, response_format="text", raw_tags="true")).text == RAW + "\n"
        streamed = (await ask(made, stream="true", raw_tags="true")).text
        assert json.dumps(RAW, ensure_ascii=False) in streamed
        refused = await made.post(
            PATH, files={"file": recording(1)}, data={"response_format": "srt", "raw_tags": "true"}
        )
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "raw_tags")
        job = await made.post("/v1/jobs", files={"file": recording(1)}, data={"raw_tags": "true"})
        assert (job.status_code, job.json()["error"]["param"]) == (400, "raw_tags")


async def test_a_recording_whose_channels_are_speakers_has_a_line_for_each() -> None:
    def channel(level: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.concatenate([np.full(8000, level * 1000 / 32768), np.zeros(32_000)]).astype(np.float32)

    wav = audio_files.wav(np.stack([channel(1), channel(2)], axis=1), 16_000)
    async with client() as made:
        fields = {"channels": "speakers", "raw_tags": "true"}
        body = (await made.post(PATH, files={"file": wav}, data=fields)).json()
    assert felt(body["segments"]) == FELT[:2]
    assert body["raw_text"] == RAW.split("<|en|>")[0].replace("<|zh|><|SAD|>", "\n<|zh|><|SAD|>")


@pytest.mark.parametrize(("itn", "spelling"), [("true", "withitn"), ("false", "woitn")])
async def test_numbers_in_digits_are_the_models_affair(itn: str, spelling: str) -> None:
    graph = FeelingGraph()
    async with client(graph) as made:
        body = (await ask(made, itn=itn, raw_tags="true", language="Japanese")).json()
    assert f"<|{spelling}|>" in body["raw_text"]
    assert body["text"] == ("丁。丂。七。" if itn == "true" else "丁？丂？七？")
    assert {(options.model, options.language, options.itn) for options in graph.asked} == {
        ("sensevoice-small", "ja", itn == "true")
    }


async def test_a_language_that_it_does_not_know_is_refused() -> None:
    async with client() as made:
        response = await made.post(PATH, files={"file": recording(1)}, data={"language": "French"})
    assert response.status_code == 400
    assert "sensevoice-small" in response.json()["error"]["message"]


async def test_aliyun_tells_them() -> None:
    async with client() as made:
        path = "/stream/v1/asr?enable_speaker_diarization=false"
        body = (await made.post(path, content=recording(3))).json()
        assert felt(body["segments"]) == FELT
        assert (body["language"], body["result"]) == ("zh", "丁。\n丂。\n七。")
        assert "raw_text" not in body
        body = (await made.post("/stream/v1/asr?raw_tags=true", content=recording(3, tone=1))).json()
        assert body["raw_text"] == RAW
        # One speaker, so one turn: what most of it was said in, and all that was heard.
        ((emotion, events),) = felt(body["segments"])
        assert (emotion in ("happy", "sad"), events) == (True, ["laughter", "bgm", "cough"])
        flash = (await made.post("/stream/v1/FlashRecognizer?raw_tags=1", content=recording(3))).json()
        assert felt(flash["flash_result"]["sentences"]) == FELT
        assert flash["raw_text"] == RAW
        official = (await made.post("/stream/v1/asr?appkey=a", content=recording(1))).json()
        # Aliyun's own default is neither digits nor marks.
        assert official["result"] == "丁"


async def test_funasr_http_tells_them() -> None:
    async with client() as made:
        body = (await ask(made, "/asr")).json()
        assert felt(body["segments"]) == FELT
        assert (body["language"], body["text"]) == ("zh", "丁。丂。七。")
        assert felt((await ask(made, "/recognition", "audio")).json()["sentences"]) == FELT
        root = (await ask(made, "/")).json()
        assert "<|" not in root["text"]


def sentence(text: str, begin: float) -> Sentence:
    _, emotion, events = HEARD[text]
    return Sentence((TimedWord(text, begin, begin + 1, mark="。"),), None, emotion, events)


async def test_jobs_tell_them() -> None:
    jobs = MemoryJobs()
    job, _ = await jobs.submit("anybody", JobSpec(), BytesIO(recording(1)))
    for begin, text in enumerate(HEARD):
        jobs.say(job.id, sentence(text, begin))
    jobs.end(job.id, JobStatus.COMPLETED)
    transport = httpx.ASGITransport(memory_jobs.app_of(jobs))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as made:
        body = (await made.get(f"/v1/jobs/{job.id}/result?response_format=verbose_json")).json()
        assert felt(body["segments"]) == FELT
        events = events_in((await made.get(f"/v1/jobs/{job.id}/events?sentences=true")).text)
    assert felt([json.loads(event["data"]) for event in events if event["event"] == "sentence"]) == FELT


async def test_file_transcription_tells_them() -> None:
    said = [sentence(text, begin) for begin, text in enumerate(HEARD)]
    job = Job("t", "o", JobSpec(extra={"version": "2.0"}), JobStatus.COMPLETED, datetime.now(UTC))
    body = job_body(job, [Transcript.of(3, said, "zh")], "R")
    assert [(item["Emotion"], item["Events"]) for item in body["Result"]["Sentences"]] == FELT
    assert felt(callback_body(job, [Transcript.of(3, said, "zh")])["result"]) == FELT


# --- Live


@asynccontextmanager
async def served(graph: FeelingGraph | None = None) -> AsyncIterator[str]:
    async with realtime_server(graph or FeelingGraph(), **SETTINGS) as url:
        yield url.replace("http", "ws", 1)


def pcm(levels: Sequence[int]) -> bytes:
    return tones(levels).astype("<i2").tobytes()


def told(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: item[key] for key in ("language", "emotion", "events")} for item in items]


async def funasr(
    url: str, levels: Sequence[int] = TALK, *, partials: bool = False, **config: Any
) -> list[dict[str, Any]]:
    """The ends of the sentences of an utterance, or the one result of ``offline``."""
    results: list[dict[str, Any]] = []
    async with funasr_clients.connected(url + "/") as socket:
        await funasr_clients.send_json(socket, wav_name="w", **config)
        await funasr_clients.send_audio(socket, pcm(levels), 32_000)
        await funasr_clients.send_json(socket, is_speaking=False)
        while not results or not results[-1]["is_final"]:
            results.append(await funasr_clients.receive(socket))
    return [result for result in results if partials or result.get("slice_type", 2) == 2]


async def test_funasr_tells_them_offline() -> None:
    graph = FeelingGraph()
    async with served(graph) as url:
        (plain,) = await funasr(url, LONG_TALK, mode="offline", svs_lang="yue")
        assert (plain["text"], plain["language"]) == ("丁。丂。七。", "yue")
        assert felt(plain["sentence_info"]) == FELT
        assert {options.language for options in graph.asked} == {"yue"}
        (tagged,) = await funasr(url, LONG_TALK, mode="offline", raw_tags=True)
        assert (tagged["text"], tagged["language"]) == (RAW, "zh")
        (spelled,) = await funasr(url, mode="offline", raw_tags=True, svs_itn=False)
        assert "<|withitn|>" not in spelled["text"]
        (own,) = await funasr(url, LONG_TALK, mode="offline", raw_tags=True, itn=False, svs_itn=True)
        assert own["text"] == RAW


async def test_funasr_tells_them_at_the_end_of_each_sentence() -> None:
    graph = FeelingGraph()
    async with served(graph) as url:
        results = await funasr(url, mode="2pass", model="sensevoice-small", svs_lang="ko")
        assert told(results[:3]) == TOLD
        assert [result["text"] for result in results] == ["丁。", "丂。", "七。", ""]
        assert {(options.language, options.itn) for options in graph.asked} == {("ko", True)}
        # The streaming model would make Chinese of Korean.
        assert graph.streamed_samples == 0
        tagged = await funasr(url, mode="2pass", raw_tags=True)
        assert "".join(result["text"] for result in tagged) == RAW
        assert graph.streamed_samples > 0


async def test_without_its_sentences_nobody_is_told_that_it_recognizes() -> None:
    async with served() as url:
        (refused,) = await funasr(url, mode="online", model="sensevoice-small")
        assert "finished sentences only" in refused["error"]
        # Who does not name it is heard by the streaming model.
        heard = await funasr(url, [1, 2], mode="online", partials=True)
        assert "".join(result["text"] for result in heard) == "丁丂"
        async with realtime(url.replace("ws", "http", 1)) as client:
            answer = await client.update(transcription={"model": "sensevoice-small", "delay": "low"})
            assert "finished sentences only" in answer["error"]["message"]


async def test_nls_tells_them() -> None:
    async with served() as url:
        events = await nls_clients.whole_task(url, pcm(TALK), size=32_000)
        assert told(nls_clients.named(events, "SentenceEnd")) == TOLD
        events = await nls_clients.whole_task(url, pcm(TALK), size=32_000, service=nls_clients.RECOGNIZER)
        (completed,) = nls_clients.named(events, "RecognitionCompleted")
        assert completed["events"] == ["laughter", "bgm", "cough"]
        assert (completed["language"], completed["emotion"]) in (("zh", "happy"), ("zh", "sad"))


async def test_dashscope_tells_them() -> None:
    async with served() as url:
        events = await dashscope_clients.whole_task(url, pcm(TALK), size=32_000)
        ended = [item for item in dashscope_clients.sentences(events) if item["sentence_end"]]
        assert told(ended) == TOLD
        assert [item.get("emo_tag") for item in ended] == ["positive", "negative", None]
        async with dashscope_clients.dashscope(url, dashscope_clients.REALTIME) as socket:
            await socket.send(dashscope_clients.append(pcm(TALK)))
            await socket.send(dashscope_clients.FINISH)
            events = (await socket.closed())[0]
    completed = [event for event in events if event["type"].endswith("transcription.completed")]
    assert told(completed) == TOLD


async def test_realtime_tells_them() -> None:
    async with served() as url, realtime(url.replace("ws", "http", 1)) as client:
        await client.update(transcription={"model": "sensevoice-small"})
        await client.say(tones(TALK), 32_000)
        assert await client.completed(3) == ["丁。", "丂。", "七。"]
        assert told(client.named(f"{TRANSCRIPTION}.completed")) == TOLD
