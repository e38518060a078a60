"""Anything at all over OpenAI's WebSocket: an answer or a clean close follows, and nothing is left."""

import asyncio
import base64
import json
import threading
import time
from collections.abc import Iterator
from socket import SHUT_RDWR
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.fuzzing import share
from tests.live_sessions import PAUSE, tones
from tests.realtime_world import HearingGraph, check_items, realtime_server

WITHIN = 5.0
"""Seconds after which a client may take the server for hanging."""

SYNC = "sync"
KNOWN = {
    *("session.created", "session.updated", "transcription_session.updated", "error"),
    *("conversation.item.added", "conversation.item.done", "conversation.item.created"),
    *(
        f"input_audio_buffer.{name}"
        for name in ("speech_started", "speech_stopped", "committed", "cleared", "timeout_triggered")
    ),
    *(f"conversation.item.input_audio_transcription.{name}" for name in ("delta", "completed", "failed")),
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)
FORMATS = st.sampled_from(
    [*({"type": "audio/pcm", "rate": rate} for rate in (8000, 16000, 24000)), {"type": "audio/pcmu"}]
)
VADS = st.fixed_dictionaries(
    {"type": st.sampled_from(["server_vad", "semantic_vad", "none"])},
    optional={
        "threshold": st.sampled_from([0, 0.5, 1, 2, "0.5"]),
        "prefix_padding_ms": st.sampled_from([0, 300, 10_000, -1]),
        "silence_duration_ms": st.sampled_from([100, 500, 6000, 0]),
        "idle_timeout_ms": st.sampled_from([5000, 30_000, 1]),
        "eagerness": st.sampled_from(["low", "auto", "high"]),
    },
)
TRANSCRIPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.text(max_size=20),
        "language": st.sampled_from(["zh", "en", "", "xx", None]),
        "prompt": st.text(max_size=30) | st.just("丁=>one"),
        "keywords": st.lists(st.text(max_size=10), max_size=3),
        "delay": st.sampled_from(["minimal", "xhigh", None, "never"]),
    },
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "format": FORMATS,
    "transcription": TRANSCRIPTIONS | st.none(),
    "turn_detection": VADS | st.none(),
    "noise_reduction": st.sampled_from([None, {"type": "near_field"}, {"type": "far_field"}]),
}
INPUTS = st.fixed_dictionaries({}, optional=FIELDS) | st.fixed_dictionaries(
    {}, optional={name: value | JSON for name, value in FIELDS.items()}
)
BETA = st.fixed_dictionaries(
    {},
    optional={
        "input_audio_format": st.sampled_from(["pcm16", "g711_ulaw", "g711_alaw", "mp3", 5]),
        "input_audio_transcription": TRANSCRIPTIONS | JSON,
        "turn_detection": VADS | JSON,
        "include": JSON,
    },
)
SESSIONS = INPUTS.map(lambda fields: {"type": "transcription", "audio": {"input": fields}}) | JSON
AUDIO = st.one_of(
    st.sampled_from([tones(levels).tobytes() for levels in ([1, 2, *PAUSE], [0] * 3, [3] * 8)]),
    st.binary(max_size=2000),
)
EVENTS = st.one_of(
    AUDIO.map(lambda data: {"type": "input_audio_buffer.append", "audio": base64.b64encode(data).decode()}),
    st.sampled_from(["commit", "clear"]).map(lambda name: {"type": f"input_audio_buffer.{name}"}),
    SESSIONS.map(lambda session: {"type": "session.update", "session": session}),
    (BETA | JSON).map(lambda session: {"type": "transcription_session.update", "session": session}),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["input_audio_buffer.append", "response.create", "session.update"]) | JSON},
        optional={"audio": JSON, "session": JSON, "event_id": JSON},
    ),
)
MESSAGES = EVENTS.map(json.dumps) | JSON.map(json.dumps) | st.text(max_size=40) | st.binary(max_size=200)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, HearingGraph]]:
    """A server in a thread of its own, and its graph."""
    graphs: list[HearingGraph] = []
    urls: list[str] = []
    ready, over = threading.Event(), threading.Event()

    async def serve() -> None:
        graphs.append(HearingGraph())
        async with realtime_server(graphs[0]) as url:
            urls.append(url)
            ready.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(30)
    yield urls[0], graphs[0]
    over.set()
    thread.join(30)


def receive(socket: ClientConnection) -> dict[str, Any]:
    event = json.loads(socket.recv(timeout=WITHIN))
    assert event["type"] in KNOWN, event
    assert event["event_id"]
    return dict(event)


def converse(url: str, messages: list[str | bytes], headers: dict[str, str]) -> None:
    address = f"{url.replace('http', 'ws')}/v1/realtime"
    with connect(address, proxy=None, max_size=None, additional_headers=headers) as socket:
        events = [receive(socket)]
        reason: ConnectionClosed | None = None
        try:
            for message in messages:
                socket.send(message)
            # Its answer comes after all others, and is the only one with this name in it.
            socket.send(json.dumps({"type": SYNC, "event_id": SYNC}))
            while (events[-1].get("error") or {}).get("event_id") != SYNC:
                events.append(receive(socket))
        except ConnectionClosed as closed:
            reason = closed
        if reason is not None:
            assert reason.rcvd is not None
            assert reason.rcvd.code in (1000, 1008, 1009, 1013), reason
            assert events[-1]["type"] == "error"
        check_items(events)


def sessions(url: str) -> int:
    count = -1
    until = time.monotonic() + WITHIN
    while count and time.monotonic() < until:
        count = httpx.get(f"{url}/healthz", trust_env=False).json()["live_sessions"]
    return count


@share(0.2)
@given(st.lists(MESSAGES, max_size=12), st.sampled_from([{}, {"OpenAI-Beta": "realtime=v1"}]))
@pytest.mark.slow
def test_whatever_is_sent_is_answered_and_leaves_nothing(
    server: tuple[str, HearingGraph], messages: list[str | bytes], headers: dict[str, str]
) -> None:
    url, graph = server
    converse(url, messages, headers)
    assert sessions(url) == 0
    assert graph.streams == {}


@share(0.05)
@given(st.lists(MESSAGES, max_size=8))
def test_who_vanishes_at_any_time_leaves_nothing(
    server: tuple[str, HearingGraph], messages: list[str | bytes]
) -> None:
    url, graph = server
    with connect(f"{url.replace('http', 'ws')}/v1/realtime", proxy=None, max_size=None) as socket:
        for message in messages:
            socket.send(message)
        # Not a word of goodbye, as when a cable is pulled.
        socket.socket.shutdown(SHUT_RDWR)
    assert sessions(url) == 0
    assert graph.streams == {}


HEADERS = st.sampled_from(["", "?intent=transcription", "?model=x", "?intent=5", "?model=gpt-realtime"])


@share(0.05)
@given(HEADERS, st.lists(st.from_regex(r"[a-z0-9._\-]{1,60}", fullmatch=True), max_size=4, unique=True))
def test_any_way_to_connect_is_answered(
    server: tuple[str, HearingGraph], query: str, offered: list[str]
) -> None:
    url, _ = server
    protocols: Any = [*offered, "openai-insecure-api-key.ek_AAAA"]
    # Nothing is echoed but `realtime`, and clients may then go on without one.
    with connect(
        f"{url.replace('http', 'ws')}/v1/realtime{query}", proxy=None, subprotocols=protocols
    ) as socket:
        assert socket.subprotocol in (None, "realtime")
        assert receive(socket)["type"] in ("session.created", "error")
    assert sessions(url) == 0
