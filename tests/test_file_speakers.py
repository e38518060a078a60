"""Speakers of whole recordings over a graph in which levels are voices: who said what, bounds, faults."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.engines.base import SAMPLE_RATE, SpeechSpan, VadResult
from deployments.messages import AudioPiece, AudioSlice, Embeddings, Pcm, Priority
from serve_app.audio.decode import RawPcm
from serve_app.errors import InvalidParameter, UpstreamLost
from serve_app.pipeline.file import FileJob, FileOptions
from serve_app.pipeline.speakers.listening import SpeechParts
from serve_app.pipeline.speakers.types import SpeakerOptions
from serve_app.pipeline.speakers.windows import windows_of
from serve_app.pipeline.types import Sentence, Transcript
from serve_app.settings import Settings
from serve_app.transcriber import Transcriber, TranscriptionOptions
from tests import audio_files
from tests.test_file_pipeline import MARK, ToneGraph, blocks_of, characters, recording, samples_of

ASKED = FileOptions(speakers=SpeakerOptions())
TWO_VOICES = [1, 2, 3, 11, 12, 13, 4, 5, 14, 15, 16]
"""Levels up to 10 are one voice, those up to 20 another."""


async def run(audio: Pcm, graph: ToneGraph | None = None, options: FileOptions = ASKED) -> Transcript:
    return await FileJob(graph or ToneGraph(), options).transcript(blocks_of(audio, SAMPLE_RATE * 30))


def said(sentences: Sequence[Sentence]) -> list[tuple[str | None, str]]:
    """What was said by whom, one entry for as long as the speaker stays the same."""
    told: list[tuple[str | None, str]] = []
    for sentence in sentences:
        label = sentence.speaker.label if sentence.speaker else None
        text = "".join(word.text for word in sentence.words)
        if told and told[-1][0] == label:
            told[-1] = label, told[-1][1] + text
        else:
            told.append((label, text))
    return told


async def test_each_word_is_its_speakers() -> None:
    transcript = await run(recording(TWO_VOICES, tone=2.0))
    one, two = "说话人1", "说话人2"
    assert said(transcript.sentences) == [
        (one, characters([1, 2, 3])),
        (two, characters([11, 12, 13])),
        (one, characters([4, 5])),
        (two, characters([14, 15, 16])),
    ]


async def test_text_is_the_same_with_speakers_and_without() -> None:
    audio = recording(TWO_VOICES, tone=2.0)
    plain = await run(audio, options=FileOptions())
    assert {sentence.speaker for sentence in plain.sentences} == {None}
    transcript = await run(audio)
    assert (transcript.text, transcript.words) == (plain.text, plain.words)


@pytest.mark.parametrize(
    ("levels", "speakers"), [([1, 2, 3, 4], {1}), ([7], {1}), ([0], set()), ([1, 11, 21], {1, 2, 3})]
)
async def test_speakers_are_counted(levels: list[int], speakers: set[int]) -> None:
    transcript = await run(recording(levels, tone=3.0))
    assert {sentence.speaker.number for sentence in transcript.sentences if sentence.speaker} == speakers
    assert all(sentence.speaker for sentence in transcript.sentences)


async def test_a_given_count_is_kept() -> None:
    options = FileOptions(speakers=SpeakerOptions(count=1))
    transcript = await run(recording(TWO_VOICES, tone=2.0), options=options)
    assert said(transcript.sentences) == [("说话人1", characters(TWO_VOICES))]


@pytest.mark.parametrize("seconds", [7.3, 300.0])
async def test_blocks_do_not_change_who_speaks(seconds: float) -> None:
    audio = recording(TWO_VOICES, tone=2.0)
    blocks = blocks_of(audio, int(seconds * SAMPLE_RATE))
    assert await FileJob(ToneGraph(), ASKED).transcript(blocks) == await run(audio)


class ListeningGraph(ToneGraph):
    """Notes what is embedded. ``gate`` holds it up; ``fault`` is raised after ``from_call`` calls."""

    def __init__(self, fault: Exception | None = None, from_call: int = 0) -> None:
        super().__init__()
        self.fault = fault
        self.from_call = from_call
        self.gate = asyncio.Event()
        self.gate.set()
        self.embedding = self.most_embedding = self.calls = self.windows = self.most_windows = 0
        self.longest = 0.0
        self.priorities: set[Priority] = set()

    async def embed(
        self, audio: AudioSlice, windows: Sequence[tuple[int, int]], *, priority: Priority = Priority.REQUEST
    ) -> Embeddings:
        self.calls += 1
        self.embedding += 1
        self.most_embedding = max(self.most_embedding, self.embedding)
        self.windows += len(windows)
        self.most_windows = max(self.most_windows, len(windows))
        self.longest = max(self.longest, audio.seconds)
        self.priorities.add(priority)
        try:
            await self.gate.wait()
            if self.fault is not None and self.calls > self.from_call:
                raise self.fault
            return await super().embed(audio, windows, priority=priority)
        finally:
            self.embedding -= 1


async def test_voices_are_heard_as_urgently_as_words_and_some_at_once() -> None:
    graph = ListeningGraph()
    graph.gate.clear()
    options = replace(ASKED, priority=Priority.BACKGROUND)
    job = asyncio.create_task(run(recording([1, 11] * 150, tone=2.0), graph, options))
    for _ in range(2000):
        await asyncio.sleep(0)
    assert 2 <= graph.embedding <= 4
    graph.gate.set()
    await job
    assert graph.priorities == {Priority.BACKGROUND}
    assert graph.most_embedding <= 4
    assert graph.most_windows <= 40


@pytest.mark.parametrize("from_call", [0, 3])
async def test_a_lost_speaker_model_is_told_and_nothing_goes_on(from_call: int) -> None:
    graph = ListeningGraph(UpstreamLost("The SpeakerEmbedding model was lost."), from_call)
    with pytest.raises(UpstreamLost, match="SpeakerEmbedding"):
        await asyncio.wait_for(run(recording([1, 11] * 60, tone=2.0), graph), 60)
    assert (graph.running, graph.embedding) == (0, 0)


async def test_a_caller_that_goes_away_leaves_nothing_running() -> None:
    graph = ListeningGraph()
    graph.gate.clear()
    before = asyncio.all_tasks()
    job = asyncio.create_task(run(recording([1, 11] * 60, tone=2.0), graph))
    for _ in range(2000):
        await asyncio.sleep(0)
    assert graph.embedding
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert (graph.running, graph.embedding) == (0, 0)
    assert asyncio.all_tasks() == before


class Held:
    """Samples that somebody holds, counted."""

    alive = 0
    most = 0

    def __init__(self, samples: Pcm) -> None:
        self.samples = samples
        Held.alive += 1
        Held.most = max(Held.most, Held.alive)

    def __del__(self) -> None:
        Held.alive -= 1

    def __getitem__(self, part: slice) -> Pcm:
        return self.samples[part]


class FastGraph(ListeningGraph):
    """Finds speech by block, for long recordings. ``endless``: one span from the begin to the end."""

    def __init__(self, *, endless: bool) -> None:
        super().__init__()
        self._endless = endless
        self._before = 0

    async def store(self, samples: Pcm) -> AudioPiece:
        return AudioPiece(Held(samples), 0, len(samples))

    async def detect(self, audio: AudioSlice, state: object, final: bool, options: object) -> VadResult:
        before, self._before = self._before, self._before + audio.num_samples // 16
        if not self._endless:
            return VadResult((SpeechSpan(before, self._before - 2000),), None, None)
        return VadResult((SpeechSpan(0, self._before),) if final else (), None if final else 0, None)


@pytest.mark.parametrize("endless", [False, True])
async def test_memory_does_not_grow_with_the_recording(endless: bool) -> None:
    async def long() -> AsyncIterator[Pcm]:
        for number in range(100):
            yield np.full(30 * SAMPLE_RATE, (1 + number % 20) * MARK, np.int16)

    Held.alive = Held.most = 0
    graph = FastGraph(endless=endless)
    options = replace(ASKED, in_flight=4)
    transcript = await FileJob(graph, options).transcript(long())
    assert transcript.duration == 3000
    assert len(transcript.words) >= 100
    assert Held.most < 15
    assert graph.most_windows <= 40
    assert graph.longest < 60


@st.composite
def spoken(draw: st.DrawFn) -> tuple[list[SpeechSpan], int, int]:
    """Spans, the length of the recording, and the silence that ends a span. Milliseconds."""
    silence, at, spans = draw(st.sampled_from([300, 800, 6000])), 0, []
    for _ in range(draw(st.integers(0, 12))):
        begin = at + draw(st.integers(0, 4000))
        at = begin + draw(
            st.one_of(st.integers(10, 4000), st.integers(14_000, 18_000), st.integers(1, 90_000))
        )
        spans.append(SpeechSpan(begin, at))
    return spans, at + draw(st.integers(0, 3000)), silence


@given(spoken(), st.sampled_from([700, 10_000, 30_000, 200_000]))
def test_parts_have_the_windows_of_whole_spans_and_what_they_need_is_kept(
    recorded: tuple[list[SpeechSpan], int, int], block: int
) -> None:
    spans, length, silence = recorded
    parts = SpeechParts(silence)
    heard: set[SpeechSpan] = set()
    waiting, kept_from, position = list(spans), 0, 0
    while position < length:
        position = min(position + block, length)
        found: list[SpeechSpan] = []
        # Detection knows that a span has ended when enough silence has followed, or at the end of all.
        while waiting and (waiting[0].end_ms + silence <= position or position == length):
            found += parts.add(waiting.pop(0))
        is_open = bool(waiting) and waiting[0].begin_ms < position
        found += parts.advance(position, waiting[0].begin_ms if is_open else None)
        assert all(kept_from <= part.begin_ms for part in found)
        assert all(part.end_ms - part.begin_ms <= 15_750 for part in found)
        heard.update(window for part in found for window in windows_of(part))
        if parts.needed_from_ms is not None:
            kept_from = max(kept_from, parts.needed_from_ms)
            assert position - parts.needed_from_ms <= 18_000 + silence + block
    assert heard == {window for span in spans for window in windows_of(span)}


def transcriber(graph: ToneGraph | None = None, **settings: str) -> Transcriber:
    return Transcriber(graph or ToneGraph(), Settings.model_validate(settings))


def wav(*channels: Pcm) -> BytesIO:
    length = max(len(channel) for channel in channels)
    padded = [np.pad(channel, (0, length - len(channel))) for channel in channels]
    audio = (np.stack(padded, 1) if len(padded) > 1 else padded[0]) / 32768
    return BytesIO(audio_files.wav(audio.astype(np.float32), SAMPLE_RATE))


async def test_sentences_stream_without_speakers_and_the_whole_has_them() -> None:
    source = wav(recording(TWO_VOICES, tone=2.0))
    async with transcriber().open(source, TranscriptionOptions(speakers=SpeakerOptions())) as transcription:
        streamed = [sentence async for sentence in transcription.sentences()]
        assert {sentence.speaker for sentence in streamed} == {None}
        whole = transcription.so_far
    assert len(said(whole.sentences)) == 4
    assert Transcript.of(whole.duration, streamed).text == whole.text


async def test_labels_are_as_the_settings_say() -> None:
    options = TranscriptionOptions(speakers=SpeakerOptions())
    source = wav(recording(TWO_VOICES, tone=2.0))
    transcript = await transcriber(speaker_labels="en").transcribe(source, options)
    assert {label for label, _ in said(transcript.sentences)} == {"Speaker 1", "Speaker 2"}


async def test_without_a_speaker_model_only_channels_are_told_apart() -> None:
    service = transcriber(speaker_model="none")
    with pytest.raises(InvalidParameter, match="no speaker model") as refused:
        service.check(TranscriptionOptions(speakers=SpeakerOptions()))
    assert refused.value.param == "enable_speaker_diarization"
    service.check(TranscriptionOptions(speakers=SpeakerOptions(by_channel=True)))


BY_CHANNEL = TranscriptionOptions(speakers=SpeakerOptions(by_channel=True))


async def test_each_channel_is_a_speaker_and_all_is_told_in_the_order_of_time() -> None:
    silence = np.zeros(10 * SAMPLE_RATE, np.int16)
    caller, agent = recording([1, 2, 3], tone=2.0), recording([4, 5], tone=2.0)
    source = wav(np.concatenate([caller, silence, caller]), np.concatenate([silence, agent]), silence)
    graph = ListeningGraph()
    async with transcriber(graph).open(source, BY_CHANNEL) as transcription:
        streamed = [sentence async for sentence in transcription.sentences()]
        whole = transcription.so_far
    assert said(whole.sentences) == [
        ("说话人1", characters([1, 2, 3])),
        ("说话人2", characters([4, 5])),
        ("说话人1", characters([1, 2, 3])),
    ]
    assert tuple(streamed) == whole.sentences
    assert graph.calls == 0
    assert transcription.seconds_done == pytest.approx(25.0)


async def test_a_recording_with_one_channel_has_one_speaker() -> None:
    transcript = await transcriber().transcribe(wav(recording(TWO_VOICES, tone=2.0)), BY_CHANNEL)
    assert said(transcript.sentences) == [("说话人1", characters(TWO_VOICES))]
    raw = recording(TWO_VOICES).tobytes()
    options = replace(BY_CHANNEL, raw=RawPcm(SAMPLE_RATE))
    assert {
        label for label, _ in said((await transcriber().transcribe(BytesIO(raw), options)).sentences)
    } == {"说话人1"}


async def test_too_many_channels_and_one_of_them_are_refused() -> None:
    crowd = wav(*[recording([1])] * 9)
    with pytest.raises(InvalidParameter, match="9 channels; 8 at most"):
        await transcriber().transcribe(crowd, BY_CHANNEL)
    with pytest.raises(InvalidParameter, match="not both") as refused:
        transcriber().check(replace(BY_CHANNEL, channel=0))
    assert refused.value.param == "channel"


async def test_a_fault_in_one_channel_ends_all() -> None:
    class Lost(ToneGraph):
        async def punctuate(self, words: Sequence[str]) -> list[str]:
            if characters([4])[0] in words:
                raise UpstreamLost("gone")
            return await super().punctuate(words)

    graph = Lost()
    with pytest.raises(UpstreamLost):
        await transcriber(graph).transcribe(wav(recording([1, 2]), recording([4, 5])), BY_CHANNEL)
    assert graph.running == 0


async def test_speech_without_a_pause_is_heard_to_its_end_however_it_is_cut() -> None:
    audio = recording([5], tone=200.0)
    # Segments are cut here: later than where the voices have been heard by then.
    for second in (89, 178):
        audio[second * SAMPLE_RATE : second * SAMPLE_RATE + SAMPLE_RATE // 2] = MARK
    graph = ListeningGraph()
    transcript = await FileJob(graph, ASKED).transcript(blocks_of(audio, SAMPLE_RATE * 3))
    assert {sentence.speaker.number for sentence in transcript.sentences if sentence.speaker} == {1}
    assert graph.windows == len(windows_of(SpeechSpan(0, 200_000)))


async def test_voices_are_taken_from_where_they_are_in_the_recording() -> None:
    """The windows that are embedded hold the very samples that lie there, across blocks."""
    heard: list[tuple[int, int]] = []

    class Checking(ToneGraph):
        async def embed(
            self,
            audio: AudioSlice,
            windows: Sequence[tuple[int, int]],
            *,
            priority: Priority = Priority.REQUEST,
        ) -> Embeddings:
            samples = samples_of(audio)
            heard.extend((int(samples[begin]), int(samples[end - 1])) for begin, end in windows)
            return await super().embed(audio, windows, priority=priority)

    levels = [1, 2, 3, 4, 5, 6]
    job = FileJob(Checking(), ASKED)
    await job.transcript(blocks_of(recording(levels, tone=2.0), SAMPLE_RATE * 3 + 17))
    assert heard == [(level * MARK, level * MARK) for level in levels for _ in range(2)]
