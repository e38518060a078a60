"""Anything at all over Aliyun's WebSocket: an answer or a clean close follows, and nothing is left."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.fuzzing import share
from tests.live_graph import ToneGraph
from tests.live_sessions import tones
from tests.nls_clients import NAMES, RECOGNIZER, SUCCESS, TRANSCRIBER, nls_server

WITHIN = 5.0
"""Seconds after which a client may take the server for hanging."""

KNOWN = {
    *("TranscriptionStarted", "SentenceBegin", "TranscriptionResultChanged", "SentenceEnd"),
    *("TranscriptionCompleted", "RecognitionStarted", "RecognitionResultChanged", "RecognitionCompleted"),
    "TaskFailed",
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)
TASK_IDS = st.sampled_from(["a" * 32, "b" * 32, "", None, 7]) | JSON
VALUES = {
    "format": st.sampled_from(["pcm", "wav", "opus", "opu", "speex", "amr", "mp3", "aac"]),
    "sample_rate": st.sampled_from([8000, 16000, "16000", 16000.0, 0, -1, 48000]),
    "max_sentence_silence": st.sampled_from([None, 200, 800, "300", 0, 1e9]),
    "enable_intermediate_result": st.booleans(),
    "enable_words": st.booleans(),
    "enable_voice_detection": st.booleans(),
    "max_start_silence": st.sampled_from([None, 200, 1000]),
    "vocabulary_id": st.text(max_size=20),
    "special_word_filter": JSON,
    "session_id": JSON,
}
PAYLOADS = (
    st.fixed_dictionaries({}, optional=VALUES)
    | st.fixed_dictionaries({}, optional={name: value | JSON for name, value in VALUES.items()})
    | JSON
)
SERVICES = st.sampled_from([TRANSCRIBER, RECOGNIZER])


@st.composite
def directives(draw: st.DrawFn) -> str:
    """A directive, often one that is right."""
    service = draw(SERVICES)
    verb = draw(st.sampled_from(["Start", "Start", "Stop", "Stop", "Control", "Pause"]))
    header: dict[str, Any] = {"namespace": service, "name": verb + NAMES[service]}
    if draw(st.booleans()):
        header["task_id"] = draw(TASK_IDS)
    if draw(st.integers(0, 9)) == 0:
        header[draw(st.sampled_from(sorted(header)))] = draw(JSON)
    message: dict[str, Any] = {"header": header, "context": draw(JSON)}
    if verb == "Start" or draw(st.booleans()):
        message["payload"] = draw(PAYLOADS)
    return json.dumps(message)


SPEECH = tones([1, 2, 0, 0, 3]).tobytes()
AUDIO = st.sampled_from(
    [SPEECH, bytes(32_000), SPEECH[:3201], b"", b"OggS", b"RIFF", b"#!AMR\n"]
) | st.binary(max_size=2000)
BROKEN = st.text(max_size=40) | JSON.map(json.dumps) | directives().map(lambda text: text[:-3])
MESSAGES = st.lists(directives() | AUDIO | BROKEN, max_size=14)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server in a thread of its own, so that its clients need not be asynchronous."""
    found: list[str] = []
    is_there, is_over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with nls_server(ToneGraph(), nls_idle_timeout_sec=0.1) as address:
            found.append(address)
            is_there.set()
            await asyncio.to_thread(is_over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert is_there.wait(60)
    try:
        yield found[0]
    finally:
        is_over.set()
        thread.join()


@share(0.25)
@given(st.sampled_from(["/ws/v1", "/ws/v1/asr"]), MESSAGES)
@pytest.mark.slow
def test_anything(url: str, path: str, messages: list[str | bytes]) -> None:
    with connect(url + path, proxy=None, ping_interval=None, close_timeout=WITHIN) as socket:
        closed = converse(socket, messages)
    assert closed.rcvd is not None, "the connection broke off"
    assert closed.rcvd.code == 1000
    assert sessions_within(url) == 0


def converse(socket: ClientConnection, messages: list[str | bytes]) -> ConnectionClosed:
    """Send all, look at what comes; the end of it."""
    try:
        for message in messages:
            socket.send(message)
        while True:
            assert_event(json.loads(socket.recv(WITHIN)))
    except ConnectionClosed as closed:
        return closed


def assert_event(event: dict[str, Any]) -> None:
    header = event["header"]
    assert header["name"] in KNOWN
    assert isinstance(header["task_id"], str)
    assert header["status_text"]
    assert (header["status"] == SUCCESS) == (header["name"] != "TaskFailed")
    assert 40000000 <= header["status"] < 50000000 or header["status"] == SUCCESS, "a fault of the server"


def sessions_within(url: str) -> int:
    """Live sessions that are left after the time in which they should be gone."""
    deadline = time.monotonic() + WITHIN
    while True:
        health = httpx.get(url.replace("ws", "http", 1) + "/healthz", trust_env=False).json()
        if health["live_sessions"] == 0 or time.monotonic() > deadline:
            return int(health["live_sessions"])
        time.sleep(0.05)
