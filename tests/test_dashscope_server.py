"""DashScope's clients on the live server: their own SDK as the document uses it, and xiaozhi."""

import os
import re
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.live_server import LiveServer
from tests import audio_files
from tests import funasr_clients as funasr
from tests.conftest import ROOT, Sample
from tests.dashscope_clients import (
    COMMIT,
    FINISH,
    REALTIME,
    Xiaozhi,
    append,
    dashscope,
    sentences,
    text_of,
    update,
    whole_task,
)
from tests.test_docs import blocks
from tests.test_funasr_clients import similar

pytestmark = pytest.mark.server

PROGRAMS = [content for language, content in blocks(ROOT / "docs" / "dashscope.md") if language == "python"]
needs_sdk = pytest.mark.skipif(find_spec("dashscope") is None, reason="DashScope's SDK is not installed")


@pytest.fixture(scope="module")
def url(server: LiveServer) -> str:
    return server.url.replace("http", "ws", 1)


@pytest.fixture(autouse=True)
def nothing_left(server: LiveServer) -> Iterator[None]:
    """Afterwards the server holds no session."""
    yield
    for _ in range(100):
        if httpx.get(server.url + "/healthz", trust_env=False).json()["live_sessions"] == 0:
            break
        time.sleep(0.1)
    assert httpx.get(server.url + "/healthz", trust_env=False).json()["live_sessions"] == 0


def pcm(sample: Sample) -> bytes:
    with wave.open(str(sample.path)) as file:
        return bytes(file.readframes(file.getnframes()))


def sample_of(samples: list[Sample], name: str) -> Sample:
    return next(sample for sample in samples if sample.path.stem == name)


def run(program: str, server: LiveServer, directory: Path) -> str:
    """What a program of the document prints, with the server's address in place of the document's."""
    (directory / "samples").symlink_to(ROOT / "samples")
    result = subprocess.run(
        [sys.executable, "-c", program.replace("localhost:8000", server.url.removeprefix("http://"))],
        cwd=directory,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "NO_PROXY": "*", "no_proxy": "*"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@needs_sdk
def test_the_sdk_recognizes_a_file(server: LiveServer, samples: list[Sample], tmp_path: Path) -> None:
    lines = run(PROGRAMS[0], server, tmp_path).splitlines()
    assert "".join(line.split(" ", 2)[2] for line in lines) == sample_of(samples, "travel").written
    times = [[int(number) for number in line.split(" ")[:2]] for line in lines]
    assert times == sorted(times)
    assert all(begin < end for begin, end in times)


@needs_sdk
@pytest.mark.parametrize("number", [1, 2], ids=["recognition", "qwen"])
def test_the_sdk_recognizes_live_audio(
    number: int, server: LiveServer, samples: list[Sample], tmp_path: Path
) -> None:
    lines = run(PROGRAMS[number], server, tmp_path).splitlines()
    finals = "".join(line.removeprefix("=> ").strip() for line in lines if line.startswith("=>"))
    assert finals == sample_of(samples, "travel").written
    assert sum(line.startswith("...") for line in lines) >= 2
    if number == 1:
        assert lines[-1] == "complete"


@needs_sdk
def test_the_sdk_tells_what_was_wrong(server: LiveServer, tmp_path: Path) -> None:
    program = PROGRAMS[1].replace('format="pcm"', 'format="midi"')
    assert "UNSUPPORTED_FORMAT The format 'midi' is not supported." in run(program, server, tmp_path)


async def test_both_protocols_say_what_the_others_say(url: str, samples: list[Sample]) -> None:
    for sample in samples:
        other = (await funasr.python_2026(url + "/", pcm(sample), speed=0)).text
        events = await whole_task(url, pcm(sample), size=6400)
        assert text_of(events) == other
        async with dashscope(url, REALTIME) as client:
            for begin in range(0, len(pcm(sample)), 6400):
                await client.send(append(pcm(sample)[begin : begin + 6400]))
            await client.send(FINISH)
            assert text_of((await client.closed())[0]) == other


async def test_manual_turns(url: str, samples: list[Sample]) -> None:
    sample = sample_of(samples, "home")
    async with dashscope(url, REALTIME) as client:
        await client.send(update(turn_detection=None))
        for _ in range(2):
            await client.send(append(pcm(sample)))
            await client.send(COMMIT)
        await client.send(FINISH)
        events, closed = await client.closed()
    assert (text_of(events), closed) == (sample.written * 2, 1000)


@pytest.mark.parametrize(
    ("name", "write", "rate"),
    [
        ("opus", audio_files.ogg_opus, 16000),
        ("mp3", audio_files.mp3, 16000),
        ("aac", audio_files.adts, 16000),
        ("amr", audio_files.amr_nb, 8000),
        ("wav", audio_files.wav, 16000),
    ],
)
async def test_every_format(url: str, samples: list[Sample], name: str, write: object, rate: int) -> None:
    assert callable(write)
    sample = sample_of(samples, "travel")
    audio = np.frombuffer(pcm(sample), np.int16).astype(np.float32) / 32768
    events = await whole_task(url, write(audio, 16000), format=name, sample_rate=rate, size=1000)
    assert similar(text_of(events), sample.written) > 0.7
    assert [sentence["sentence_id"] for sentence in sentences(events) if sentence["sentence_end"]] == [1, 2]


@pytest.mark.parametrize("manual", [False, True])
async def test_xiaozhi(url: str, samples: list[Sample], manual: bool) -> None:
    """In auto mode the device keeps sending until the text is there: here, silence after the speech."""
    sample = sample_of(samples, "home")
    audio = pcm(sample) + (b"" if manual else bytes(64_000))
    frames = [audio[begin : begin + 1920] for begin in range(0, len(audio), 1920)]
    text = await Xiaozhi(manual=manual).talk(url, frames, 0.01)
    assert re.sub(r"\W", "", text) == re.sub(r"\W", "", sample.written)
