"""Speakers in the protocols of live speech: only if asked for, in the place that each one has for them."""

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_app.api.funasr.replies import spoken_in
from serve_app.api.live_speakers import SpeakerChanges
from serve_app.jobs.database import Database, database_url
from serve_app.pipeline.live.events import SpeakersMerged
from serve_app.pipeline.types import Sentence, Speaker, TimedWord
from serve_app.settings import Settings
from serve_app.speakers.store import NewVoice, SpeakerStore
from tests import dashscope_clients, funasr_clients, nls_clients
from tests.funasr_world import World, funasr_server, speech
from tests.live_sessions import PAUSE, characters, tones
from tests.live_voices import ANN, BOB, MERGING_TALK, TALK, Voiced, hoarse
from tests.realtime_world import TRANSCRIPTION, Event, check_items, realtime, realtime_server
from tests.voices import DIMENSIONS

TEXTS = [characters(levels) for levels in (ANN, BOB, BOB[::-1], ANN[::-1])]


@asynccontextmanager
async def served(data_dir: Path, graph: Voiced | None = None, **settings: Any) -> AsyncIterator[str]:
    async with realtime_server(graph or Voiced(), data_dir=data_dir, **settings) as url:
        yield url.replace("http", "ws", 1)


def bare(texts: Sequence[str]) -> list[str]:
    return [text.rstrip("，。") for text in texts]


def pcm(levels: Sequence[int]) -> bytes:
    return tones(levels).astype("<i2").tobytes()


# --- FunASR


async def funasr_results(url: str, levels: Sequence[int], **config: Any) -> list[Event]:
    """The ends of the sentences of an utterance, or the one result of ``offline``."""
    results: list[Event] = []
    async with funasr_clients.connected(url + "/") as socket:
        await funasr_clients.send_json(socket, wav_name="w", **config)
        await funasr_clients.send_audio(socket, pcm(levels), 32_000)
        await funasr_clients.send_json(socket, is_speaking=False)
        while not results or not results[-1]["is_final"]:
            results.append(await funasr_clients.receive(socket))
    return [result for result in results if result.get("slice_type", 2) == 2]


@pytest.mark.parametrize("asked", [{"enable_speaker_diarization": True}, {"spk": 1}])
@pytest.mark.parametrize("mode", ["2pass", "online"])
async def test_funasr_tells_speakers_at_the_end_of_each_sentence(
    tmp_path: Path, mode: str, asked: dict[str, Any]
) -> None:
    async with served(tmp_path) as url:
        results = await funasr_results(url, TALK, mode=mode, **asked)
        silent = await funasr_results(url, PAUSE, mode=mode, **asked)
    assert [result["spk_name"] for result in results] == ["说话人1", "说话人2", "说话人2", "说话人1"]
    assert all(0.9 < result["spk_score"] <= 1 for result in results)
    assert not any("speaker_changes" in result for result in results)
    (nobody,) = silent
    assert (nobody["spk_name"], nobody["spk_score"]) == ("unknown", 0.0)


async def test_funasr_tells_no_speakers_unless_asked(tmp_path: Path) -> None:
    graph = Voiced()
    async with served(tmp_path, graph) as url:
        plain = await funasr_results(url, TALK, mode="2pass")
        refused = await funasr_results(url, TALK, mode="2pass", enable_speaker_diarization=False)
        asked = await funasr_results(url, TALK, mode="2pass", enable_speaker_diarization=True)
    assert plain == refused
    assert not any(key.startswith("spk") for result in plain for key in result)
    for result in asked:
        del result["spk_name"], result["spk_score"]
    assert asked == plain
    assert len(graph.asked) == len(TEXTS)


async def test_funasr_offline_tells_who_spoke_most_and_each_sentence() -> None:
    async with funasr_server(World()) as (url, _), funasr_clients.connected(url) as socket:
        await funasr_clients.send_json(socket, mode="offline", enable_speaker_diarization=True)
        await funasr_clients.send_audio(socket, speech("一二三四五六七八九十" * 3), 32_000)
        await funasr_clients.send_json(socket, is_speaking=False)
        result = await funasr_clients.receive(socket)
    assert result["spk_name"] == "说话人1"
    assert 0 < result["spk_score"] <= 1
    assert "".join(info["text"] for info in result["sentence_info"]) == result["text"]
    assert {(info["spk"], info["spk_name"]) for info in result["sentence_info"]} == {(0, "说话人1")}
    assert result["is_final"] is True


