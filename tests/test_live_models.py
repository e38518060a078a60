"""The session machine over the starter models: real speech, in any packets, through real engines."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from functools import cache

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.engines.paraformer_streaming import ParaformerStreamingEngine
from deployments.engines.paraformer_torch import ParaformerTorchEngine
from deployments.engines.punctuation_ct import CtPunctuationEngine
from deployments.engines.punctuation_realtime import CtRealtimePunctuationEngine
from deployments.engines.vad_fsmn import FsmnVadEngine
from deployments.messages import Pcm, StreamStep, Token
from serve_app.audio.live import LiveDecoder
from serve_app.pipeline.file import FileJob, FileOptions
from serve_app.pipeline.graph import StreamLost
from serve_app.pipeline.live.events import LiveEvent, LiveOptions, NearField, SentenceFinal
from serve_app.pipeline.live.session import LiveSession
from tests.conftest import SAMPLES, load_samples
from tests.live_graph import MODELS, EngineGraph
from tests.live_sessions import BOTH, check_order, cut, finals, last_partials, settled

RATE = 16_000
MARKS = str.maketrans("", "", "，。？、 ")


class Losing(EngineGraph):
    """Loses three of ten steps of streams, before or after they were worked off, while ``rng`` is set."""

    rng: random.Random | None = None

    async def stream(self, step: StreamStep) -> tuple[Token, ...]:
        self._lose(step)
        tokens = await super().stream(step)
        self._lose(step)
        return tokens

    def _lose(self, step: StreamStep) -> None:
        if self.rng is not None and self.rng.random() < 0.15:
            self.streams.pop(step.stream_id, None)
            raise StreamLost("scripted")


@cache
def engines() -> Losing:
    return Losing(
        FsmnVadEngine(MODELS / "fsmn-vad", threads=1),
        ParaformerTorchEngine(MODELS / "paraformer", threads=1, precision="fp32"),
        ParaformerStreamingEngine(MODELS / "paraformer-streaming", threads=1, precision="fp32"),
        CtPunctuationEngine(MODELS / "ct-punc", threads=1),
        CtRealtimePunctuationEngine(MODELS / "ct-punc-realtime", threads=1),
    )


@pytest.fixture
def graph() -> Losing:
    whole = engines()
    whole.rng = None
    whole.streams.clear()
    return whole


@cache
def sample(name: str) -> Pcm:
    audio: Pcm = soundfile.read(SAMPLES / f"{name}.wav", dtype="int16")[0]
    return audio


async def hear(
    graph: EngineGraph, packets: Sequence[Pcm], options: LiveOptions, session_id: str = "s"
) -> list[LiveEvent]:
    async def send(session: LiveSession) -> None:
        for packet in packets:
            await session.push(packet)
        await session.finish()

    async with LiveSession(graph, options, session_id) as session, asyncio.TaskGroup() as tasks:
        tasks.create_task(send(session))
        events = [event async for event in session.events()]
    check_order(events)
    return events


def words(text: str) -> str:
    return text.translate(MARKS)


def said(events: Sequence[LiveEvent]) -> str:
    return "".join(words(event.text) for event in finals(events))


def differences(one: str, other: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one):
        previous, row[0] = row[0], i + 1
        for j, b in enumerate(other):
            previous, row[j + 1] = row[j + 1], min(row[j + 1] + 1, row[j] + 1, previous + (a != b))
    return row[-1]


@BOTH
@pytest.mark.parametrize("name", ["home", "meeting", "travel"])
async def test_samples_are_understood(graph: Losing, name: str, options: LiveOptions) -> None:
    events = await hear(graph, cut(sample(name), [960] * 10_000), options)
    expected = {recording.path.stem: words(recording.text) for recording in load_samples()}[name]
    assert differences(said(events), expected) <= 0.15 * len(expected)
    assert len(last_partials(events)) == len(finals(events))
    assert not graph.streams


async def blocks(samples: Pcm) -> AsyncIterator[Pcm]:
    yield samples


@pytest.mark.parametrize("name", ["meeting", "travel"])
async def test_two_pass_finals_are_the_texts_of_file_jobs(graph: Losing, name: str) -> None:
    audio = sample(name)
    for final in finals(await hear(graph, [audio], LiveOptions())):
        span = audio[round(final.begin * RATE) : round(final.end * RATE)]
        offline = graph.offline.transcribe([span])[0]
        assert [word.text for word in final.words] == [word.text for word in offline.words]
        transcript = await FileJob(graph, FileOptions()).transcript(blocks(span))
        assert words(final.text) == words(transcript.text)


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(0, 30_001), max_size=30), st.booleans())
async def test_bytes_in_any_packets_give_the_same_events(sizes: list[int], two_pass: bool) -> None:
    options, audio = LiveOptions(two_pass=two_pass), sample("travel")
    data = audio.tobytes()
    decoder = LiveDecoder()
    ends = [*np.cumsum(sizes), len(data)]
    packets = [decoder.feed(data[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]
    every = await hear(engines(), cut(audio, [960] * 10_000), options)
    assert settled(await hear(engines(), [*packets, decoder.flush()], options)) == settled(every)


@BOTH
async def test_lost_streams_cost_no_word(graph: Losing, options: LiveOptions) -> None:
    expected = await hear(graph, cut(sample("meeting"), [960] * 10_000), options)
    graph.rng = random.Random(4)
    events = await hear(graph, cut(sample("meeting"), [960] * 10_000), options)
    assert finals(events) == finals(expected)
    assert not graph.streams


async def test_sessions_at_once_hear_what_each_hears_alone(graph: Losing) -> None:
    names = ["home", "meeting", "travel", "home", "travel", "meeting"]
    kinds = [LiveOptions(two_pass=index % 2 == 0) for index in range(len(names))]
    alone = [await hear(graph, [sample(name)], kind) for name, kind in zip(names, kinds, strict=True)]
    together = await asyncio.gather(
        *(
            hear(graph, cut(sample(name), [700 + 300 * index] * 999), kind, f"s{index}")
            for index, (name, kind) in enumerate(zip(names, kinds, strict=True))
        )
    )
    assert [settled(events) for events in together] == [settled(events) for events in alone]


@BOTH
async def test_speech_without_pause_is_cut_and_keeps_its_words(graph: Losing, options: LiveOptions) -> None:
    options = LiveOptions(two_pass=options.two_pass, max_sentence_ms=4000, max_sentence_silence_ms=3000)
    events = await hear(graph, [sample("meeting")], options)
    assert {final.cause for final in finals(events)[:-1]} == {"cut"}
    expected = {recording.path.stem: words(recording.text) for recording in load_samples()}["meeting"]
    assert differences(said(events), expected) <= 0.2 * len(expected)


def at_most(rms: float, audio: Pcm) -> Pcm:
    """The same speech at a distance: no 600 ms of it are louder than ``rms``, a share of full scale."""
    powers = np.convolve(np.square(audio / 32768.0), np.full(9600, 1 / 9600), mode="valid")
    quiet: Pcm = np.rint(audio * (rms / np.sqrt(powers.max()))).astype(np.int16)
    return quiet


async def test_somebody_far_away_is_not_heard(graph: Losing) -> None:
    near = sample("travel")
    far = at_most(0.007, sample("meeting"))
    silence = np.zeros(2 * RATE, np.int16)
    audio = np.concatenate((far, silence, near, silence, far))
    filtered = await hear(graph, [audio], LiveOptions(near_field=NearField()))
    assert said(filtered) == said(await hear(graph, [near], LiveOptions()))
    begin = (len(far) + len(silence)) / RATE - 0.3
    assert all(begin <= final.begin for final in finals(filtered))
    unfiltered = await hear(graph, [audio], LiveOptions())
    assert len(finals(unfiltered)) > len(finals(filtered))


async def test_finals_have_words_with_times_inside_of_them(graph: Losing) -> None:
    for final in finals(await hear(graph, [sample("meeting")], LiveOptions())):
        assert isinstance(final, SentenceFinal)
        times = [time for word in final.words for time in (word.begin, word.end)]
        assert times == sorted(times)
        assert final.begin <= times[0] <= times[-1] <= final.end
