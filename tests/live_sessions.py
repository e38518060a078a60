"""Sessions over a scripted graph: audio, a sender and reader, and what always holds of their events."""

import asyncio
from collections.abc import Sequence
from itertools import groupby

import numpy as np
import pytest
from hypothesis import strategies as st

from deployments.messages import (
    AudioSlice,
    Pcm,
    Priority,
    PunctuatedBlock,
    Recognition,
    RecognitionOptions,
    StreamStep,
    Token,
    VadOptions,
    VadResult,
    VadState,
)
from serve_app.pipeline.graph import DEFAULT_RECOGNITION, LiveGraph
from serve_app.pipeline.live.events import (
    Finished,
    LiveEvent,
    LiveOptions,
    Partial,
    SentenceFinal,
    SpeechStarted,
)
from serve_app.pipeline.live.session import LiveSession
from tests.live_graph import ToneGraph

RATE = 16_000
ONE_PASS = LiveOptions(two_pass=False)
TWO_PASS = LiveOptions()
BOTH = pytest.mark.parametrize("options", [TWO_PASS, ONE_PASS], ids=["two_pass", "one_pass"])

PAUSE = [0] * 12
"""A silence that ends a sentence."""

LEVELS = st.lists(
    st.one_of(st.integers(1, 25).map(lambda level: [level]), st.just([0]), st.just(PAUSE)), max_size=60
).map(lambda parts: [level for part in parts for level in part])
SIZES = st.lists(st.integers(0, 40_000), max_size=60)


def tones(levels: Sequence[int], seconds: float = 0.3) -> Pcm:
    """Each level for a while; 0 is silence, of 100 ms."""
    parts = [np.full(int((seconds if level else 0.1) * RATE), level * 1000, np.int16) for level in levels]
    return np.concatenate([np.zeros(0, np.int16), *parts])


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


def speech(seconds: float, rng: np.random.Generator, dips: Sequence[float] = ()) -> Pcm:
    """Endless tones of changing levels, with 120 ms of near silence at ``dips``."""
    levels = rng.integers(2, 30, int(seconds / 0.25) + 1) * 1000
    audio: Pcm = np.repeat(levels, RATE // 4)[: int(seconds * RATE)].astype(np.int16)
    for dip in dips:
        audio[int((dip - 0.06) * RATE) : int((dip + 0.06) * RATE)] = 10
    return audio


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

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        await self._wait("transcribe")
        return await super().transcribe(audio, priority=priority, options=options)

    async def stream(self, step: StreamStep) -> tuple[Token, ...]:
        await self._wait("stream")
        return await super().stream(step)

    async def punctuate_live(self, words: Sequence[str], context: Sequence[str]) -> PunctuatedBlock:
        await self._wait("punctuate_live")
        return await super().punctuate_live(words, context)

    async def _wait(self, kind: str) -> None:
        if kind in self._kinds:
            await self.gate.wait()
