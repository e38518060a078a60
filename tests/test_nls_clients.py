"""Aliyun's WebSocket protocol on the live server, as its clients use it.

Aliyun's own SDKs are in ``test_nls_docs.py``. The tests named ``test_item_…`` are the lines of the
conformance list that concern this protocol.
"""

import asyncio
import itertools
import signal
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
import yaml

from benchmarks.live_server import LiveServer, live_server
from tests import audio_files
from tests import funasr_clients as funasr
from tests.conftest import ROOT, Sample
from tests.nls_clients import (
    NAMES,
    RECOGNIZER,
    TRANSCRIBER,
    Xiaozhi,
    named,
    names,
    nls,
    status_of,
    text_of,
    whole_task,
)
from tests.test_funasr_clients import similar
from tests.test_nls_decoder import encoded

pytestmark = pytest.mark.server

SERVICES = [TRANSCRIBER, RECOGNIZER]
DEFAULTS: dict[str, Any] = {}
ASKED: dict[str, Any] = {"enable_punctuation_prediction": True, "enable_inverse_text_normalization": True}


@pytest.fixture(scope="module")
def url(server: LiveServer) -> str:
    return server.url.replace("http", "ws", 1)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Afterwards the server holds no session."""
    if request.node.get_closest_marker("own_server") is not None:
        yield
        return
    server: LiveServer = request.getfixturevalue("server")
    yield
    for _ in range(100):
        if sessions_of(server) == 0:
            break
        time.sleep(0.1)
    assert sessions_of(server) == 0


def sessions_of(server: LiveServer) -> int:
    """While its one replica is being replaced, the server lets requests wait for the next one."""
    response = httpx.get(server.url + "/healthz", trust_env=False, timeout=120)
    return int(response.json()["live_sessions"])


def pcm(sample: Sample) -> bytes:
    with wave.open(str(sample.path)) as file:
        return bytes(file.readframes(file.getnframes()))


def sample_of(samples: list[Sample], name: str) -> Sample:
    return next(sample for sample in samples if sample.path.stem == name)


def frames(audio: bytes) -> list[bytes]:
    """60 ms each, as a device sends them."""
    return [audio[begin : begin + 1920] for begin in range(0, len(audio), 1920)]


async def test_the_text_is_that_of_the_other_live_protocol(url: str, samples: list[Sample]) -> None:
    for sample in samples:
        other = await funasr.python_2026(url + "/", pcm(sample), speed=0)
        for service in SERVICES:
            for path, asked in (("/ws/v1", ASKED), ("/ws/v1/asr", DEFAULTS)):
                events = await whole_task(url, pcm(sample), path=path, service=service, **asked)
                assert text_of(events) == other.text
        assert similar(other.text, sample.written)
    assert other.text == sample.written


async def test_item_14_what_every_client_relies_on(url: str, samples: list[Sample]) -> None:
    sample = sample_of(samples, "travel")
    async with nls(url) as client:
        begin = time.monotonic()
        started = await client.start(max_sentence_silence=None, enable_intermediate_result=True)
        assert started["header"]["name"] == "TranscriptionStarted"
        assert time.monotonic() - begin < 10, "seconds after which clients give up"
        await client.say(pcm(sample))
        await client.socket.send(
            '{"header": {"namespace": "SpeechTranscriber", "name": "ControlAny"}, "payload": {"ex": 1}}'
        )
        await client.stop()
        events = await client.until("TranscriptionCompleted")
    ends = named(events, "SentenceEnd")
    assert [end["index"] for end in ends] == [1, 2]
    assert names(events)[-2:] == ["SentenceEnd", "TranscriptionCompleted"]
    assert all(isinstance(event["header"]["status"], int) for event in events)
    assert all(0 < end["confidence"] <= 1 for end in ends)
    times = [time for end in ends for time in (end["begin_time"], end["time"])]
    assert times == sorted(times)
    assert times[-1] <= len(pcm(sample)) / 32


async def test_item_15_a_stop_with_pending_speech(url: str, samples: list[Sample]) -> None:
    sample = sample_of(samples, "home")
    async with nls(url) as client:
        await client.start(**ASKED)
        await client.say(pcm(sample).rstrip(b"\0"))
        await client.stop()
        events = await client.until("TranscriptionCompleted")
    assert names(events) == ["SentenceBegin", "SentenceEnd", "TranscriptionCompleted"]
    assert text_of(events) == sample.written


async def test_words_are_those_that_were_spoken(url: str, samples: list[Sample]) -> None:
    sample = sample_of(samples, "home")
    events = await whole_task(url, pcm(sample), enable_words=True, **ASKED)
    (end,) = named(events, "SentenceEnd")
    assert end["result"] == sample.written != sample.text
    assert "".join(word["text"] for word in end["words"]) == sample.text.rstrip("。")
    pairs = [time for word in end["words"] for time in (word["startTime"], word["endTime"])]
    assert pairs == sorted(pairs)


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    ("announced", "name"),
    [
        ("opus", "ogg-opus"),
        ("opu", "opu"),
        ("ogg-speex", "speex"),
        ("mp3", "mp3"),
        ("aac", "adts"),
        ("WAV", "wav"),
    ],
)
async def test_formats(url: str, samples: list[Sample], service: str, announced: str, name: str) -> None:
    events = await whole_task(url, encoded(name), service=service, format=announced, size=1000, **ASKED)
    assert similar(text_of(events), sample_of(samples, "home").written, least=0.75)


async def test_narrowband(url: str, samples: list[Sample]) -> None:
    """Half of the band is missing; that of AMR is also coded at 12 kbit/s."""
    sample = sample_of(samples, "home")
    audio = np.frombuffer(pcm(sample), "<i2").astype(np.float32) / np.float32(32768)
    with av.open(str(sample.path)) as file:
        resampler = av.AudioResampler("s16", "mono", 8000)
        halves = [frame.to_ndarray() for part in file.decode(audio=0) for frame in resampler.resample(part)]
    data = np.concatenate(halves, axis=1).astype("<i2").tobytes()
    plain = text_of(await whole_task(url, data, sample_rate=8000, **ASKED))
    assert plain
    amr = audio_files.amr_nb(audio, 16_000)
    coded = text_of(await whole_task(url, amr, sample_rate=8000, format="amr", **ASKED))
    assert similar(coded, plain, least=0.5)


@pytest.mark.parametrize("silence", [None, 400])
async def test_xiaozhi_in_auto_mode_never_stops(url: str, samples: list[Sample], silence: int | None) -> None:
    sample = sample_of(samples, "home")
    device = Xiaozhi(max_sentence_silence=silence)
    assert await device.talk(url, frames(pcm(sample) + bytes(64_000))) == sample.written


async def test_xiaozhi_in_manual_mode_stops_in_mid_sentence(url: str, samples: list[Sample]) -> None:
    sample = sample_of(samples, "travel")
    audio = frames(pcm(sample).rstrip(b"\0"))
    text = await Xiaozhi(manual=True).talk(url, audio, seconds_between=0.02)
    assert text == sample.written


async def test_xiaozhi_at_the_speed_of_speech(url: str, samples: list[Sample]) -> None:
    sample = sample_of(samples, "home")
    audio = frames(pcm(sample) + bytes(64_000))
    assert await Xiaozhi().talk(url, audio, seconds_between=0.06) == sample.written


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006])
async def test_item_24_clients_that_go_in_the_middle(url: str, samples: list[Sample], code: int) -> None:
    audio = pcm(sample_of(samples, "meeting"))
    for service, part in itertools.product(SERVICES, (b"", audio[:64_000], audio)):
        async with nls(url, service=service) as client:
            await client.start()
            await client.say(part, 1 << 16)
            if code == 1006:
                client.socket.transport.abort()
            elif code == 1005:
                client.socket.protocol.send_close()
                client.socket.send_data()
            else:
                await client.socket.close(code)


async def test_item_16_failures_say_why(url: str) -> None:
    async with nls(url) as client:
        failed = await client.start(sample_rate=11025)
        assert status_of(failed) == 41010101
        assert "11025" in failed["header"]["status_text"]
        assert await client.closed() == ([], 1000)


@pytest.mark.own_server
@pytest.mark.long
async def test_a_replica_that_is_replaced_ends_its_tasks_well(tmp_path: Path, samples: list[Sample]) -> None:
    """A rolling update, as ``kill -HUP`` makes it; new connections get the new replica meanwhile."""
    config = tmp_path / "config.yaml"
    settings = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    config.write_text(yaml.safe_dump(settings))
    audio = pcm(sample_of(samples, "travel"))
    environment = {
        "RAY_TMPDIR": "/tmp",
        "NLS_IDLE_TIMEOUT_SEC": "300",
        "SPEAKER_MODEL": "none",
        "QWEN3_MODEL": "none",
    }
    with live_server(tmp_path / "server.log", config=config, env=environment, edge=True) as server:
        url = server.url.replace("http", "ws", 1)
        async with nls(url) as client:
            await client.start(**ASKED)
            await client.say(audio[:64_000])
            before = {process.pid for process in server.replicas("Ingress")}
            settings["applications"][0]["args"]["live_end_silence_ms"] = 900
            config.write_text(yaml.safe_dump(settings))
            server.process.send_signal(signal.SIGHUP)
            for _ in range(600):
                # The replica that answers now holds no session, so it is the new one. Its process is
                # looked for again and again: a title that is being written reads as an empty one.
                both = {process.pid for process in server.replicas("Ingress")} > before
                if both and sessions_of(server) == 0:
                    break
                await asyncio.sleep(0.2)
            else:
                pytest.fail("no new replica took over")
            new = text_of(await whole_task(url, audio, **ASKED))
            await client.say(audio[64_000:])
            await client.stop()
            await client.until("TranscriptionCompleted")
    assert text_of(client.events) == new == sample_of(samples, "travel").written


@pytest.mark.slow
async def test_16_paced_tasks_hear_only_their_own(url: str, samples: list[Sample]) -> None:
    """Both services and both addresses, all at once, at the speed of speech."""
    kinds = list(itertools.product(samples, SERVICES, ("/ws/v1", "/ws/v1/asr")))

    async def speak(sample: Sample, service: str, path: str, seconds: float) -> str:
        async with nls(url, path, service) as client:
            await client.start(**ASKED)
            for frame in frames(pcm(sample)):
                await client.socket.send(frame)
                await asyncio.sleep(seconds)
            await client.stop()
            return text_of(await client.until(NAMES[service] + "Completed"))

    alone = [await speak(*kind, seconds=0) for kind in kinds]
    chosen = list(itertools.islice(itertools.cycle(range(len(kinds))), 16))
    together = await asyncio.gather(*(speak(*kinds[index], seconds=0.06) for index in chosen))
    assert together == [alone[index] for index in chosen]
