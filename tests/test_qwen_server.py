"""Qwen3-ASR over the live server: real speech in the protocols that can ask for it."""

import asyncio
import difflib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import soundfile
from websockets.asyncio.client import connect

from benchmarks.live_server import LiveServer
from tests.conftest import SAMPLES, Sample
from tests.live_speech import RATE, converse, spoken, websocket_url
from tests.live_speech import recording as followed_by_silence
from tests.realtime_world import sessions_of
from tests.test_realtime_clients import connected, heard, recording, say

pytestmark = pytest.mark.server

MODEL = "qwen3-asr"
CLOSE = 0.8
"""How alike text and transcript are at least: the starter model is no perfect listener."""

AS_SPOKEN = {"enable_inverse_text_normalization": False}


def similarity(text: str, expected: str) -> float:
    return difflib.SequenceMatcher(None, text, expected).ratio()


async def recognized(url: str, path: Path, *, speed: float, **payload: Any) -> list[dict[str, Any]]:
    """All that ``/ws/v1/asr/qwen`` tells of a recording that comes at ``speed`` times real time."""
    samples, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE
    async with connect(f"{websocket_url(url)}ws/v1/asr/qwen", proxy=None, max_size=None) as socket:

        async def speak() -> None:
            await socket.send(json.dumps({"type": "start", "payload": payload}))
            async for packet in spoken(samples, speed, 0.1):
                await socket.send(packet.tobytes())
            await socket.send(json.dumps({"type": "stop"}))

        speaker = asyncio.create_task(speak())
        async with asyncio.timeout(120):
            events = [json.loads(message) async for message in socket]
        await speaker
    assert socket.close_code == 1000
    return events


def final_of(events: list[dict[str, Any]]) -> dict[str, Any]:
    assert events[-1]["type"] == "final", events[-1]
    result: dict[str, Any] = events[-1]["result"]
    return result


async def test_every_sample_as_fast_as_possible(server_url: str, samples: list[Sample]) -> None:
    for sample in samples:
        final = final_of(await recognized(server_url, sample.path, speed=0, **AS_SPOKEN))
        assert similarity(final["full_text"].replace("\n", ""), sample.text) > CLOSE, sample.path.name
        assert final["language"] == "Chinese"


async def test_two_speak_at_once_and_read_while_they_do(server_url: str, samples: list[Sample]) -> None:
    chosen = samples[:2]
    parameters = {"chunk_size_sec": 0.8, "language": "zh", "context": "会议", **AS_SPOKEN}
    told = await asyncio.gather(
        *(recognized(server_url, sample.path, speed=1, **parameters) for sample in chosen)
    )
    for sample, events in zip(chosen, told, strict=True):
        assert similarity(final_of(events)["full_text"].replace("\n", ""), sample.text) > CLOSE
        results = [event["results"][0] for event in events if event["type"] == "result"]
        assert len(results) >= 2
        for before, after in pairwise(results):
            if before["segment_index"] == after["segment_index"]:
                stays = before["current_segment_text"][: before["stable_length"]]
                assert after["current_segment_text"].startswith(stays)
        assert any(result["stable_length"] for result in results)
    assert await sessions_of(server_url) == 0


async def test_words_of_segments_have_times(server_url: str) -> None:
    events = await recognized(server_url, SAMPLES / "meeting.wav", speed=0)
    segments = [event["result"] for event in events if event["type"] == "segment_end"]
    assert len(segments) >= 2
    for segment in segments:
        times = [time for word in segment["words"] for time in (word["begin_time"], word["end_time"])]
        assert times == sorted(times)
        assert segment["begin_time"] <= times[0]
        assert times[-1] <= segment["end_time"]
        # The aligner found them, all over what was said.
        assert times[-1] - times[0] > 0.6 * (segment["end_time"] - segment["begin_time"])


async def test_openai_sdk(server_url: str, samples: list[Sample]) -> None:
    sample = samples[0]
    fields = {"transcription": {"model": MODEL, "language": "zh", "delay": "low"}}
    async with connected(server_url, **fields) as connection:
        await say(connection, recording(sample.path).tobytes(), 48_000, pause=0.1)
        text = await heard(connection, sample.text)
    assert similarity(text, sample.text) > CLOSE


async def test_funasr_client_that_names_the_model(server_url: str, samples: list[Sample]) -> None:
    audio = followed_by_silence([sample.path for sample in samples])
    for mode in ("2pass", "online"):
        told = await converse(websocket_url(server_url), spoken(audio, 4), mode, model=MODEL, itn=False)
        expected = "".join(sample.text for sample in samples)
        if mode == "online":
            expected = "".join(char for char in expected if char not in "，。？")
        assert similarity(told.text, expected) > CLOSE, mode


@pytest.mark.slow
async def test_a_killed_replica_costs_no_final(server: LiveServer, samples: list[Sample]) -> None:
    sample = max(samples, key=lambda sample: len(sample.text))
    parameters = {"chunk_size_sec": 0.5, **AS_SPOKEN}
    speaking = asyncio.create_task(recognized(server.url, sample.path, speed=1, **parameters))
    await asyncio.sleep(2)
    for replica in server.replicas("Qwen3ASR"):
        replica.kill()
    final = final_of(await speaking)
    assert similarity(final["full_text"].replace("\n", ""), sample.text) > CLOSE
