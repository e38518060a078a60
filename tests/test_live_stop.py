"""A server that is stopped while somebody speaks."""

import asyncio
import signal
from pathlib import Path

import pytest

from benchmarks.live_server import live_server
from tests.conftest import Sample
from tests.funasr_clients import connected, send_json, until_closed
from tests.live_speech import RATE, recording, spoken
from tests.nls_clients import nls, status_of, text_of


@pytest.mark.own_server
async def test_live_clients_hear_the_rest_and_a_goodbye(tmp_path: Path, samples: list[Sample]) -> None:
    sample = next(sample for sample in samples if sample.path.name == "home.wav")
    audio = recording([sample.path])
    environment = {"EDGE_GRACE_SEC": "1", "SPEAKER_MODEL": "none", "QWEN3_MODEL": "none"}
    with live_server(tmp_path / "log", env=environment, edge=True) as server:
        url = server.url.replace("http", "ws", 1)
        async with connected(url + "/") as funasr, nls(url) as aliyun:
            await send_json(funasr, mode="2pass", audio_fs=RATE, is_speaking=True)
            await aliyun.start(enable_punctuation_prediction=True, enable_inverse_text_normalization=True)
            async for packet in spoken(audio, 0):
                await funasr.send(packet.tobytes())
                await aliyun.socket.send(packet.tobytes())
            await asyncio.sleep(2)
            server.process.send_signal(signal.SIGINT)
            messages, code = await until_closed(funasr)
            said = "".join(message["text"] for message in messages if message["mode"] == "2pass-offline")
            assert said == sample.written
            assert (messages[-1]["is_final"], code) == (True, 1001)
            assert "stopped" in messages[-1]["error"]
            events, closed = await aliyun.closed()
            assert text_of(aliyun.events or events) == sample.written
            assert (status_of(events[-1]), closed) == (40000004, 1000)
