"""Anything at all over ``/ws/v1/asr/qwen``: an answer or a clean close follows, and nothing is left."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.dashscope_clients import sessions_of
from tests.funasr_world import wav_file
from tests.fuzzing import share
from tests.generative_graph import WritingGraph
from tests.live_sessions import PAUSE, tones
from tests.nls_clients import nls_server

WITHIN = 10.0
"""Seconds after which a client may take the server for hanging."""

KNOWN = {"started", "result", "segment_end", "segment_start", "final", "error"}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)
VALUES = {
    "format": st.sampled_from(["pcm", "wav", " PCM ", "mp3"]),
    "sample_rate": st.sampled_from([8000, 16000, 44100, "16000", 16000.0, 0, -1, 10**9]),
    "language": st.sampled_from([None, "", "auto", "zh", "Chinese", "四川话", "xx"]),
    "context": st.text(max_size=40),
    "chunk_size_sec": st.sampled_from([None, 0.2, 1, "2", 30, 0, 1e9]),
    "unfixed_chunk_num": st.sampled_from([None, 0, 2, "2", -1, 1.5]),
    "unfixed_token_num": st.sampled_from([None, 0, 5, "5", -1, 1.5]),
    "enable_inverse_text_normalization": st.booleans(),
    "max_sentence_silence": st.sampled_from([None, 200, 800, 0]),
}
PAYLOADS = (
    st.fixed_dictionaries({}, optional=VALUES)
    | st.fixed_dictionaries({}, optional={name: value | JSON for name, value in VALUES.items()})
    | JSON
)
STARTS = st.builds(lambda payload: json.dumps({"type": "start", "payload": payload}), PAYLOADS)
TEXTS = (
    STARTS
    | st.just('{"type": "start"}')
    | st.just('{"type": "stop"}')
    | JSON.map(json.dumps)
    | st.builds(lambda kind: json.dumps({"type": kind}), JSON)
    | st.text(max_size=30)
)
SPOKEN = tones([1, 2, 3, *PAUSE, 4]).tobytes()
AUDIO = st.binary(max_size=50) | st.sampled_from(
    [SPOKEN, SPOKEN[:101], wav_file(SPOKEN), wav_file(SPOKEN)[:20], b""]
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server in a thread of its own; at the end, none of its sessions is left."""
    loop, over, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    address: list[str] = []

    async def serve() -> None:
        async with nls_server(WritingGraph()) as found:
            address.append(found)
            ready.set()
            await over.wait()
            assert await sessions_of(found) == 0

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(20)
    yield address[0]
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


@share(0.2)
@given(messages=st.lists(TEXTS | AUDIO, max_size=8), stops=st.booleans())
def test_anything(url: str, messages: list[str | bytes], stops: bool) -> None:
    told: list[dict[str, Any]] = []
    with connect(f"{url}/ws/v1/asr/qwen", proxy=None, max_size=None) as socket:
        with contextlib.suppress(ConnectionClosed):
            for message in messages:
                if isinstance(message, str):
                    message = message.encode("utf-8", "replace").decode()
                socket.send(message)
            if stops:
                socket.send('{"type": "start"}')
                socket.send('{"type": "stop"}')
        with contextlib.suppress(ConnectionClosed):
            while stops:
                told.append(json.loads(socket.recv(timeout=WITHIN)))
    assert {event["type"] for event in told} <= KNOWN
    for event in told:
        if event["type"] == "error":
            assert event["error_code"] not in ("DEFAULT_SERVER_ERROR", "UNKNOWN_ERROR"), event
            assert event["message"]
    if stops:
        assert told[-1]["type"] in ("final", "error")
        assert socket.close_code == 1000
