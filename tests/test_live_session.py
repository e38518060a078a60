"""The session machine over a scripted graph: order, packets, lost streams, cuts, bounds, vanishing."""

import asyncio
import random
import tracemalloc
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.messages import (
    AudioSlice,
    Pcm,
    PunctuatedBlock,
    Recognition,
    StreamStep,
    Token,
    VadOptions,
    VadResult,
    VadState,
)
from serve_app.errors import AsrError, Internal, InvalidParameter, Overloaded, UpstreamLost
from serve_app.pipeline.graph import LiveGraph, StreamLost
from serve_app.pipeline.live.events import (
    Finished,
    LiveEvent,
    LiveOptions,
    NearField,
    Partial,
    SentenceFinal,
    SpeechStarted,
)
from serve_app.pipeline.live.partials import partial
from serve_app.pipeline.live.session import LiveSession
from serve_app.pipeline.text import join_words
from tests.live_graph import ToneGraph

RATE = 16_000
ONE_PASS = LiveOptions(two_pass=False)
TWO_PASS = LiveOptions()
BOTH = pytest.mark.parametrize("options", [TWO_PASS, ONE_PASS], ids=["two_pass", "one_pass"])


def tones(levels: Sequence[int], seconds: float = 0.3) -> Pcm:
    """Each level for a while; 0 is silence, of 100 ms."""
    parts = [np.full(int((seconds if level else 0.1) * RATE), level * 1000, np.int16) for level in levels]
    return np.concatenate([np.zeros(0, np.int16), *parts])


PAUSE = [0] * 12


async def settle() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


async def hear(
    graph: LiveGraph,
    packets: Sequence[Pcm],
    options: LiveOptions = TWO_PASS,
    *,
    session_id: str = "s",
    paced: bool = False,
) -> list[LiveEvent]:
    """A whole session. ``paced``: each packet comes when all before it has been worked off."""

    async def send(session: LiveSession) -> None:
        for packet in packets:
            await session.push(packet)
            if paced:
                await settle()
        await session.finish()

    async with LiveSession(graph, options, session_id) as session, asyncio.TaskGroup() as tasks:
        tasks.create_task(send(session))
        events = [event async for event in session.events()]
    check_order(events)
    return events


def check_order(events: Sequence[LiveEvent]) -> None:
    """Every sentence whole, one after the other, and what a partial calls stable stays."""
    assert isinstance(events[-1], Finished)
    sentences = [list(group) for _, group in groupby(events[:-1], lambda event: getattr(event, "index", -1))]
    for index, (begin, *partials, end) in enumerate(sentences):
        assert isinstance(begin, SpeechStarted)
        assert isinstance(end, SentenceFinal)
        assert begin.index == end.index == index
        assert begin.begin == end.begin <= end.end <= events[-1].duration
        stable = ""
        for event in partials:
            assert isinstance(event, Partial)
            assert event.begin == begin.begin
            assert event.text.startswith(stable)
            stable = event.text[: event.stable]


def finals(events: Sequence[LiveEvent]) -> list[SentenceFinal]:
    return [event for event in events if isinstance(event, SentenceFinal)]


def spoken(events: Sequence[LiveEvent]) -> list[str]:
    """The texts of the finals without the mark at their end."""
    return [event.text.rstrip("，。") for event in finals(events)]


def last_partials(events: Sequence[LiveEvent]) -> dict[int, Partial]:
    return {event.index: event for event in events if isinstance(event, Partial)}


def settled(events: Sequence[LiveEvent]) -> list[LiveEvent]:
    """All but those partials that a later one of their sentence may stand for."""
    last = last_partials(events)
    return [event for event in events if not isinstance(event, Partial) or event is last[event.index]]


def characters(levels: Sequence[int]) -> str:
    return "".join(chr(0x4E00 + level) for level in levels if level)


def cut(samples: Pcm, sizes: Sequence[int]) -> list[Pcm]:
    return np.split(samples, np.cumsum(sizes)) if sizes else [samples]


LEVELS = st.lists(
    st.one_of(st.integers(1, 25).map(lambda level: [level]), st.just([0]), st.just(PAUSE)), max_size=60
).map(lambda parts: [level for part in parts for level in part])
SIZES = st.lists(st.integers(0, 40_000), max_size=60)


