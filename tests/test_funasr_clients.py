"""FunASR's protocol on the live server, as its clients use it: pretended ones, and FunASR's own where given.

The tests named ``test_item_…`` are the lines of the conformance list that concern this protocol.
"""

import asyncio
import contextlib
import difflib
import json
import os
import re
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import soxr
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from benchmarks.live_server import LiveServer
from tests import audio_files
from tests import funasr_clients as clients
from tests.conftest import Sample
from tests.funasr_clients import Heard, Message, connected, receive, send_audio, send_json, until_closed

pytestmark = pytest.mark.server

RATE = 16_000
MARKS = re.compile("[，。？！、,.?! ]")
OWN_CLIENTS = [Path(path) for path in os.environ.get("FUNASR_CLIENT", "").split(os.pathsep) if path]
"""Copies of FunASR's ``funasr_wss_client.py``, of any of its versions."""


@pytest.fixture(scope="module")
def url(server: LiveServer) -> str:
    return server.url.replace("http", "ws") + "/"


@pytest.fixture
def nothing_left(server: LiveServer, server_temp: Path) -> Iterator[None]:
    """Afterwards the server holds no session and no temporary file."""
    yield
    for _ in range(100):
        if httpx.get(server.url + "/healthz").json()["live_sessions"] == 0:
            break
        asyncio.run(asyncio.sleep(0.1))
    assert httpx.get(server.url + "/healthz").json()["live_sessions"] == 0
    assert [path for path in server_temp.rglob("*") if path.is_file()] == []


def levels(audio: bytes) -> npt.NDArray[np.float32]:
    """16-bit PCM as samples in [-1, 1]."""
    return np.frombuffer(audio, "<i2").astype(np.float32) / np.float32(32768)


