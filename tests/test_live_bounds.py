"""The session machine at its limits: endless speech, fast senders, slow readers, clients that vanish."""

import asyncio
import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.messages import AudioSlice, SpeechSpan, StreamStep, Token, VadResult
from serve_app.pipeline.live.endpointing import Closed, Endpointing, Opened
from serve_app.pipeline.live.events import LiveEvent, LiveOptions, SentenceFinal
from serve_app.pipeline.live.near_field import Near
from serve_app.pipeline.live.session import LiveSession
from tests.live_graph import ToneGraph
from tests.live_sessions import (
    BOTH,
    ONE_PASS,
    PAUSE,
    RATE,
    TWO_PASS,
    Blocked,
    characters,
    check_order,
    cut,
    finals,
    hear,
    settle,
    speech,
    spoken,
    tones,
)


@BOTH
async def test_endless_speech_is_cut_where_it_is_quietest(options: LiveOptions) -> None:
    options = LiveOptions(two_pass=options.two_pass, max_sentence_ms=6000)
    dips = (4.5, 9.0, 14.5, 19.0)
    audio = speech(21.0, np.random.default_rng(1), dips)
    events = await hear(ToneGraph(), cut(audio, [1000] * 400), options)
    ends = [final.end for final in finals(events)]
    assert ends[:-1] == pytest.approx(dips, abs=0.02)
    assert [final.cause for final in finals(events)] == ["cut"] * 4 + ["end"]
    begins = [final.begin for final in finals(events)]
    assert begins[1:] == ends[:-1]
    whole = await ToneGraph().transcribe(AudioSlice((await ToneGraph().store(audio),)))
    assert "".join(spoken(events)) == "".join(word.text for word in whole.words)


@settings(max_examples=30, deadline=None)
@given(st.integers(1000, 7000), st.integers(0, 1000), st.floats(0.5, 25), st.booleans())
async def test_no_sentence_is_longer_than_it_may_be(
    longest_ms: int, seed: int, seconds: float, two_pass: bool
) -> None:
    rng = np.random.default_rng(seed)
    audio = np.concatenate((speech(seconds, rng), tones(PAUSE), speech(2.0, rng), tones(PAUSE)))
    options = LiveOptions(two_pass=two_pass, max_sentence_ms=longest_ms)
    events = await hear(ToneGraph(), [audio], options)
    assert all(final.end - final.begin <= longest_ms / 1000 for final in finals(events))
    assert sum(final.end - final.begin for final in finals(events)) >= seconds + 2.0


def test_what_follows_a_cut_never_begins_before_it() -> None:
    endpointing = Endpointing(LiveOptions(max_sentence_ms=2000))
    silence = np.zeros(2 * RATE, np.int16)
    going_on = VadResult((), 0, None)
    everybody = Near(0, 1 << 40)
    opened, closed, again = endpointing.advance(silence, going_on, 2000, everybody, final=False)
    assert isinstance(closed, Closed)
    assert closed.cause == "cut"
    assert (opened, again) == (Opened(0), Opened(closed.end_ms))
    early = VadResult((SpeechSpan(0, closed.end_ms - 200),), closed.end_ms - 100, None)
    assert list(endpointing.advance(silence, early, 2200, everybody, final=False)) == [
        Closed(closed.end_ms, "silence"),
        Opened(closed.end_ms),
    ]


@pytest.mark.parametrize("kind", ["detect_live", "transcribe", "stream", "punctuate_live"])
async def test_the_sender_waits_while_the_session_is_behind_and_nothing_is_lost(kind: str) -> None:
    graph = Blocked(kind)
    levels = [1, 2, 3, *PAUSE] * 60
    pushed = 0

    async def send(session: LiveSession) -> None:
        nonlocal pushed
        for packet in cut(tones(levels), [1600] * 10_000):
            await session.push(packet)
            pushed += len(packet)
        await session.finish()

    async with LiveSession(graph, TWO_PASS, "s") as session, asyncio.TaskGroup() as tasks:
        tasks.create_task(send(session))
        for _ in range(20):
            await settle()
        assert 4 * RATE < pushed < 25 * RATE
        graph.gate.set()
        events = [event async for event in session.events()]
    check_order(events)
    assert spoken(events) == [characters([1, 2, 3])] * 60


async def test_the_streaming_model_may_not_be_left_far_behind_in_a_sentence() -> None:
    graph = Blocked("stream")
    pushed = 0

    async def send(session: LiveSession) -> None:
        nonlocal pushed
        for packet in np.split(speech(50, np.random.default_rng(2)), 500):
            await session.push(packet)
            pushed += len(packet)
        await session.finish()

    async with LiveSession(graph, TWO_PASS, "s") as session, asyncio.TaskGroup() as tasks:
        tasks.create_task(send(session))
        for _ in range(20):
            await settle()
        assert 5 * RATE < pushed < 20 * RATE
        graph.gate.set()
        check_order([event async for event in session.events()])


