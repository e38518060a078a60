"""Replicas of a real server come and go with the audio that waits, and nobody who is served notices."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from benchmarks.live_server import LiveServer, live_server
from deployments.messages import Pcm
from tests import audio_files
from tests.conftest import Sample
from tests.live_speech import RATE, converse, recording, spoken, websocket_url

pytestmark = pytest.mark.own_server

ROOT = Path(__file__).parents[1]
MOST = 4
PATIENCE = 600
"""Looks of 0.1 s."""

MODELS = f"""
models:
  - name: busy
    title: One that takes a known time
    task: asr
    engine: benchmarks.autoscale_engine
    path: {ROOT / "models/starter/paraformer"}
    languages: [zh]
    gives: [word_times]
  - name: rare
    title: One that few ask for
    task: asr
    engine: benchmarks.autoscale_engine
    path: {ROOT / "models/starter/paraformer-hotwords"}
    languages: [zh]
    gives: [word_times]
"""


def scaling(policy: str, most: int, kwargs: dict[str, float], **values: Any) -> dict[str, Any]:
    """As quick as Serve is."""
    return {
        "min_replicas": 1,
        "max_replicas": most,
        "metrics_interval_s": 0.5,
        "look_back_period_s": 1,
        "upscale_delay_s": 0.2,
        "downscale_delay_s": 1,
        "policy": {"policy_function": f"deployments.autoscaling:{policy}", "policy_kwargs": kwargs},
        **values,
    }


def config() -> dict[str, Any]:
    delivered: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.yaml").read_text("utf-8"))
    quick = {"target_wait_seconds": 0.5, "hold_seconds": 3}
    own = {"max_ongoing_requests": 32, "ray_actor_options": {"num_cpus": 0}}
    deployments = delivered["applications"][0]["deployments"]
    for deployment in deployments:
        if deployment["name"] == "Ingress":
            deployment["autoscaling_config"] = scaling(
                "IngressPolicy", 2, {"target_share": 0.25, "hold_seconds": 1}
            )
    deployments += [
        {"name": "Recognizer-busy", **own, "autoscaling_config": scaling("AudioPolicy", MOST, quick)},
        {
            "name": "Recognizer-rare",
            **own,
            "autoscaling_config": scaling("AudioPolicy", 1, quick, min_replicas=0, initial_replicas=0),
        },
    ]
    return delivered


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    directory = tmp_path_factory.mktemp("autoscaling")
    (directory / "models.yaml").write_text(MODELS, "utf-8")
    (directory / "serve_config.yaml").write_text(yaml.safe_dump(config()), "utf-8")
    environment = {
        "RAY_TMPDIR": "/tmp",
        "MODELS_FILE": str(directory / "models.yaml"),
        "PYTHONPATH": str(ROOT),
        "ENABLED_MODELS": "busy,rare",
        "SPEAKER_MODEL": "none",
        "MAX_LIVE_SESSIONS": "8",
        # In bf16, what else is in a batch changes the last digits, and now and then a character.
        "PRECISION": "fp32",
    }
    path = directory / "serve_config.yaml"
    with live_server(directory / "server.log", config=path, env=environment) as running:
        yield running


def replicas(server: LiveServer, deployment: str) -> int:
    return len(server.replicas(deployment))


async def until(server: LiveServer, deployment: str, count: int) -> None:
    for _ in range(PATIENCE):
        if await asyncio.to_thread(replicas, server, deployment) == count:
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"{deployment} does not come to {count} replicas:\n" + server.log.read_text()[-4000:])


async def transcribe(client: httpx.AsyncClient, server: LiveServer, model: str, wav: bytes) -> str:
    answer = await client.post(
        f"{server.url}/v1/audio/transcriptions", data={"model": model}, files={"file": ("a.wav", wav)}
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["text"])


def wav_of(samples: Pcm) -> bytes:
    return audio_files.wav(np.asarray(samples / 32768, np.float32), RATE)


async def test_replicas_come_and_go_and_nobody_who_is_served_notices(
    server: LiveServer, samples: list[Sample]
) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(replicas_follow_the_audio_that_waits(server, samples))
        tasks.create_task(a_model_without_a_replica_is_ready_and_its_first_request_waits(server, samples))
        tasks.create_task(sessions_of_an_ingress_that_is_taken_away_go_on(server, samples))


async def replicas_follow_the_audio_that_waits(server: LiveServer, samples: list[Sample]) -> None:
    clip = recording([samples[0].path])
    file = np.tile(recording([sample.path for sample in samples]), 2)
    short, long = wav_of(clip), wav_of(file)
    async with httpx.AsyncClient(timeout=120, trust_env=False) as client:
        assert replicas(server, "Recognizer-busy") == 1
        burst = [transcribe(client, server, "busy", wav) for wav in [short, long, short] * 6]
        most = 0
        async with asyncio.TaskGroup() as tasks:
            answers = [tasks.create_task(each) for each in burst]
            while not all(answer.done() for answer in answers):
                most = max(most, await asyncio.to_thread(replicas, server, "Recognizer-busy"))
                await asyncio.sleep(0.2)
        assert most == MOST
        await until(server, "Recognizer-busy", 1)
        alone = [await transcribe(client, server, "busy", wav) for wav in (short, long)]
        assert all(alone)
        assert [answer.result() for answer in answers] == [alone[0], alone[1], alone[0]] * 6


async def a_model_without_a_replica_is_ready_and_its_first_request_waits(
    server: LiveServer, samples: list[Sample]
) -> None:
    wav = wav_of(recording([samples[0].path]))
    async with httpx.AsyncClient(timeout=120, trust_env=False) as client:
        assert replicas(server, "Recognizer-rare") == 0
        ready = await client.get(f"{server.url}/readyz")
        assert ready.status_code == 200, ready.text
        assert "Recognizer-rare" in ready.json()["deployments"]
        listed = (await client.get(f"{server.url}/v1/models")).json()["data"]
        assert {"busy", "rare"} == {model["id"] for model in listed}
        first = asyncio.create_task(transcribe(client, server, "rare", wav))
        while not first.done():
            ready = await client.get(f"{server.url}/readyz")
            assert ready.status_code == 200, ready.text
            await asyncio.sleep(0.2)
        assert await first
        await until(server, "Recognizer-rare", 0)


async def sessions_of_an_ingress_that_is_taken_away_go_on(server: LiveServer, samples: list[Sample]) -> None:
    audio = recording([samples[0].path, samples[2].path], pause=0.5)
    url = websocket_url(server.url)
    stops = [asyncio.Event() for _ in range(6)]
    rounds = [0] * len(stops)

    async def packets(index: int) -> AsyncIterator[Pcm]:
        while not stops[index].is_set() or not rounds[index]:
            rounds[index] += 1
            async for packet in spoken(audio):
                yield packet

    async def session(index: int) -> str:
        return (await converse(url, packets(index), "online")).text

    async with asyncio.TaskGroup() as tasks:
        sessions = [tasks.create_task(session(index)) for index in range(3)]
        await until(server, "Ingress", 2)
        # The second replica gets some of these.
        sessions += [tasks.create_task(session(index)) for index in range(3, 6)]
        await asyncio.sleep(2)
        for stop in stops[1:5]:
            stop.set()
        await asyncio.gather(*sessions[1:5])
        # Two are left, and one replica is enough for them; the other goes once it serves nobody.
        began = time.monotonic()
        while time.monotonic() - began < 4:
            assert not sessions[0].done()
            assert not sessions[5].done()
            await asyncio.sleep(0.2)
        for stop in stops:
            stop.set()
    alone = {}
    for count in sorted({*rounds}):
        alone[count] = (await converse(url, spoken(np.tile(audio, count), speed=0), "online")).text
        assert alone[count]
    assert [each.result() for each in sessions] == [alone[count] for count in rounds]
    await until(server, "Ingress", 1)