def pcm(sample: Sample) -> bytes:
    with wave.open(str(sample.path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        return bytes(file.readframes(file.getnframes()))


def named(samples: list[Sample], name: str) -> Sample:
    return next(sample for sample in samples if sample.path.stem == name)


def plain(text: str) -> str:
    """``text`` without marks and spaces."""
    return MARKS.sub("", text)


def similar(text: str, expected: str, least: float = 0.8) -> bool:
    """Whether what was said is there: live sentences are cut differently, which may cost a character."""
    matcher = difflib.SequenceMatcher(None, plain(text), plain(expected), autojunk=False)
    return matcher.ratio() >= least


def at_rate(audio: bytes, rate: int) -> bytes:
    resampled = soxr.resample(np.frombuffer(audio, "<i2"), RATE, rate)
    return np.asarray(resampled, "<i2").tobytes()


def transcribed(server: LiveServer, data: bytes) -> str:
    """The text of a file by the HTTP interface."""
    response = httpx.post(
        server.url + "/v1/audio/transcriptions", files={"file": ("a.wav", data)}, timeout=120
    )
    return str(response.json()["text"])


def finals(messages: list[Message]) -> list[Message]:
    return [message for message in messages if message["is_final"] and "text" in message]


async def utterance(
    url: str, audio: bytes, *, frame: int = 6400, binary: bool = False, **config: object
) -> list[Message]:
    """One utterance without pauses, up to its one final."""
    async with connected(url, binary=binary) as socket:
        await send_json(socket, **config, is_speaking=True)
        await send_audio(socket, audio, frame)
        await send_json(socket, is_speaking=False)
        messages = [await receive(socket)]
        while not messages[-1]["is_final"]:
            messages.append(await receive(socket))
        await assert_silence(socket)
    return messages


async def assert_silence(socket: ClientConnection) -> None:
    """Nothing comes but the acknowledgement that is asked for."""
    await send_json(socket, is_speaking=False, is_end=True)
    assert (await receive(socket))["is_end"] is True


async def test_item_2_connects_with_and_without_subprotocol(url: str, samples: list[Sample]) -> None:
    sample = named(samples, "home")
    for binary in (True, False):
        for path in ("", "ws/v1/asr/funasr"):
            (message,) = await utterance(url + path, pcm(sample), binary=binary, mode="offline")
            assert message["text"] == sample.written


@pytest.mark.skipif(not OWN_CLIENTS, reason="FUNASR_CLIENT names no copy of funasr_wss_client.py")
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["offline", "online", "2pass"])
@pytest.mark.parametrize("path", OWN_CLIENTS, ids=lambda path: path.stem)
def test_item_3_funasrs_own_client(
    server: LiveServer, samples: list[Sample], tmp_path: Path, path: Path, mode: str
) -> None:
    sample = named(samples, "travel")
    port = server.url.rpartition(":")[2]
    options = ["--host", "127.0.0.1", "--port", port, "--ssl", "0", "--mode", mode]
    options += ["--audio_in", str(sample.path), "--output_dir", str(tmp_path)]
    result = subprocess.run(
        [sys.executable, str(path.resolve()), *options],
        cwd=tmp_path,
        env={**os.environ, "TERM": "dumb"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    shown = [line.partition("pid0_0: ")[2] for line in result.stdout.splitlines() if "pid0_0: " in line]
    text = shown[-1].removeprefix("demo: ").partition(" timestamp: ")[0]
    if mode == "online":
        assert similar(text, sample.text)
    else:
        assert text == sample.written


@pytest.mark.parametrize("mode", ["offline", "online", "2pass"])
async def test_item_3_the_acknowledgement_comes_last(url: str, samples: list[Sample], mode: str) -> None:
    sample = named(samples, "travel")
    heard = await clients.python_2026(url, pcm(sample), mode=mode, speed=4)
    *results, end = heard.messages
    assert (end["is_end"], end["is_final"], end["mode"], end["wav_name"]) == (True, True, mode, "demo")
    assert "text" not in end
    assert finals(results) == results[-1:]
    assert similar(heard.text, sample.text) if mode == "online" else heard.text == sample.written


@pytest.mark.parametrize("mode", ["offline", "online", "2pass"])
async def test_item_4_no_acknowledgement_unasked(url: str, samples: list[Sample], mode: str) -> None:
    messages = await utterance(url, pcm(named(samples, "home")), mode=mode)
    assert not any("is_end" in message for message in messages)
    assert all({"mode", "text", "wav_name", "is_final"} <= set(message) for message in messages)


async def test_item_5_offline_is_one_message_also_for_silence(url: str, samples: list[Sample]) -> None:
    spoken = [(pcm(sample), sample.written) for sample in samples]
    for audio, text in [*spoken, (bytes(96_000), ""), (b"", "")]:
        (message,) = await utterance(url, audio, mode="offline")
        assert (message["mode"], message["text"], message["is_final"]) == ("offline", text, True)
        assert ("timestamp" in message) == ("stamp_sents" in message) == bool(text)


async def test_item_6_2pass_has_one_final_after_the_end(url: str, samples: list[Sample]) -> None:
    sample = named(samples, "travel")
    for audio in (pcm(sample), pcm(sample) + bytes(64_000), bytes(64_000)):
        messages = await utterance(url, audio, mode="2pass")
        assert finals(messages) == messages[-1:]
        assert messages[-1]["mode"] == "2pass-offline"
        assert {message["mode"] for message in messages} <= {"2pass-online", "2pass-offline"}


@pytest.mark.parametrize("mode", ["offline", "2pass"])
async def test_item_7_utterances_follow_each_other_and_hotwords_stay(
    url: str, samples: list[Sample], mode: str
) -> None:
    async with connected(url) as socket:
        for index, name in enumerate(("home", "travel", "home")):
            sample = named(samples, name)
            hotwords = {"hotwords": '{"高铁": 20}'} if index == 0 else {}
            await send_json(socket, mode=mode, wav_name=f"{name}-{index}", is_speaking=True, **hotwords)
            await send_audio(socket, pcm(sample), 6400)
            await send_json(socket, is_speaking=False)
            messages = [await receive(socket)]
            while not messages[-1]["is_final"]:
                messages.append(await receive(socket))
            assert clients.text_of(messages) == sample.written
            assert {message["wav_name"] for message in messages} == {f"{name}-{index}"}
            assert {message["hotwords_applied"] for message in messages} == {False}


@pytest.mark.parametrize("mode", ["offline", "online", "2pass"])
async def test_item_8_timestamps_are_strings_with_a_pair_a_word(
    url: str, samples: list[Sample], mode: str
) -> None:
    sample = named(samples, "travel")
    messages = await utterance(url, pcm(sample), mode=mode)
    stamped = [message for message in messages if "timestamp" in message]
    assert bool(stamped) == (mode != "online")
    times = []
    for message in stamped:
        assert isinstance(message["timestamp"], str)
        pairs = json.loads(message["timestamp"])
        assert len(pairs) == len(plain(message["text"]))
        assert [pair for part in message["stamp_sents"] for pair in part["ts_list"]] == pairs
        segments = [part["text_seg"].replace(" ", "") + part["punc"] for part in message["stamp_sents"]]
        assert "".join(segments) == message["text"]
        times += [time for pair in pairs for time in pair]
    assert times == sorted(times)
    assert all(0 <= time <= len(pcm(sample)) / 32 for time in times)


@pytest.mark.parametrize(
    "hotwords", ['{"阿里巴巴": 20, "通义": "30"}', {"阿里巴巴": 20}, "阿里巴巴 通义", "阿里巴巴,通义", ""]
)
@pytest.mark.parametrize("mode", ["offline", "2pass"])
async def test_item_9_all_forms_of_hotwords(
    url: str, samples: list[Sample], mode: str, hotwords: object
) -> None:
    sample = named(samples, "home")
    messages = await utterance(url, pcm(sample), mode=mode, hotwords=hotwords)
    assert clients.text_of(messages) == sample.written
    assert messages[-1].get("hotwords_applied") == (False if hotwords else None)


@pytest.mark.parametrize("mode", ["offline", "2pass"])
async def test_item_10_sample_rates(url: str, server: LiveServer, samples: list[Sample], mode: str) -> None:
    sample = named(samples, "home")
    for rate in (16000.0, "16000"):
        assert clients.text_of(await utterance(url, pcm(sample), mode=mode, audio_fs=rate)) == sample.written
    audio = at_rate(pcm(sample), 8000)
    expected = transcribed(server, audio_files.wav(levels(audio), 8000))
    for rate in (8000, 8000.0):
        text = clients.text_of(await utterance(url, audio, mode=mode, audio_fs=rate))
        assert similar(text, expected, least=1 if mode == "offline" else 0.8)


@pytest.mark.parametrize("mode", ["offline", "2pass"])
@pytest.mark.parametrize("frame", [777, 1 << 30])
async def test_item_11_any_length_of_frame(url: str, samples: list[Sample], mode: str, frame: int) -> None:
    sample = named(samples, "home")
    messages = await utterance(url, pcm(sample) + b"\0", frame=frame, mode=mode)
    assert clients.text_of(messages) == sample.written


@pytest.mark.parametrize("mode", ["offline", "2pass"])
async def test_item_11_a_frame_above_a_mebibyte(url: str, samples: list[Sample], mode: str) -> None:
    sample = named(samples, "home")
    audio = pcm(sample) + bytes(2 << 20)
    assert clients.text_of(await utterance(url, audio, frame=1 << 30, mode=mode)) == sample.written


async def test_item_12_containers(url: str, samples: list[Sample]) -> None:
    sample = named(samples, "travel")
    file = sample.path.read_bytes()
    for wav_format in ("others", "wav", "PCM", "pcm"):
        (message,) = await utterance(url, file, mode="offline", wav_format=wav_format)
        assert message["text"] == sample.written
    mp3 = audio_files.mp3(levels(pcm(sample)), RATE)
    (message,) = await utterance(url, mp3, mode="offline", wav_format="mp3")
    assert similar(message["text"], sample.written)
    for wav_format in ("others", "PCM"):
        messages = await utterance(url, file, mode="2pass", wav_format=wav_format)
        assert clients.text_of(messages) == sample.written
    (message,) = await utterance(url, mp3, mode="2pass", wav_format="mp3")
    assert (message["text"], message["is_final"]) == ("", True)
    assert "PCM" in message["error"]


async def test_item_13_xiaozhi(url: str, samples: list[Sample]) -> None:
    for sample in samples:
        heard = await clients.xiaozhi_fun_server(url, pcm(sample), session=sample.path.stem)
        assert heard.text == sample.text
        assert len(heard.messages) == 1
    assert (await clients.xiaozhi_fun_server(url, bytes(32_000))).text == ""


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("code", [1000, 1001, 1005, 1006])
@pytest.mark.parametrize("mode", ["offline", "online", "2pass"])
async def test_item_24_clients_that_go_in_mid_utterance(
    url: str, samples: list[Sample], mode: str, code: int
) -> None:
    audio = pcm(named(samples, "meeting"))
    for part in (audio[:64_000], audio, b""):
        async with connected(url) as socket:
            await send_json(socket, mode=mode, wav_format="pcm", is_speaking=True)
            if part:
                await socket.send(part)
            if mode != "offline" and part:
                await receive(socket)
            if code == 1006:
                socket.transport.abort()
            elif code == 1005:
                # A close frame without a code.
                socket.protocol.send_close()
                socket.send_data()
            else:
                await socket.close(code)


@pytest.mark.usefixtures("nothing_left")
async def test_frames_above_the_proxys_limit_are_refused_cleanly(url: str, samples: list[Sample]) -> None:
    async with connected(url) as socket:
        await send_json(socket, mode="2pass")
        with contextlib.suppress(ConnectionClosed):
            await socket.send(bytes(64 << 20))
        messages, closed = await until_closed(socket)
        assert messages == []
        assert closed in (1009, 1006), "1006: the rest of the frame was still on its way"
    sample = named(samples, "home")
    assert clients.text_of(await utterance(url, pcm(sample), mode="2pass")) == sample.written


@pytest.mark.usefixtures("nothing_left")
async def test_recordings_above_the_limit_are_refused_cleanly(url: str, samples: list[Sample]) -> None:
    """The server of the tests takes 20 MB."""
    for mode in ("offline", None):
        async with connected(url) as socket:
            await send_json(socket, mode=mode, wav_format="others")
            with contextlib.suppress(ConnectionClosed):
                for _ in range(30):
                    await socket.send(bytes(1 << 20))
            messages, closed = await until_closed(socket)
            assert [message["is_final"] for message in messages if "error" in message] == [True]
            assert closed == 1009
    sample = named(samples, "home")
    assert (await clients.xiaozhi_fun_server(url, pcm(sample))).text == sample.text


async def test_cpp_offline_with_a_list_of_files(url: str, samples: list[Sample]) -> None:
    files = [sample.path.read_bytes() for sample in samples]
    heard = await clients.cpp_offline(url, files, hotwords='{"高铁": 20}')
    assert [result.text for result in heard] == [sample.written for sample in samples]
    heard = await clients.cpp_offline(url, [pcm(sample) for sample in samples], wav_format="pcm")
    assert [result.text for result in heard] == [sample.written for sample in samples]


@pytest.mark.parametrize("mode", ["offline", "online", "2pass"])
async def test_cpp_2pass(url: str, samples: list[Sample], mode: str) -> None:
    for name in ("home", "travel"):
        sample = named(samples, name)
        heard = await clients.cpp_2pass(url, pcm(sample), mode=mode, speed=4)
        assert similar(heard.text, sample.text) if mode == "online" else heard.text == sample.written


@pytest.mark.parametrize("mode", ["offline", "2pass"])
async def test_java(url: str, samples: list[Sample], mode: str) -> None:
    sample = named(samples, "travel")
    heard = await clients.java(url, pcm(sample), mode=mode, hotwords='{"高铁": "20"}', speed=4)
    assert heard.text == sample.written


async def test_h5_with_files(url: str, samples: list[Sample]) -> None:
    for sample in samples:
        heard = await clients.h5_file(url, sample.path.read_bytes())
        assert shown_clauses(heard) == plain(sample.text)
    sample = named(samples, "home")
    mp3 = audio_files.mp3(levels(pcm(sample)), RATE)
    heard = await clients.h5_file(url, mp3, extension="mp3")
    assert similar(shown_clauses(heard), sample.text)
    assert (await clients.h5_file(url, audio_files.wav(np.zeros(16_000, np.float32), RATE))).text == ""


def shown_clauses(heard: Heard) -> str:
    """The clauses of the page's text area without their times."""
    return "".join(line.partition(":")[2] for line in heard.text.splitlines())


def sentences(samples: list[Sample]) -> list[bytes]:
    """The samples cut at their pauses."""
    clips = []
    for sample in samples:
        audio = np.frombuffer(pcm(sample), "<i2")
        frames = audio[: len(audio) // 320 * 320].reshape(-1, 320).astype(np.float32)
        quiet = np.abs(frames).max(axis=1) < 300
        begin = run = 0
        for index, is_quiet in enumerate(quiet):
            run = run + 1 if is_quiet else 0
            if run == 15 and index - begin > 50:
                clips.append(audio[begin * 320 : (index - 5) * 320].tobytes())
                begin = index - 5
        clips.append(audio[begin * 320 :].tobytes())
    return [clip for clip in clips if len(clip) > RATE]


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("mode", ["online", "2pass"])
async def test_32_paced_sessions_hear_only_their_own(url: str, samples: list[Sample], mode: str) -> None:
    clips = sentences(samples)
    pause = bytes(2 * RATE)
    audio = [
        clips[index % len(clips)] + pause + clips[(3 * index // len(clips) + index) % len(clips)]
        for index in range(32)
    ]
    alone = [(await clients.python_2026(url, one, mode=mode, speed=0)).text for one in audio]
    assert len(set(alone)) > 16
    assert all(alone)
    together = await asyncio.gather(*(clients.python_2026(url, one, mode=mode) for one in audio))
    assert [heard.text for heard in together] == alone


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left")
async def test_bad_clients_disturb_nobody(url: str, samples: list[Sample]) -> None:
    audio = pcm(named(samples, "travel"))
    alone = (await clients.python_2026(url, audio, speed=0)).text

    async def misbehave(index: int) -> None:
        async with connected(url) as socket:
            await send_json(socket, mode=("2pass", "online", "offline")[index % 3])
            if index % 4 == 0:
                await socket.send("no JSON")
            await socket.send(audio[: 20_000 * (index % 5)])
            await asyncio.sleep(index % 7 / 10)
            if index % 2:
                socket.transport.abort()

    async def crowd() -> None:
        for begin in range(0, 120, 15):
            await asyncio.gather(*(misbehave(begin + index) for index in range(15)))

    heard, _ = await asyncio.gather(
        asyncio.gather(*(clients.python_2026(url, audio) for _ in range(8))), crowd()
    )
    assert [one.text for one in heard] == [alone] * 8
    assert all(len(finals(one.messages)) == 1 for one in heard)