async def test_a_sentence_starts_grows_and_ends() -> None:
    levels = [0] * 5 + [1, 2, 3, 4, 5, 6, 7] + PAUSE
    events = await hear(ToneGraph(), [tones(levels)], paced=True)
    started, *partials, final, finished = events
    assert started == SpeechStarted(0, 0.4)
    texts = [event.text for event in partials if isinstance(event, Partial)]
    assert texts[-1] == characters(levels)
    assert isinstance(final, SentenceFinal)
    assert (final.text, final.cause) == (characters(levels) + "，", "silence")
    assert (final.begin, final.end) == (0.4, 2.7)
    assert [(word.text, word.begin) for word in final.words[:2]] == [("丁", 0.5), ("丂", 0.8)]
    assert finished == Finished(len(tones(levels)) / RATE)


@BOTH
async def test_partials_come_while_somebody_speaks(options: LiveOptions) -> None:
    async with LiveSession(ToneGraph(), options, "s") as session:
        events = session.events()
        await session.push(tones([1, 2, 3, 4, 5, 6]))
        assert await anext(events) == SpeechStarted(0, 0.0)
        heard = await anext(events)
        assert isinstance(heard, Partial)
        assert heard.text == characters([1, 2, 3, 4, 5, 6])
        assert heard.words[1].begin == 0.3


