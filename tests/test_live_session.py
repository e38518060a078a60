"""The session machine over a scripted graph: what is told, in which order, whatever the packets."""

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.messages import Token
from serve_app.errors import InvalidParameter
from serve_app.pipeline.finishing import Correction, TextOptions
from serve_app.pipeline.live.events import Finished, LiveOptions, Partial, SentenceFinal, SpeechStarted
from serve_app.pipeline.live.partials import partial
from serve_app.pipeline.live.session import LiveSession
from serve_app.pipeline.text import join_words
from tests.live_graph import ToneGraph
from tests.live_sessions import (
    BOTH,
    LEVELS,
    ONE_PASS,
    PAUSE,
    RATE,
    SIZES,
    TWO_PASS,
    Blocked,
    characters,
    cut,
    finals,
    hear,
    last_partials,
    settle,
    settled,
    spoken,
    tones,
)


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


async def test_a_reader_who_is_late_gets_the_latest_partial_only() -> None:
    async with LiveSession(ToneGraph(), TWO_PASS, "s") as session:
        for packet in cut(tones(range(1, 20)), [1600] * 100):
            await session.push(packet)
            await settle()
        events = session.events()
        assert isinstance(await anext(events), SpeechStarted)
        heard = await anext(events)
        assert isinstance(heard, Partial)
        assert heard.text.startswith(characters(range(1, 17)))


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


async def test_finals_without_punctuation() -> None:
    options = LiveOptions(text=TextOptions(punctuation=False))
    events = await hear(ToneGraph(), [tones([1, 2, 3])], options)
    assert [final.text for final in finals(events)] == ["丁丂七"]


@BOTH
async def test_finals_are_finished_and_partials_are_not(options: LiveOptions) -> None:
    """A number, and a correction that joins it to what is before, are one word with the times of all."""
    heard = [1, 9, 7, 28]
    assert characters(heard) == "丁三万东"
    text = TextOptions(itn=True, corrections=(Correction("丁3", "丁4"),))
    (plain,) = finals(await hear(ToneGraph(), [tones(heard)], options, paced=True))
    events = await hear(ToneGraph(), [tones(heard)], replace(options, text=text), paced=True)
    (final,) = finals(events)
    assert final.text == "丁4万东。"
    assert (final.begin, final.end) == (plain.begin, plain.end)
    assert [(word.text, word.begin, word.end) for word in final.words] == [
        ("丁4万", plain.words[0].begin, plain.words[2].end),
        ("东", plain.words[3].begin, plain.words[3].end),
    ]
    assert all(characters(heard).startswith(event.text) for event in events if isinstance(event, Partial))


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
