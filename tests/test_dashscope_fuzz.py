"""Anything at all over DashScope's WebSockets: an answer or a clean close follows, and nothing is left."""

import asyncio
import contextlib
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
from websockets.sync.client import connect

from tests.dashscope_clients import INFERENCE, REALTIME, append, name_of
from tests.fuzzing import share
from tests.live_graph import ToneGraph
from tests.live_sessions import tones
from tests.nls_clients import nls_server

WITHIN = 5.0
"""Seconds after which a client may take the server for hanging."""

OURS = {"InternalError", "ServiceUnavailable"}
"""Codes of faults of the server, which nothing that a client sends may be."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)
SPEECH = tones([1, 2, 0, 0, 3]).tobytes()
AUDIO = st.sampled_from(
    [SPEECH, bytes(32_000), SPEECH[:3201], b"", b"OggS", b"RIFF", b"#!AMR\n"]
) | st.binary(max_size=2000)


def often(values: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """An object of these values, or one in which some are anything, or anything."""
    wild = {name: value | JSON for name, value in values.items()}
    return st.fixed_dictionaries({}, optional=values) | st.fixed_dictionaries({}, optional=wild) | JSON


FORMATS = st.sampled_from(["pcm", "pcm16", "wav", "opus", "speex", "amr", "mp3", "aac", "midi"])
RATES = st.sampled_from([8000, 16000, "16000", 16000.0, 48000, 0, -1, 10**12])
SILENCES = st.sampled_from([None, 200, 800, "300", 0, 1e9])

PARAMETERS = often(
    {
        "format": FORMATS,
        "sample_rate": RATES,
        "max_sentence_silence": SILENCES,
        "heartbeat": st.booleans(),
        "disfluency_removal_enabled": st.booleans(),
        "vocabulary_id": st.text(max_size=20),
        "special_word_filter": JSON,
        "language_hints": st.just(["zh"]),
    }
)
TASK_IDS = st.sampled_from(["a" * 32, "b" * 32])


@st.composite
def actions(draw: st.DrawFn) -> str:
    """A message of the run-task protocol, often one that is right."""
    name = draw(st.sampled_from(["run-task"] * 3 + ["finish-task"] * 3 + ["continue-task", "cancel-task"]))
    header: dict[str, Any] = {"action": name, "task_id": draw(TASK_IDS), "streaming": "duplex"}
    payload: Any = {"input": {}}
    if name == "run-task":
        payload = {"task_group": "audio", "task": "asr", "function": "recognition", "model": "m"}
        payload["parameters"] = draw(PARAMETERS)
    if draw(st.integers(0, 9)) == 0:
        header[draw(st.sampled_from(sorted(header)))] = draw(JSON)
    if draw(st.integers(0, 9)) == 0:
        payload = draw(JSON)
    return json.dumps({"header": header, "payload": payload})


SESSIONS = often(
    {
        "input_audio_format": FORMATS,
        "sample_rate": RATES,
        "input_audio_transcription": often({"language": st.text(max_size=5), "corpus": JSON}),
        "turn_detection": st.none() | often({"threshold": st.floats(-1, 1), "silence_duration_ms": SILENCES}),
        "audio": often({"input": often({"format": often({"type": FORMATS, "sample_rate": RATES})})}),
    }
)


@st.composite
def requests(draw: st.DrawFn) -> str:
    """A message of Qwen's protocol, often one that is right."""
    kinds = ["append"] * 5 + ["input_audio_buffer.commit", "input_audio_buffer.clear", "session.update"]
    kind = draw(st.sampled_from([*kinds, "session.update", "session.finish", "response.create"]))
    message: dict[str, Any] = {"type": kind}
    if kind == "append":
        message = append(draw(AUDIO))
    if kind == "session.update":
        message["session"] = draw(SESSIONS)
    if draw(st.booleans()):
        message["event_id"] = draw(JSON)
    if draw(st.integers(0, 9)) == 0:
        message[draw(st.sampled_from(sorted(message)))] = draw(JSON)
    return json.dumps(message)


def mixed(texts: st.SearchStrategy[str]) -> st.SearchStrategy[list[str | bytes]]:
    broken = st.text(max_size=40) | JSON.map(json.dumps) | texts.map(lambda text: text[:-3])
    return st.lists(texts | AUDIO | broken, max_size=14)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server in a thread of its own, so that its clients need not be asynchronous."""
    found: list[str] = []
    is_there, is_over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with nls_server(ToneGraph(), live_idle_timeout_sec=0.1) as address:
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


@share(0.2)
@given(mixed(actions()))
@pytest.mark.slow
def test_anything_for_tasks(url: str, messages: list[str | bytes]) -> None:
    events = converse(url + INFERENCE, messages)
    for event in events:
        assert set(event) == {"header", "payload"}
        assert isinstance(event["header"]["task_id"], str)
        if name_of(event) == "task-failed":
            assert event["header"]["error_message"]
            assert event["header"]["error_code"] not in OURS
    assert [name_of(event) for event in events[:-1]].count("task-failed") == 0, "it is the last event"
    assert sessions_within(url) == 0


@share(0.2)
@given(mixed(requests()))
@pytest.mark.slow
def test_anything_in_real_time(url: str, messages: list[str | bytes]) -> None:
    events = converse(url + REALTIME, messages)
    assert name_of(events[0]) == "session.created"
    for event in events:
        if "error" in event:
            assert event["error"]["message"]
            assert event["error"]["code"] not in OURS
    assert sessions_within(url) == 0


def converse(address: str, messages: list[str | bytes]) -> list[dict[str, Any]]:
    """Send all; all that comes up to a clean close."""
    events: list[dict[str, Any]] = []
    with connect(address, proxy=None, ping_interval=None, close_timeout=WITHIN) as socket:
        # The server may close while this client still sends; what it told before can be read all the same.
        with contextlib.suppress(ConnectionClosed):
            for message in messages:
                socket.send(message)
        closed = None
        while closed is None:
            try:
                events.append(json.loads(socket.recv(WITHIN)))
            except ConnectionClosed as error:
                closed = error.rcvd
                break
    assert closed is not None, "the connection broke off"
    assert closed.code == 1000
    return events


def sessions_within(url: str) -> int:
    """Live sessions that are left after the time in which they should be gone."""
    deadline = time.monotonic() + WITHIN
    while True:
        health = httpx.get(url.replace("ws", "http", 1) + "/healthz", trust_env=False).json()
        if health["live_sessions"] == 0 or time.monotonic() > deadline:
            return int(health["live_sessions"])
        time.sleep(0.05)