@settings(max_examples=60, deadline=None)
@given(LEVELS, SIZES, st.booleans())
async def test_packets_and_pace_change_nothing(levels: list[int], sizes: list[int], two_pass: bool) -> None:
    options = LiveOptions(two_pass=two_pass, max_sentence_ms=5000)
    audio = tones(levels)
    every = await hear(ToneGraph(), cut(audio, [3200] * (len(audio) // 3200)), options, paced=True)
    for paced in (False, True):
        events = await hear(ToneGraph(), cut(audio, sizes), options, paced=paced)
        assert settled(events) == settled(every)
        # Partials may be skipped where audio came faster than it was heard, but none is another one.
        assert set(events) <= set(every)


@settings(max_examples=40, deadline=None)
@given(LEVELS, st.integers(0, 1000), st.booleans())
async def test_slow_calls_change_nothing_and_each_kind_waits_for_itself(
    levels: list[int], seed: int, two_pass: bool
) -> None:
    rng = random.Random(seed)

    async def pause() -> None:
        for _ in range(rng.choice((0, 1, 5, 50, 200))):
            await asyncio.sleep(0)

    options, graph = LiveOptions(two_pass=two_pass), ToneGraph(pause)
    audio = cut(tones(levels), [4000] * 60)
    assert settled(await hear(graph, audio, options)) == settled(await hear(ToneGraph(), audio, options))
    assert graph.most_running["stream"] <= 1
    assert graph.most_running["detect_live"] <= 1
    assert graph.most_running["punctuate_live"] <= 1


async def test_punctuation_is_given_the_words_before() -> None:
    graph = ToneGraph()
    await hear(graph, [tones([1, 2, 3, 4, *PAUSE, 5, 6, *PAUSE, 7])])
    assert graph.contexts == [(), tuple(characters([2, 3, 4])), tuple(characters([5, 6]))]


async def test_the_last_final_is_closed_by_a_full_stop() -> None:
    events = await hear(ToneGraph(), [tones([1, 2, *PAUSE, 3, 4])])
    assert [(final.text, final.cause) for final in finals(events)] == [
        ("丁丂，", "silence"),
        ("七丄。", "end"),
    ]


async def test_finals_without_punctuation_and_with_itn() -> None:
    async with LiveSession(
        ToneGraph(), LiveOptions(punctuate=False), "s", lambda text: f"<{text}>"
    ) as session:
        await session.push(tones([1, 2, 3]))
        await session.finish()
        events = [event async for event in session.events()]
    assert [final.text for final in finals(events)] == ["<丁丂七>"]


async def test_without_partials_the_streaming_model_is_left_alone() -> None:
    graph = ToneGraph()
    events = await hear(graph, [tones([1, 2, 3, 4, 5, 6, 7])], LiveOptions(partials=False))
    assert spoken(events) == [characters(range(1, 8))]
    assert not last_partials(events)
    assert graph.streamed_samples == 0


@BOTH
async def test_silence_is_not_streamed(options: LiveOptions) -> None:
    graph = ToneGraph()
    audio = tones([0] * 100 + [1, 2, 3, 4] + [0] * 100)
    await hear(graph, cut(audio, [960] * 400), options)
    assert graph.streamed_samples < 3 * RATE


@BOTH
async def test_no_audio_and_no_speech(options: LiveOptions) -> None:
    assert await hear(ToneGraph(), [], options) == [Finished(0.0)]
    assert await hear(ToneGraph(), [tones([0] * 35)], options) == [Finished(3.5)]


class Unreliable(ToneGraph):
    """Loses streams: before a step is worked off or after it, as a replica may die at any time."""

    def __init__(self, rng: random.Random, share: float) -> None:
        super().__init__()
        self._rng = rng
        self._share = share
        self.ids: set[str] = set()
        self.losses = 0

    async def stream(self, step: StreamStep) -> tuple[Token, ...]:
        assert step.number or step.stream_id not in self.ids, "a stream begins once"
        self.ids.add(step.stream_id)
        self._lose(step)
        tokens = await super().stream(step)
        self._lose(step)
        return tokens

    def _lose(self, step: StreamStep) -> None:
        if self._rng.random() < self._share:
            self.losses += 1
            raise StreamLost("scripted")


@settings(max_examples=20, deadline=None)
@given(LEVELS, st.integers(0, 1000), st.booleans())
async def test_lost_streams_change_nothing(levels: list[int], seed: int, two_pass: bool) -> None:
    options = LiveOptions(two_pass=two_pass, max_sentence_ms=8000)
    audio = cut(tones(levels), [4000] * 60)
    graph = Unreliable(random.Random(seed), 0.04)
    events = await hear(graph, audio, options)
    expected = await hear(ToneGraph(), audio, options)
    assert finals(events) == finals(expected)
    assert not graph.streams
    for index, event in last_partials(events).items():
        assert last_partials(expected)[index].text.startswith(event.text)


class GoneFrom(ToneGraph):
    """From one step on there is no streaming model any more."""

    def __init__(self, steps: int, error: Exception | None = None) -> None:
        super().__init__()
        self._steps = steps
        self._error = error or StreamLost("gone")

    async def stream(self, step: StreamStep) -> tuple[Token, ...]:
        if self._steps == 0:
            raise self._error
        self._steps -= 1
        return await super().stream(step)


@pytest.mark.parametrize("error", [StreamLost("gone"), Overloaded("full", 1), UpstreamLost("none")])
async def test_two_pass_goes_on_without_the_streaming_model(error: Exception) -> None:
    levels = [1, 2, 3, 4, 5, *PAUSE, 6, 7, 8, 9, *PAUSE]
    events = await hear(GoneFrom(1, error), cut(tones(levels), [3200] * 40), paced=True)
    assert spoken(events) == [characters([1, 2, 3, 4, 5]), characters([6, 7, 8, 9])]
    assert last_partials(events)[0].text


@pytest.mark.slow
async def test_one_pass_ends_when_the_streaming_model_stays_away() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await hear(GoneFrom(1), cut(tones([1, 2, 3, 4, 5, *PAUSE]), [3200] * 12), ONE_PASS, paced=True)
    assert caught.group_contains(UpstreamLost)


def speech(seconds: float, rng: np.random.Generator, dips: Sequence[float] = ()) -> Pcm:
    """Endless tones of changing levels, with 120 ms of near silence at ``dips``."""
    levels = rng.integers(2, 30, int(seconds / 0.25) + 1) * 1000
    audio: Pcm = np.repeat(levels, RATE // 4)[: int(seconds * RATE)].astype(np.int16)
    for dip in dips:
        audio[int((dip - 0.06) * RATE) : int((dip + 0.06) * RATE)] = 10
    return audio


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


class Blocked(ToneGraph):
    """Calls of some kinds wait for ``gate``."""

    def __init__(self, *kinds: str) -> None:
        super().__init__()
        self._kinds = kinds
        self.gate = asyncio.Event()

    async def detect_live(
        self, samples: Pcm, block: int, state: VadState | None, final: bool, options: VadOptions
    ) -> list[VadResult]:
        await self._wait("detect_live")
        return await super().detect_live(samples, block, state, final, options)

    async def transcribe(self, audio: AudioSlice) -> Recognition:
        await self._wait("transcribe")
        return await super().transcribe(audio)

    async def stream(self, step: StreamStep) -> tuple[Token, ...]:
        await self._wait("stream")
        return await super().stream(step)

    async def punctuate_live(self, words: Sequence[str], context: Sequence[str]) -> PunctuatedBlock:
        await self._wait("punctuate_live")
        return await super().punctuate_live(words, context)

    async def _wait(self, kind: str) -> None:
        if kind in self._kinds:
            await self.gate.wait()


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


async def test_a_later_sentence_streams_while_the_final_before_it_is_made_but_is_told_after_it() -> None:
    graph = Blocked("transcribe")
    async with LiveSession(graph, TWO_PASS, "s") as session:
        events = session.events()
        await session.push(tones([1, 2, 3, 4, *PAUSE, 5, 6, 7, 8, 9, 10]))
        assert isinstance(await anext(events), SpeechStarted)
        assert isinstance(await anext(events), Partial)
        await settle()
        later = asyncio.ensure_future(anext(events))
        await settle()
        assert not later.done()
        assert any(stream_id.startswith("s.1.") for stream_id in graph.streams)
        graph.gate.set()
        assert isinstance(await later, SentenceFinal)
        assert isinstance(await anext(events), SpeechStarted)
        heard = await anext(events)
        assert isinstance(heard, Partial)
        assert heard.text.startswith(characters([5, 6, 7, 8]))


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


@BOTH
@settings(max_examples=40, deadline=None)
@given(rounds=st.integers(0, 300), seed=st.integers(0, 1000))
async def test_who_vanishes_leaves_nothing_behind(options: LiveOptions, rounds: int, seed: int) -> None:
    rng = random.Random(seed)

    async def pause() -> None:
        for _ in range(rng.choice((0, 1, 5, 50))):
            await asyncio.sleep(0)

    before = asyncio.all_tasks()
    graph = ToneGraph(pause)
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


@pytest.mark.slow
async def test_a_final_does_not_wait_for_a_streaming_model_that_hangs() -> None:
    graph = Blocked("stream")
    async with LiveSession(graph, TWO_PASS, "s") as session:
        await session.push(tones([1, 2, 3, 4, *PAUSE]))
        await session.push(tones([5, 6, 7, 8, 9, *PAUSE]))
        events = session.events()
        started, final = await anext(events), await anext(events)
        assert isinstance(started, SpeechStarted)
        assert isinstance(final, SentenceFinal)
        assert final.text == characters([1, 2, 3, 4]) + "，"
        graph.gate.set()
        await session.finish()
        rest = [event async for event in events]
    check_order([started, final, *rest])
    assert spoken(rest) == [characters([5, 6, 7, 8, 9])]


@given(st.lists(st.sampled_from(["hel@@", "lo", "a", "b", "字", "<unk>", "5", "x@@", "'s", "word"])))
def test_what_a_partial_calls_stable_stays(texts: list[str]) -> None:
    tokens = [Token(text, 100 * at, 100 * at + 100) for at, text in enumerate(texts)]
    stable = ""
    for end in range(1, len(tokens) + 1):
        event = partial(0, 1600, tokens[:end])
        if event is not None:
            assert event.text.startswith(stable)
            assert event.text == join_words((word.text, "") for word in event.words)
            assert event.end == event.words[-1].end <= 0.1 + end / 10 + 1e-9
            stable = event.text[: event.stable]
            # An unfinished piece, and letters that may be spelled out, are all that may change.
            assert texts[end - 1] not in ("lo", "字", "5", "word") or stable == event.text


@pytest.mark.parametrize(
    "options",
    [
        {"chunk_size": (0, 0, 0)},
        {"chunk_size": (0, 10)},
        {"chunk_size": (-1, 10, 5)},
        {"chunk_size": (0, 10_000, 5)},
        {"encoder_chunk_look_back": -7},
        {"max_sentence_ms": 10},
        {"max_sentence_ms": 10**9},
        {"max_sentence_silence_ms": -1},
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        LiveOptions(**options)


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


class Failing(ToneGraph):
    """The second sentence cannot be recognized, or voice activity fails while it is spoken."""

    def __init__(self, kind: str, error: Exception) -> None:
        super().__init__()
        self._kind = kind
        self._error = error
        self._left = 1

    async def transcribe(self, audio: AudioSlice) -> Recognition:
        if self._kind == "transcribe":
            if not self._left:
                raise self._error
            self._left -= 1
        return await super().transcribe(audio)

    async def detect_live(
        self, samples: Pcm, block: int, state: VadState | None, final: bool, options: VadOptions
    ) -> list[VadResult]:
        if self._kind == "detect_live" and samples.max(initial=0) >= 20_000:
            raise self._error
        return await super().detect_live(samples, block, state, final, options)


@pytest.mark.parametrize("kind", ["transcribe", "detect_live"])
@pytest.mark.parametrize(
    ("error", "told"), [(UpstreamLost("gone"), UpstreamLost), (ZeroDivisionError("a bug"), Internal)]
)
async def test_a_fault_ends_the_session_after_what_was_ready(
    kind: str, error: Exception, told: type[AsrError]
) -> None:
    events: list[LiveEvent] = []
    session = LiveSession(Failing(kind, error), TWO_PASS, "s")

    async def read() -> None:
        async for event in session.events():
            events.insert(len(events), event)

    async def send() -> None:
        for packet in cut(tones([1, 2, 3, *PAUSE, 20, 21, 22, *PAUSE, *PAUSE]), [800] * 100):
            await session.push(packet)
            await settle()

    reader = asyncio.create_task(read())
    with pytest.raises(told):
        await send()
    with pytest.raises(told):
        await reader
    assert spoken(events) == [characters([1, 2, 3])]
    await session.finish()
    await session.aclose()


async def test_sessions_at_once_do_not_mix() -> None:
    graph = ToneGraph()
    talks = [[1 + (index * 7 + step) % 29 for step in range(20)] + PAUSE for index in range(12)]
    results = await asyncio.gather(
        *(
            hear(graph, cut(tones(talk), [1111] * 100), options, session_id=f"s{index}-{options.two_pass}")
            for index, talk in enumerate(talks)
            for options in (TWO_PASS, ONE_PASS)
        )
    )
    expected = [[characters(talk)] for talk in talks for _ in range(2)]
    assert [spoken(events) for events in results] == expected
    assert not graph.streams


def at_level(rms: float, seconds: float, seed: int = 0) -> Pcm:
    """Noise of this RMS, as a share of full scale."""
    noise = np.random.default_rng(seed).standard_normal(int(seconds * RATE))
    return np.rint(noise * rms * 32768).astype(np.int16)


class Listening(ToneGraph):
    """Keeps what detection was given."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Pcm] = []

    async def detect_live(
        self, samples: Pcm, block: int, state: VadState | None, final: bool, options: VadOptions
    ) -> list[VadResult]:
        self.heard.append(samples)
        return await super().detect_live(samples, block, state, final, options)


async def gated(audio: Pcm, sizes: Iterator[int] | Sequence[int] = ()) -> Pcm:
    graph = Listening()
    await hear(graph, cut(audio, list(sizes)), LiveOptions(near_field=NearField()))
    return np.concatenate(graph.heard)


@pytest.mark.parametrize("level", [0.004, 0.008])
async def test_far_speech_is_silence_and_near_speech_untouched(level: float) -> None:
    far, near = at_level(level, 4.0), at_level(0.05, 1.5)
    heard = await gated(np.concatenate((far, near, far)))
    assert len(heard) == int(9.5 * RATE)
    assert not heard[: int(3.8 * RATE)].any()
    np.testing.assert_array_equal(heard[4 * RATE : int(5.5 * RATE)], near)
    # What is almost near counts as a quiet part of the sentence for a while, but not for ever.
    assert not heard[8 * RATE :].any()


async def test_quiet_parts_of_a_sentence_are_kept() -> None:
    parts = (at_level(0.05, 0.6), at_level(0.007, 0.5), at_level(0.0, 0.25), at_level(0.002, 0.1))
    sentence = np.concatenate((*parts, parts[0]))
    audio = np.concatenate((at_level(0.004, 1.0), sentence, at_level(0.004, 2.0)))
    heard = await gated(audio)
    np.testing.assert_array_equal(heard[RATE : RATE + len(sentence)], sentence)


@given(st.lists(st.sampled_from([0.002, 0.007, 0.012, 0.05]), max_size=12), SIZES)
@settings(max_examples=30, deadline=None)
async def test_the_near_field_filter_does_not_depend_on_packets(
    levels: list[float], sizes: list[int]
) -> None:
    audio = np.concatenate([np.zeros(0, np.int16), *(at_level(level, 0.31) for level in levels)])
    np.testing.assert_array_equal(await gated(audio, sizes), await gated(audio))
