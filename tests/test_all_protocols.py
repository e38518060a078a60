"""All live protocols at once, and files between them: nobody hears anything of anybody else."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import httpx
import pytest

from benchmarks.live_server import LiveServer
from deployments.messages import Pcm
from tests import dashscope_clients, nls_clients
from tests.conftest import Sample
from tests.dashscope_clients import FINISH, REALTIME, append, dashscope
from tests.live_speech import converse, recording, spoken
from tests.realtime_world import realtime

pytestmark = pytest.mark.server

SESSIONS = 40


async def funasr_2pass(server: LiveServer, audio: Pcm, speed: float) -> str:
    return (await converse(socket_url(server) + "/", spoken(audio, speed), "2pass")).text


async def funasr_online(server: LiveServer, audio: Pcm, speed: float) -> str:
    return (await converse(socket_url(server) + "/", spoken(audio, speed), "online")).text


async def nls(server: LiveServer, audio: Pcm, speed: float) -> str:
    async with nls_clients.nls(socket_url(server)) as client:
        await client.start(enable_intermediate_result=True, enable_punctuation_prediction=True)
        async for packet in spoken(audio, speed):
            await client.socket.send(packet.tobytes())
        await client.stop()
        events = await client.until("TranscriptionCompleted", "TaskFailed")
        return nls_clients.text_of(client.events or events)


async def dashscope_task(server: LiveServer, audio: Pcm, speed: float) -> str:
    async with dashscope(socket_url(server)) as client:
        await client.send(dashscope_clients.run_task())
        async for packet in spoken(audio, speed):
            await client.send(packet.tobytes())
        await client.send(dashscope_clients.action("finish-task"))
        return dashscope_clients.text_of(await client.until("task-finished", "task-failed"))


async def qwen(server: LiveServer, audio: Pcm, speed: float) -> str:
    async with dashscope(socket_url(server), REALTIME) as client:
        async for packet in spoken(audio, speed):
            await client.send(append(packet.tobytes()))
        await client.send(FINISH)
        return dashscope_clients.text_of((await client.closed())[0])


async def openai(server: LiveServer, audio: Pcm, speed: float) -> str:
    async with realtime(server.url) as client:
        await client.update(turn_detection=None)
        async for packet in spoken(audio, speed):
            await client.say(packet)
        await client.commit()
        return (await client.completed())[0]


async def file(server: LiveServer, audio: Pcm, speed: float) -> str:
    async with httpx.AsyncClient(timeout=120, trust_env=False) as client:
        response = await client.post(
            server.url + "/v1/audio/transcriptions",
            data={"format": "pcm"},
            files={"file": audio.tobytes()},
        )
        text: str = response.json()["text"]
        return text


Speaker = Callable[[LiveServer, Pcm, float], Awaitable[str]]
SPEAKERS: list[Speaker] = [funasr_2pass, funasr_online, nls, dashscope_task, qwen, openai, file]


def socket_url(server: LiveServer) -> str:
    return server.url.replace("http", "ws", 1)


async def test_forty_mixed_sessions_hear_only_their_own(server: LiveServer, samples: list[Sample]) -> None:
    paths = [sample.path for sample in samples]
    recordings = [recording([path]) for path in paths] + [recording(paths[:2]), recording(paths[1:])]
    work = [(SPEAKERS[i % len(SPEAKERS)], recordings[i % len(recordings)]) for i in range(SESSIONS)]
    alone: dict[tuple[str, int], str] = {}
    for speaker, audio in work:
        key = speaker.__name__, len(audio)
        if key not in alone:
            alone[key] = await speaker(server, audio, 0)
    assert all(alone.values())
    random.Random(4).shuffle(work)
    together = await asyncio.gather(*(speaker(server, audio, 1.0) for speaker, audio in work))
    assert list(together) == [alone[speaker.__name__, len(audio)] for speaker, audio in work]
    health = (await asyncio.to_thread(httpx.get, server.url + "/healthz", trust_env=False)).json()
    assert health["live_sessions"] == 0