def test_funasr_offline_names_who_spoke_the_longest() -> None:
    def sentence(begin: float, end: float, speaker: Speaker | None) -> Sentence:
        return Sentence((TimedWord("好", begin, end, mark="。"),), speaker)

    ann, bob = Speaker(1, "Ann", "Ann", 0.8), Speaker(2, "说话人2", None, 0.4)
    told = spoken_in([sentence(0, 2, ann), sentence(2, 5, bob), sentence(5, 7, ann), sentence(7, 8, None)])
    assert (told["spk_name"], told["spk_score"]) == ("Ann", 0.8)
    keys = ("text", "start", "end", "spk", "spk_name", "spk_score")
    assert [tuple(info.get(key) for key in keys) for info in told["sentence_info"]] == [
        ("好。", 0, 2000, 0, "Ann", 0.8),
        ("好。", 2000, 5000, 1, "说话人2", 0.4),
        ("好。", 5000, 7000, 0, "Ann", 0.8),
        ("好。", 7000, 8000, None, "unknown", 0.0),
    ]


@pytest.mark.parametrize(
    "config", [{"num_speakers": 0}, {"min_speakers": 3, "max_speakers": 2}, {"max_speakers": 51}]
)
async def test_funasr_tells_of_numbers_that_cannot_be(tmp_path: Path, config: dict[str, int]) -> None:
    async with served(tmp_path) as url:
        *_, result = await funasr_results(url, ANN, mode="2pass", enable_speaker_diarization=True, **config)
    assert result["text"] == ""
    assert result["error"].endswith(".")
    assert "speakers" in result["error"]


async def test_a_number_of_speakers_is_heeded(tmp_path: Path) -> None:
    async with served(tmp_path) as url:
        asked = {"enable_speaker_diarization": True, "num_speakers": "1"}
        results = await funasr_results(url, TALK, mode="2pass", **asked)
    assert {(result["spk_name"], result["spk_score"]) for result in results} == {("说话人1", 1.0)}


# --- NLS


async def test_nls_tells_speakers_at_the_end_of_each_sentence(tmp_path: Path) -> None:
    async with served(tmp_path) as url:
        for path in ("/ws/v1", "/ws/v1/asr"):
            events = await nls_clients.whole_task(
                url, pcm(TALK), path=path, size=32_000, enable_speaker_diarization="true"
            )
            ended = nls_clients.named(events, "SentenceEnd")
            assert bare([payload["result"] for payload in ended]) == TEXTS
            assert [payload["speaker_id"] for payload in ended] == [
                "说话人1",
                "说话人2",
                "说话人2",
                "说话人1",
            ]
            assert all(0.9 < payload["speaker_confidence"] <= 1 for payload in ended)
            plain = await nls_clients.whole_task(url, pcm(TALK), path=path, size=32_000)
            assert "speaker_id" not in str(plain)


async def test_nls_recognizer_tells_who_spoke_most(tmp_path: Path) -> None:
    talk = [*ANN, *PAUSE, *BOB, *BOB, *PAUSE, *ANN[:2]]
    async with served(tmp_path) as url:
        task: dict[str, Any] = {"service": nls_clients.RECOGNIZER, "size": 32_000}
        events = await nls_clients.whole_task(url, pcm(talk), **task, enable_speaker_diarization=True)
        (completed,) = nls_clients.named(events, "RecognitionCompleted")
        assert completed["speaker_id"] == "说话人2"
        assert completed["speaker_confidence"] > 0.9
        events = await nls_clients.whole_task(url, pcm(PAUSE), **task, enable_speaker_diarization=True)
        (completed,) = nls_clients.named(events, "RecognitionCompleted")
        assert (completed["speaker_id"], completed["speaker_confidence"]) == ("", 0.0)


# --- DashScope


async def test_dashscope_numbers_speakers_from_0(tmp_path: Path) -> None:
    async with served(tmp_path) as url:
        events = await dashscope_clients.whole_task(url, pcm(TALK), size=32_000, diarization_enabled=True)
        ended = [item for item in dashscope_clients.sentences(events) if item["sentence_end"]]
        assert bare([item["text"] for item in ended]) == TEXTS
        assert [item["speaker_id"] for item in ended] == [0, 1, 1, 0]
        assert not any(
            "speaker_id" in item for item in dashscope_clients.sentences(events) if item not in ended
        )
        plain = await dashscope_clients.whole_task(url, pcm(TALK), size=32_000, speaker_count=2)
        assert "speaker" not in str(plain)
        advice = await dashscope_clients.whole_task(
            url, pcm(TALK), size=32_000, diarization_enabled=True, speaker_count=1
        )
        ended = [item for item in dashscope_clients.sentences(advice) if item["sentence_end"]]
        assert [item["speaker_id"] for item in ended] == [0, 0, 0, 0]


