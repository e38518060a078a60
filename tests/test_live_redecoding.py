"""Sentences that a generative model decodes again and again while they grow."""

import asyncio
import random
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.engines.generative import WINDOW_SAMPLES
from deployments.messages import (
    AudioSlice,
    Hypothesis,
    Pcm,
    RecognitionOptions,
    Word,
)
from serve_app.errors import AsrError, Internal, Overloaded, UpstreamLost
from serve_app.pipeline.finishing import TextOptions
from serve_app.pipeline.live.events import (
    LiveEvent,
    LiveOptions,
    Partial,
    Redecoding,
    SentenceFinal,
    SpeechStarted,
)
from serve_app.pipeline.live.hypotheses import Shown
from serve_app.pipeline.live.session import LiveSession
from serve_app.pipeline.text import join_words
from tests.generative_graph import HEAD, Decoding, WritingGraph
from tests.live_sessions import (
    LEVELS,
    PAUSE,
    RATE,
    SIZES,
    characters,
    cut,
    finals,
    hear,
    last_partials,
    settle,
    speech,
    spoken,
    tones,
)

STEP = Redecoding(step_ms=1000, free_steps=2, open_tokens=3)
TWO_PASS = LiveOptions(redecoding=STEP, max_sentence_ms=20_000)
ONE_PASS = replace(TWO_PASS, two_pass=False)
BOTH = pytest.mark.parametrize("options", [TWO_PASS, ONE_PASS], ids=["two_pass", "one_pass"])

LONG = [*range(1, 26), *range(3, 20)]
"""12.6 seconds without a pause."""


def paced(levels: Sequence[int]) -> list[Pcm]:
    return cut(tones(levels), [3200] * 1000)


def partials(events: Sequence[LiveEvent]) -> list[Partial]:
    return [event for event in events if isinstance(event, Partial)]


def steps(graph: WritingGraph) -> list[list[Decoding]]:
    """The decodings of each sentence: one that hears less than the one before it begins another sentence."""
    sentences: list[list[Decoding]] = []
    for decoding in graph.decodings:
        if not sentences or decoding.samples < sentences[-1][-1].samples:
            sentences.append([])
        sentences[-1].append(decoding)
    return sentences


async def test_a_sentence_grows_step_by_step_and_ends_with_the_offline_result() -> None:
    graph = WritingGraph()
    levels = [1, 2, 3, 4, 5, 0, 0, 0, 0, 6, 7, 8, 9, *PAUSE]
    started, *grown, final, _ = await hear(graph, paced(levels), TWO_PASS, paced=True)
    assert started == SpeechStarted(0, 0.0)
    heard = [event for event in grown if isinstance(event, Partial)]
    assert [event.text for event in heard] == ["丁丂七丄", "丁丂七丄丅，丆", "丁丂七丄丅，丆万丈三"]
    assert [event.stable for event in heard] == [0, 4, 7]
    assert {event.language for event in heard} == {"zh"}
    assert isinstance(final, SentenceFinal)
    assert (final.text, final.language) == ("丁丂七丄丅，丆万丈三。", "zh")
    assert [word.begin for word in final.words[:3]] == [0.0, 0.3, 0.6]
    assert graph.contexts == [], "who writes marks needs nobody to set them"


async def test_words_of_partials_have_times_within_what_was_heard() -> None:
    events = await hear(WritingGraph(), paced([0] * 20 + LONG), TWO_PASS, paced=True)
    for event in partials(events):
        assert event.text == join_words((word.text, word.mark) for word in event.words)
        times = [time for word in event.words for time in (word.begin, word.end)]
        assert event.begin <= times[0]
        assert times == sorted(times)
        assert event.end == times[-1]