async def test_silence_is_not_kept_for_a_streaming_model_that_hangs() -> None:
    graph = Blocked("stream")
    pushed = 0

    async def send(session: LiveSession) -> None:
        nonlocal pushed
        await session.push(tones([1, 2, 3]))
        for _ in range(1000):
            await session.push(np.zeros(RATE, np.int16))
            pushed += 1
        await session.finish()

    async with LiveSession(graph, ONE_PASS, "s") as session, asyncio.TaskGroup() as tasks:
        tasks.create_task(send(session))
        for _ in range(50):
            await settle()
        assert 100 < pushed < 200
        graph.gate.set()
        events = [event async for event in session.events()]
    assert spoken(events) == [characters([1, 2, 3])]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "pause"), [(TWO_PASS, 10), (ONE_PASS, 0)], ids=["two_pass", "one_pass-endless"]
)
async def test_memory_does_not_grow_with_the_session(options: LiveOptions, pause: int) -> None:
    rng = np.random.default_rng(3)

    async def send(session: LiveSession) -> None:
        for _ in range(360):
            await session.push(np.concatenate((speech(10 - pause / 10, rng), tones([0] * pause))))
        await session.finish()

    tracemalloc.start()
    try:
        async with LiveSession(ToneGraph(), options, "s") as session, asyncio.TaskGroup() as tasks:
            tasks.create_task(send(session))
            count = 0
            async for event in session.events():
                count += isinstance(event, SentenceFinal)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count >= 60
    # An hour is 115 MB; a sentence of a minute 2 MB, which the graph of this test holds several times.
    assert peak < 20e6


async def test_a_reader_who_does_not_read_holds_the_sender_up() -> None:
    pushed = 0

    async def send(session: LiveSession) -> None:
        nonlocal pushed
        while True:
            await session.push(tones([1, *PAUSE]))
            pushed += 1

    async with LiveSession(ToneGraph(), LiveOptions(partials=False), "s") as session:
        sender = asyncio.create_task(send(session))
        while True:
            before = pushed
            await settle()
            if pushed == before:
                break
        assert 200 < pushed < 300
        sender.cancel()


class Detached(ToneGraph):
    """A step goes on where its caller gives up, as in a replica, and dropping may take its time."""

    async def stream(self, step: StreamStep) -> tuple[Token, ...]:
        return await asyncio.shield(asyncio.ensure_future(super().stream(step)))

    async def drop_stream(self, stream_id: str) -> None:
        if int(stream_id.split(".")[1]) % 2:
            await settle()
        await super().drop_stream(stream_id)


@BOTH
@settings(max_examples=40, deadline=None)
@given(rounds=st.integers(0, 300), seed=st.integers(0, 1000))
async def test_who_vanishes_leaves_nothing_behind(options: LiveOptions, rounds: int, seed: int) -> None:
    rng = random.Random(seed)

    async def pause() -> None:
        for _ in range(rng.choice((0, 1, 5, 50))):
            await asyncio.sleep(0)

    before = asyncio.all_tasks()
    graph = Detached(pause)
    session = LiveSession(graph, options, "s")

    async def send() -> None:
        for packet in cut(tones([1, 2, 3, 4, 5, *PAUSE] * 5), [960] * 1000):
            await session.push(packet)
        await session.finish()

    async def read() -> list[LiveEvent]:
        return [event async for event in session.events()]

    helpers = [asyncio.create_task(send()), asyncio.create_task(read())]
    for _ in range(rounds):
        await asyncio.sleep(0)
    await session.aclose()
    await session.aclose()
    await helpers[1]
    await asyncio.gather(*helpers, return_exceptions=True)
    assert asyncio.all_tasks() == before
    assert not graph.streams


@pytest.mark.slow
async def test_who_vanishes_does_not_wait_for_a_model_that_hangs() -> None:
    before = asyncio.all_tasks()
    graph = Blocked("stream", "transcribe")
    async with LiveSession(graph, TWO_PASS, "s") as session:
        await session.push(tones([1, 2, 3, 4, *PAUSE, 5, 6]))
        await settle()
    assert asyncio.all_tasks() == before


async def test_a_closed_session_takes_no_audio() -> None:
    session = LiveSession(ToneGraph(), TWO_PASS, "s")
    await session.aclose()
    with pytest.raises(RuntimeError):
        await session.push(tones([1]))
    assert [event async for event in session.events()] == []
    finished = LiveSession(ToneGraph(), TWO_PASS, "s")
    await finished.finish()
    with pytest.raises(RuntimeError):
        await finished.push(tones([1]))
    await finished.aclose()