# --- OpenAI Realtime

DIARIZE = {"model": "gpt-4o-transcribe-diarize"}


async def test_realtime_tells_speakers_by_segments(tmp_path: Path) -> None:
    async with served(tmp_path) as url, realtime(url) as client:
        await client.update(transcription=DIARIZE)
        await client.say(tones([*TALK, *PAUSE]), 32_000)
        assert bare(await client.completed(4)) == TEXTS
        segments = client.named(f"{TRANSCRIPTION}.segment")
        started = client.named("input_audio_buffer.speech_started")
        completed = client.named(f"{TRANSCRIPTION}.completed")
        check_items(client.events)
    assert [segment["speaker"] for segment in segments] == ["A", "B", "B", "A"]
    assert bare([segment["text"] for segment in segments]) == TEXTS
    assert len({segment["id"] for segment in segments}) == 4
    for segment, start, end in zip(segments, started, completed, strict=True):
        assert segment.keys() >= {
            "event_id",
            "id",
            "item_id",
            "content_index",
            "start",
            "end",
            "speaker_confidence",
        }
        assert segment["item_id"] == start["item_id"] == end["item_id"]
        assert segment["start"] == start["audio_start_ms"] / 1000
        assert segment["end"] - segment["start"] == pytest.approx(end["usage"]["seconds"], abs=0.002)
    kinds = [event["type"] for event in client.events if event.get("item_id") == segments[0]["item_id"]]
    assert kinds[-2:] == [f"{TRANSCRIPTION}.segment", f"{TRANSCRIPTION}.completed"]


async def test_realtime_speakers_keep_their_letters_from_item_to_item(tmp_path: Path) -> None:
    """With commits by the client each item is a session of recognition by itself."""
    async with served(tmp_path) as url:
        query = "?intent=transcription&model=gpt-4o-transcribe-diarize"
        async with realtime(url, query) as client:
            await client.update(turn_detection=None)
            for talk in ([*ANN, *PAUSE, *BOB], [*BOB, *PAUSE, *ANN]):
                await client.say(tones(talk), 32_000)
                await client.commit()
                await client.completed()
            segments = client.named(f"{TRANSCRIPTION}.segment")
    assert [segment["speaker"] for segment in segments] == ["A", "B", "B", "A"]
    seconds = len(tones([*ANN, *PAUSE, *BOB])) / 16_000
    assert [segment["start"] >= seconds for segment in segments] == [False, False, True, True]


async def test_realtime_has_no_segments_unless_asked(tmp_path: Path) -> None:
    graph = Voiced()
    async with served(tmp_path, graph) as url, realtime(url) as client:
        await client.update(transcription={"model": "gpt-4o-transcribe"})
        await client.say(tones([*TALK, *PAUSE]), 32_000)
        await client.completed(4)
        assert client.named(f"{TRANSCRIPTION}.segment") == []
    assert graph.asked == []


async def test_realtime_as_heard_has_segments_too(tmp_path: Path) -> None:
    async with served(tmp_path) as url, realtime(url) as client:
        await client.update(transcription={**DIARIZE, "delay": "low"})
        await client.say(tones([*TALK, *PAUSE]), 32_000)
        assert await client.completed(4) == TEXTS
        segments = client.named(f"{TRANSCRIPTION}.segment")
    assert [segment["speaker"] for segment in segments] == ["A", "B", "B", "A"]


# --- All


async def funasr_speakers(url: str, levels: Sequence[int]) -> list[tuple[Any, Any]]:
    results = await funasr_results(url, levels, mode="2pass", enable_speaker_diarization=True)
    return [(result["spk_name"], result.get("speaker_changes")) for result in results]


async def nls_speakers(url: str, levels: Sequence[int]) -> list[tuple[Any, Any]]:
    events = await nls_clients.whole_task(url, pcm(levels), size=32_000, enable_speaker_diarization=True)
    ended = nls_clients.named(events, "SentenceEnd")
    return [(payload["speaker_id"], payload.get("speaker_changes")) for payload in ended]


async def dashscope_speakers(url: str, levels: Sequence[int]) -> list[tuple[Any, Any]]:
    events = await dashscope_clients.whole_task(url, pcm(levels), size=32_000, diarization_enabled=True)
    ended = [item for item in dashscope_clients.sentences(events) if item["sentence_end"]]
    return [(item.get("speaker_name", item["speaker_id"]), item.get("speaker_changes")) for item in ended]


