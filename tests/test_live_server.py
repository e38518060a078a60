"""Live speech through the whole server: many at once, too many, and those who leave without a word."""

import asyncio
import difflib

import httpx
import numpy as np
import pytest

from benchmarks.live_server import LiveServer
from serve_app.errors import Overloaded
from serve_app.live import LiveService
from serve_app.observability.meter import NoMeter
from serve_app.pipeline.live.events import Finished, NearField
from serve_app.settings import Settings
from tests.conftest import Sample
from tests.funasr_clients import connected, receive, send_json
from tests.live_speech import RATE, converse, recording, spoken, websocket_url
from tests.test_http_app import SilentGraph

MODES = ["2pass", "online"]


def similar(text: str, expected: str) -> float:
    return difflib.SequenceMatcher(None, text, expected, autojunk=False).ratio()


async def sessions_of(server: LiveServer) -> int:
    async with httpx.AsyncClient(trust_env=False) as client:
        return int((await client.get(server.url + "/healthz")).json()["live_sessions"])


async def until_sessions_are(server: LiveServer, count: int) -> None:
    for _ in range(600):
        if (now := await sessions_of(server)) == count:
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"there are {now} sessions")


@pytest.mark.server
@pytest.mark.parametrize("mode", MODES)
async def test_what_was_said_is_heard(server: LiveServer, samples: list[Sample], mode: str) -> None:
    audio = recording([sample.path for sample in samples])
    heard = await converse(websocket_url(server.url), spoken(audio, speed=0), mode)
    assert similar(heard.text, "".join(sample.text for sample in samples)) > 0.75


@pytest.mark.server
@pytest.mark.parametrize("mode", MODES)
async def test_who_vanishes_in_mid_sentence_leaves_no_session(
    server: LiveServer, samples: list[Sample], mode: str
) -> None:
    audio = recording([samples[0].path])
    for _ in range(3):
        async with connected(websocket_url(server.url)) as socket:
            await send_json(socket, mode=mode, audio_fs=RATE, wav_format="pcm", is_speaking=True)
            for packet in np.array_split(audio[: 2 * RATE], 10):
                await socket.send(packet.tobytes())
            await receive(socket)
            assert await sessions_of(server) >= 1
            socket.transport.abort()
    await until_sessions_are(server, 0)


async def test_too_many_sessions_are_refused_and_places_are_given_back() -> None:
    service = LiveService(SilentGraph(), Settings(max_live_sessions=2))
    async with service.open(service.defaults), service.open(service.defaults):
        assert service.active == 2
        with pytest.raises(Overloaded) as refused:
            async with service.open(service.defaults):
                pass
        assert refused.value.retry_after > 0
        assert service.active == 2
    assert service.active == 0
    with pytest.raises(ZeroDivisionError):
        async with service.open(service.defaults):
            raise ZeroDivisionError
    assert service.active == 0


async def test_no_task_outlives_a_session() -> None:
    service = LiveService(SilentGraph(), Settings())
    before = asyncio.all_tasks()
    async with service.open(service.defaults) as session:
        await session.push(np.zeros(RATE, np.int16))
    assert asyncio.all_tasks() == before


def test_the_settings_are_the_defaults_of_sessions() -> None:
    settings = Settings(live_end_silence_ms=500, live_max_sentence_sec=30.5, asr_nearfield_rms_threshold=0.02)
    defaults = LiveService(SilentGraph(), settings).defaults
    assert (defaults.max_sentence_silence_ms, defaults.max_sentence_ms) == (500, 30_500)
    assert defaults.near_field == NearField(threshold=0.02)
    off = Settings(asr_enable_nearfield_filter=False)
    assert LiveService(SilentGraph(), off).defaults.near_field is None


class Metrics(NoMeter):
    """Keeps what was reported."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.waits: list[float] = []
        self.heard = 0.0
        self.outcomes: list[str] = []

    def sessions(self, protocol: str, count: int) -> None:
        self.counts.append(count)

    def received(self, protocol: str, kind: str, seconds: float) -> None:
        assert kind == "live"
        self.heard += seconds

    def first_partial(self, protocol: str, seconds: float) -> None:
        raise AssertionError("nobody said anything")

    def final_after_end(self, protocol: str, seconds: float) -> None:
        self.waits.append(seconds)

    def ended(self, protocol: str, outcome: str) -> None:
        self.outcomes.append(outcome)


async def test_sessions_are_measured() -> None:
    metrics = Metrics()
    service = LiveService(SilentGraph(), Settings(), metrics)
    async with service.open(service.defaults) as session:
        await session.push(np.zeros(RATE, np.int16))
        await session.finish()
        assert [event async for event in session.events()] == [Finished(1.0)]
    assert metrics.counts == [1, 0]
    assert len(metrics.waits) == 1
    assert metrics.waits[0] >= 0
    assert metrics.heard == 1.0
    async with service.open(service.defaults) as session:
        await session.push(np.zeros(RATE, np.int16))
    assert metrics.outcomes == ["finished", "abandoned"]