async def test_whole_windows_are_stored_once_and_the_rest_goes_with_the_call() -> None:
    graph = WritingGraph()
    stored: list[int] = []
    store = graph.store

    async def counted(samples: Pcm) -> Any:
        stored.append(len(samples))
        return await store(samples)

    graph.store = counted  # type: ignore[method-assign]  # to watch one call of it
    await hear(graph, paced([*LONG, *PAUSE, *LONG]), TWO_PASS, paced=True)
    assert [len(sentence) for sentence in steps(graph)] == [13, 12]
    for sentence in steps(graph):
        for decoding in sentence:
            whole, rest = divmod(decoding.samples, WINDOW_SAMPLES)
            assert decoding.lengths == (WINDOW_SAMPLES,) * whole
            assert decoding.tail == rest
    assert stored.count(WINDOW_SAMPLES) == 2
    assert len(stored) == 4, "each sentence also for its final"


async def test_a_step_goes_on_from_all_but_the_last_tokens_of_the_one_before() -> None:
    graph = WritingGraph()
    await hear(graph, paced(LONG), TWO_PASS, paced=True)
    (sentence,) = steps(graph)
    assert [decoding.prefix for decoding in sentence[:2]] == [(), ()]
    for before, decoding in pairwise(sentence[1:]):
        heard = -(-before.samples // 4800)
        assert decoding.prefix == (*HEAD, *map(ord, characters(LONG)[: heard - 3]))
        assert decoding.max_tokens <= 12 * 1.2 + 3 + 16
    assert {decoding.session_id for decoding in sentence} == {"s"}


@pytest.mark.parametrize("open_tokens", [5, 6, 50])
async def test_a_prefix_never_ends_within_the_language(open_tokens: int) -> None:
    graph = WritingGraph()
    options = replace(TWO_PASS, redecoding=Redecoding(1000, 0, open_tokens))
    await hear(graph, paced([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]), options, paced=True)
    lengths = {len(decoding.prefix) for decoding in graph.decodings}
    assert 0 in lengths
    assert all(length == 0 or length > len(HEAD) for length in lengths)


async def test_a_known_language_has_no_head() -> None:
    graph = WritingGraph()
    options = replace(TWO_PASS, recognition=RecognitionOptions("m", "zh", "names"))
    events = await hear(graph, paced([*LONG, *PAUSE]), options, paced=True)
    assert spoken(events) == [characters(LONG)]
    assert {decoding.options for decoding in graph.decodings} == {options.recognition}
    assert graph.finals == [replace(options.recognition, itn=options.text.itn)]
    assert graph.decodings[-1].prefix[0] == ord("丁")


async def test_what_nobody_understands_has_no_partial() -> None:
    graph = WritingGraph()
    graph.rewrites = lambda *_: []
    events = await hear(graph, paced([*LONG, *PAUSE]), TWO_PASS, paced=True)
    assert partials(events) == []
    assert all(decoding.prefix == () for decoding in graph.decodings)


@settings(max_examples=60, deadline=None)
@given(LEVELS, SIZES, st.booleans(), st.integers(0, 3000), st.integers(0, 6))
async def test_packets_and_pace_change_no_final(
    levels: list[int], sizes: list[int], in_time: bool, doubt: int, open_tokens: int
) -> None:
    graph = WritingGraph(doubt=doubt)
    options = replace(TWO_PASS, max_sentence_ms=5000, redecoding=Redecoding(700, 1, open_tokens))
    events = await hear(graph, cut(tones(levels), sizes), options, paced=in_time)
    every = await hear(WritingGraph(), [tones(levels)], replace(options, redecoding=None, partials=False))
    assert finals(events) == finals(every)
    assert graph.most_running["decode"] <= 1
    audio = tones(levels)
    for final in finals(events):
        said = audio[round(final.begin * RATE) : round(final.end * RATE)]
        whole = await graph.transcribe(AudioSlice((await graph.store(said),)))
        assert [word.text for word in final.words] == [word.text for word in whole.words]


@settings(max_examples=40, deadline=None)
@given(LEVELS, SIZES, st.booleans())
async def test_without_a_second_pass_all_is_heard_and_nothing_is_taken_back(
    levels: list[int], sizes: list[int], in_time: bool
) -> None:
    graph = WritingGraph()
    options = replace(ONE_PASS, text=TextOptions(punctuation=False), max_sentence_ms=5000)
    events = await hear(graph, cut(tones(levels), sizes), options, paced=in_time)
    expected = await hear(WritingGraph(), [tones(levels)], replace(options, two_pass=True))
    assert spoken(events) == spoken(expected)
    assert graph.finals == []
    said = last_partials(events)
    for final in finals(events):
        if final.index in said:
            assert final.text.startswith(said[final.index].text[: said[final.index].stable])


class Gated(WritingGraph):
    """Decoding waits for ``gate``."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def decode(self, *given: Any, **options: Any) -> Hypothesis:
        await self.gate.wait()
        return await super().decode(*given, **options)


async def test_what_comes_during_a_step_is_heard_by_the_next_one() -> None:
    graph = Gated()
    options = replace(TWO_PASS, redecoding=Redecoding(step_ms=200))
    async with LiveSession(graph, options, "s") as session:
        for packet in cut(tones(LONG[:20]), [3200] * 30):
            await session.push(packet)
        # By then the step has taken longer than its audio lasts, and nobody waits for it any more.
        await asyncio.sleep(0.3)
        graph.gate.set()
        await settle()
        assert len(graph.decodings) == 2
        assert graph.decodings[0].samples < 1.5 * RATE
        assert graph.decodings[1].samples == 6 * RATE


async def test_audio_that_comes_at_once_is_told_step_by_step() -> None:
    for packets in ([tones([*LONG, *PAUSE, 1, 2])], paced([*LONG, *PAUSE, 1, 2])):
        graph = WritingGraph()
        events = await hear(graph, packets, TWO_PASS)
        lengths = [0, *(decoding.samples for decoding in graph.decodings)]
        assert all(RATE <= after - before <= 1.2 * RATE for before, after in pairwise(lengths))
        assert lengths[-1] > 12 * RATE
        assert last_partials(events)[0].text == characters(LONG)


async def test_who_speaks_waits_for_no_step() -> None:
    graph = Gated()
    options = replace(TWO_PASS, redecoding=Redecoding(step_ms=5000))
    async with LiveSession(graph, options, "s") as session:
        events = session.events()
        await session.push(tones([1, 2, 3]))
        assert await anext(events) == SpeechStarted(0, 0.0)
        with pytest.MonkeyPatch.context() as patch:
            began = time.monotonic()
            patch.setattr(time, "monotonic", lambda: began + 60)
            await session.push(tones([*LONG[:20], *PAUSE]))
            final = await anext(events)
    assert isinstance(final, SentenceFinal)
    assert final.text == characters([1, 2, 3, *LONG[:20]]) + "。"


@BOTH
@pytest.mark.parametrize("how", ["endless", "looping"])
async def test_a_step_that_goes_round_in_circles_is_done_again_without_prefix(
    options: LiveOptions, how: str
) -> None:
    graph = WritingGraph()

    def stuck(asked: Decoding, tokens: list[int]) -> list[int]:
        said = len(asked.prefix) - len(HEAD)
        if not asked.prefix:
            return tokens
        return [*tokens[:said], *([ord("哈")] * 1000 if how == "looping" else range(0x5000, 0x5400))]

    graph.rewrites = stuck
    events = await hear(graph, paced([*LONG[:20], *PAUSE]), options, paced=True)
    assert "哈" not in "".join(event.text for event in events if isinstance(event, Partial | SentenceFinal))
    assert spoken(events) == [characters(LONG[:20])]
    assert partials(events)[-1].text == characters(LONG[:20])
    again = [decoding for decoding in graph.decodings[2:] if not decoding.prefix]
    assert len(again) == len([decoding for decoding in graph.decodings if decoding.prefix]) > 3
    assert all(decoding.max_tokens > 12 * decoding.samples / RATE for decoding in again)


async def test_a_step_that_loops_in_any_case_tells_nothing() -> None:
    graph = WritingGraph()
    graph.rewrites = lambda _, tokens: [ord("哈")] * 1000 if len(tokens) > 8 else tokens
    events = await hear(graph, paced([*LONG[:20], *PAUSE]), TWO_PASS, paced=True)
    assert {event.text for event in partials(events)} == {characters(LONG[:4]), characters(LONG[:7])}
    assert spoken(events) == [characters(LONG[:20])]


WORDS = st.lists(st.sampled_from([*"一二三四", "one", "two"]), max_size=12)


@given(st.lists(WORDS, max_size=8))
def test_what_was_promised_stays_whatever_is_heard_later(hypotheses: list[list[str]]) -> None:
    shown, promised, before = Shown(), "", ""
    for texts in hypotheses:
        shown.follow([Word(text, 100 * at, 100 * at + 100) for at, text in enumerate(texts)])
        text = join_words((word.text, "") for word in shown.words)
        assert text.startswith(promised)
        assert len(promised) <= shown.stable <= len(text)
        begins = [word.begin_ms for word in shown.words]
        assert begins == sorted(begins)
        if join_words((text, "") for text in texts).startswith(promised):
            assert [word.text for word in shown.words] == texts
        promised, before = text[: shown.stable], text
    assert before.startswith(promised)


def test_another_begin_goes_on_behind_what_was_promised() -> None:
    shown = Shown()
    for text in ("今天天气", "今天天气很好", "明天天气很好啊", "明天的天气很好啊我们走"):
        shown.follow([Word(char, 100 * at, 100 * at + 100) for at, char in enumerate(text)])
    assert "".join(word.text for word in shown.words) == "今天天气很好啊我们走"
    assert shown.stable >= len("今天天气")


async def test_marks_are_left_out_where_nobody_wants_them() -> None:
    levels = [1, 2, 3, 4, 0, 0, 0, 0, 5, 6, 7, 8, *PAUSE]
    for options in (TWO_PASS, ONE_PASS):
        events = await hear(
            WritingGraph(), paced(levels), replace(options, text=TextOptions(punctuation=False)), paced=True
        )
        texts = [event.text for event in events if isinstance(event, Partial | SentenceFinal)]
        assert texts[-1] == characters([1, 2, 3, 4, 5, 6, 7, 8])
        assert not set("".join(texts)) & set("，。")


async def test_at_the_end_a_sentence_gets_the_full_stop_that_the_model_left_out() -> None:
    class Modest(WritingGraph):
        async def transcribe(self, *given: Any, **options: Any) -> Any:
            heard = await super().transcribe(*given, **options)
            last = replace(heard.words[-1], mark="，" if len(heard.words) > 2 else "")
            return replace(heard, words=(*heard.words[:-1], last))

    for levels, text in (([1, 2, 3], "丁丂七，"), ([1, 2], "丁丂。")):
        events = await hear(Modest(), [tones(levels)], TWO_PASS)
        assert finals(events)[0].text == text


class Failing(WritingGraph):
    """Some decodings fail, and so may recognition."""

    def __init__(self, error: Exception, share: float, seed: int = 0) -> None:
        super().__init__()
        self._error = error
        self._share = share
        self._rng = random.Random(seed)

    async def decode(self, audio: AudioSlice, tail: Pcm, *given: Any, **options: Any) -> Hypothesis:
        if self._rng.random() < self._share:
            raise self._error
        return await super().decode(audio, tail, *given, **options)


@settings(max_examples=20, deadline=None)
@given(
    LEVELS, st.integers(0, 100), st.sampled_from([UpstreamLost("x"), Overloaded("x", 1), ValueError("bug")])
)
async def test_lost_replicas_cost_partials_only(levels: list[int], seed: int, error: Exception) -> None:
    events = await hear(Failing(error, 0.5, seed), paced(levels), TWO_PASS, paced=True)
    assert finals(events) == finals(await hear(WritingGraph(), paced(levels), TWO_PASS))


async def test_there_are_finals_without_any_partial() -> None:
    events = await hear(Failing(UpstreamLost("gone"), 1), paced([*LONG, *PAUSE, *LONG]), TWO_PASS, paced=True)
    assert partials(events) == []
    assert spoken(events) == [characters(LONG)] * 2


@pytest.mark.parametrize(
    ("error", "told"), [(UpstreamLost("gone"), UpstreamLost), (ValueError("x"), Internal)]
)
async def test_without_a_second_pass_a_last_step_that_fails_is_told(
    error: Exception, told: type[AsrError]
) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await hear(Failing(error, 1), paced([*LONG, *PAUSE]), ONE_PASS, paced=True)
    assert caught.group_contains(told)


@BOTH
async def test_endless_speech_is_cut_and_said_once(options: LiveOptions) -> None:
    options = replace(options, max_sentence_ms=6000)
    audio = speech(21.0, np.random.default_rng(1), (4.5, 9.0, 14.5, 19.0))
    graph = WritingGraph()
    events = await hear(graph, cut(audio, [1000] * 400), options, paced=True)
    assert [final.cause for final in finals(events)] == ["cut"] * 4 + ["end"]
    whole = await graph.transcribe(AudioSlice((await graph.store(audio),)))
    marks = str.maketrans("", "", "，。")
    assert "".join(spoken(events)).translate(marks) == "".join(word.text for word in whole.words)
    assert max(decoding.samples for decoding in graph.decodings) <= 6 * RATE


async def test_steps_cost_the_same_however_long_the_session_is() -> None:
    graph = WritingGraph()
    await hear(graph, paced([*LONG[:20], *PAUSE] * 20), TWO_PASS, paced=True)
    sentences = steps(graph)
    assert len(sentences) == 20
    for sentence in sentences:
        assert len(sentence) == len(sentences[0])
        assert max(decoding.samples for decoding in sentence) <= 7 * RATE
        assert all(decoding.max_tokens < 40 for decoding in sentence if decoding.prefix)


@pytest.mark.slow
@BOTH
async def test_memory_does_not_grow_with_the_session(options: LiveOptions) -> None:
    rng = np.random.default_rng(3)

    class Forgetful(WritingGraph):
        async def decode(self, *given: Any, **options: Any) -> Hypothesis:
            try:
                return await super().decode(*given, **options)
            finally:
                self.decodings.clear()

    async def send(session: LiveSession) -> None:
        for _ in range(120):
            await session.push(np.concatenate((speech(9, rng), tones([0] * 10))))
        await session.finish()

    tracemalloc.start()
    try:
        async with LiveSession(Forgetful(), options, "s") as session, asyncio.TaskGroup() as tasks:
            tasks.create_task(send(session))
            count = sum([isinstance(event, SentenceFinal) async for event in session.events()])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count >= 120
    assert peak < 20e6


@BOTH
async def test_the_sender_waits_for_a_step_no_longer_than_its_audio_lasts(options: LiveOptions) -> None:
    class Hanging(WritingGraph):
        async def decode(self, *given: Any, **options: Any) -> Hypothesis:
            await asyncio.sleep(3600)
            raise AssertionError

    options = replace(options, redecoding=Redecoding(step_ms=200))
    async with LiveSession(Hanging(), options, "s") as session:
        before = asyncio.all_tasks()
        async with asyncio.timeout(30):
            for packet in cut(tones(LONG), [3200] * 400):
                await session.push(packet)
            for _ in range(200):
                await settle()
        assert len(asyncio.all_tasks() - before) <= 6


@BOTH
@settings(max_examples=40, deadline=None)
@given(rounds=st.integers(0, 400), seed=st.integers(0, 1000))
async def test_who_vanishes_leaves_nothing_behind(options: LiveOptions, rounds: int, seed: int) -> None:
    rng = random.Random(seed)

    async def pause() -> None:
        for _ in range(rng.choice((0, 1, 5, 50))):
            await asyncio.sleep(0)

    before = asyncio.all_tasks()
    graph = WritingGraph(pause)
    session = LiveSession(graph, options, "s")

    async def send() -> None:
        for packet in cut(tones([*LONG[:10], *PAUSE] * 3), [960] * 1000):
            await session.push(packet)
        await session.finish()

    async def read() -> list[LiveEvent]:
        return [event async for event in session.events()]

    helpers = [asyncio.create_task(send()), asyncio.create_task(read())]
    for _ in range(rounds):
        await asyncio.sleep(0)
    await session.aclose()
    await asyncio.gather(*helpers, return_exceptions=True)
    assert asyncio.all_tasks() == before
    assert graph.running["decode"] == 0