async def realtime_speakers(url: str, levels: Sequence[int]) -> list[tuple[Any, Any]]:
    async with realtime(url) as client:
        await client.update(transcription=DIARIZE, turn_detection=None)
        await client.say(tones(levels), 32_000)
        await client.commit()
        await client.completed()
        segments = client.named(f"{TRANSCRIPTION}.segment")
    return [(segment["speaker"], segment.get("speaker_changes")) for segment in segments]


Speakers = Callable[[str, Sequence[int]], Coroutine[Any, Any, list[tuple[Any, Any]]]]
PROTOCOLS = pytest.mark.parametrize(
    ("speakers", "first", "second"),
    [
        (funasr_speakers, "说话人1", "说话人2"),
        (nls_speakers, "说话人1", "说话人2"),
        (dashscope_speakers, 0, 1),
        (realtime_speakers, "A", "B"),
    ],
)


@PROTOCOLS
async def test_a_merge_goes_with_the_next_sentence(
    tmp_path: Path, speakers: Speakers, first: str | int, second: str | int
) -> None:
    async with served(tmp_path, Voiced(hoarse)) as url:
        told = await speakers(url, MERGING_TALK)
    names, changes = zip(*told, strict=True)
    assert [change for change in changes if change] == [[{"from": second, "to": first}]]
    at = next(at for at, change in enumerate(changes) if change)
    assert at > 1
    assert names[1] == second
    assert {*names[2:]} == {first}


@PROTOCOLS
async def test_enrolled_voices_are_named(
    tmp_path: Path, speakers: Speakers, first: str | int, second: str | int
) -> None:
    settings = Settings(data_dir=tmp_path)
    store = SpeakerStore(Database(database_url(settings)), settings.speaker_model)
    voice = np.eye(1, DIMENSIONS, 1, dtype=np.float32)[0]
    store.add("anybody", "Bob", NewVoice(voice, 10.0), most=10, least_similarity=0.5)
    store.add("somebody", "Ann", NewVoice(np.roll(voice, -1), 10.0), most=10, least_similarity=0.5)
    async with served(tmp_path) as url:
        assert await speakers(url, TALK) == [(first, None), ("Bob", None), ("Bob", None), (first, None)]


@PROTOCOLS
async def test_a_lost_speaker_model_ends_no_session(
    tmp_path: Path, speakers: Speakers, first: str | int, second: str | int
) -> None:
    graph = Voiced()
    graph.fault = RuntimeError("lost")
    async with served(tmp_path, graph) as url:
        told = await speakers(url, TALK)
    assert len(told) == len(TEXTS)
    assert {name for name, _ in told} <= {"unknown", "", None}


async def test_who_asks_for_speakers_where_there_is_no_model_is_told(tmp_path: Path) -> None:
    async with served(tmp_path, speaker_model="none") as url:
        *_, result = await funasr_results(url, ANN, mode="2pass", enable_speaker_diarization=True)
        assert "no speaker model" in result["error"]
        async with nls_clients.nls(url) as client:
            failed = await client.start(enable_speaker_diarization=True)
            assert nls_clients.status_of(failed) == 40000003
        (failed,) = await dashscope_clients.whole_task(url, b"", diarization_enabled=True)
        assert failed["header"]["error_code"] == "InvalidParameter"
        async with realtime(url) as client:
            answer = await client.update(transcription=DIARIZE)
            assert answer["error"]["param"] == "session.audio.input.transcription.model"
            assert "no speaker model" in answer["error"]["message"]
            await client.update(transcription={"model": "whisper-1"})
            await client.say(tones([*ANN, *PAUSE]), 32_000)
            assert bare(await client.completed()) == TEXTS[:1]


def test_changes_are_told_once_and_of_what_was_told_only() -> None:
    changes = SpeakerChanges(lambda speaker: speaker.label)
    first, second, third = (Speaker(number, f"S{number}") for number in (1, 2, 3))
    assert changes.fields(first) == changes.fields(second) == changes.fields(None) == {}
    changes.merged(SpeakersMerged(first, third))
    assert changes.fields(None) == {}
    changes.merged(SpeakersMerged(first, second))
    assert changes.current(second) == first
    assert changes.fields(Speaker(1, "Ann", "Ann")) == {
        "speaker_changes": [{"from": "S2", "to": "S1"}, {"from": "S1", "to": "Ann"}]
    }
    assert changes.fields(Speaker(1, "Ann", "Ann")) == {}
