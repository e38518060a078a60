"""The session machine where models are lost, hang or fail."""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.messages import (
    AudioSlice,
    Pcm,
    Priority,
    Recognition,
    RecognitionOptions,
    StreamStep,
    Token,
    VadOptions,
    VadResult,
    VadState,
)
from serve_app.errors import AsrError, Internal, Overloaded, UpstreamLost
from serve_app.pipeline.graph import DEFAULT_RECOGNITION, StreamLost
from serve_app.pipeline.live.events import LiveEvent, LiveOptions, SentenceFinal, SpeechStarted
from serve_app.pipeline.live.session import LiveSession
from tests.live_graph import ToneGraph
from tests.live_sessions import (
    LEVELS,
    ONE_PASS,
    PAUSE,
    TWO_PASS,
    Blocked,
    characters,
    check_order,
    cut,
    finals,
    hear,
    last_partials,
    settle,
    spoken,
    tones,
)


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
    audio = cut(tones(levels), [9600] * 200)
    graph = Unreliable(random.Random(seed), 0.1)
    events = await hear(graph, audio, options, paced=True)
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


class Failing(ToneGraph):
    """The second sentence cannot be recognized, or voice activity fails while it is spoken."""

    def __init__(self, kind: str, error: Exception) -> None:
        super().__init__()
        self._kind = kind
        self._error = error
        self._left = 1

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        if self._kind == "transcribe":
            if not self._left:
                raise self._error
            self._left -= 1
        return await super().transcribe(audio, priority=priority, options=options)

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
