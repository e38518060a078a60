"""The file pipeline over a graph that stands in for the models: order, bounds, faults, cancellation."""

import asyncio
import threading
from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import aclosing

import numpy as np
import pytest

from deployments.engines.base import SAMPLE_RATE, SpeechSpan, VadOptions, VadResult, VadState
from deployments.messages import (
    AudioPiece,
    AudioSlice,
    Embeddings,
    Pcm,
    Priority,
    Recognition,
    RecognitionOptions,
    Word,
)
from serve_app.errors import InvalidAudio, UpstreamLost
from serve_app.pipeline.file import FileJob, FileOptions, in_thread
from serve_app.pipeline.graph import DEFAULT_RECOGNITION
from tests.voices import by_level, embedded

MARK = 1000


class ToneGraph:
    """Takes every run of non-zero samples for speech, and each such run's level for a character.

    A recording is written as levels: 1 000 is 甲, 2 000 is 乙, and so on; segments give back the
    characters whose levels they hold, so that the text proves which audio reached the recognizer.
    """

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.running = 0
        self.most_running = 0
        self.cancelled = 0
        self.busy = asyncio.Event()

    async def store(self, samples: Pcm) -> AudioPiece:
        return AudioPiece(samples.copy(), 0, len(samples))

    async def detect(
        self, audio: AudioSlice, state: VadState | None, final: bool, options: VadOptions
    ) -> VadResult:
        heard = np.frombuffer(state.payload, np.int16) if state else np.zeros(0, np.int16)
        whole = np.concatenate((heard, samples_of(audio)))
        edges = np.flatnonzero(np.diff(np.concatenate(([0], (whole != 0).astype(np.int8), [0]))))
        runs = [(int(b), int(e)) for b, e in edges.reshape(-1, 2)]
        open_begin = None
        if runs and not final and runs[-1][1] == len(whole):
            open_begin = ms(runs.pop()[0])
        spans = [SpeechSpan(ms(b), ms(e)) for b, e in runs if e > len(heard) or e == len(heard) > 0]
        spans = [span for span in spans if span.end_ms * SAMPLE_RATE // 1000 >= len(heard)]
        return VadResult(tuple(spans), open_begin, None if final else VadState(whole.tobytes()))

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        if self.running == 5:
            self.busy.set()
        try:
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        samples = samples_of(audio)
        starts = np.flatnonzero((samples != 0) & (np.concatenate(([0], samples[:-1])) != samples))
        return Recognition(
            tuple(Word(chr(0x4E00 + int(samples[i]) // MARK), ms(int(i)), ms(int(i)) + 200) for i in starts)
        )

    async def embed(
        self, audio: AudioSlice, windows: Sequence[tuple[int, int]], *, priority: Priority = Priority.REQUEST
    ) -> Embeddings:
        await asyncio.sleep(self.delay)
        return embedded(samples_of(audio), windows, by_level)

    async def punctuate(self, words: Sequence[str]) -> list[str]:
        return ["。" if (index + 1) % 10 == 0 else "" for index in range(len(words))]


def ms(samples: int) -> int:
    return samples * 1000 // SAMPLE_RATE


def samples_of(audio: AudioSlice) -> Pcm:
    return np.concatenate([piece.ref[piece.begin : piece.end] for piece in audio.pieces])


def recording(levels: Sequence[int], pause: float = 0.5, tone: float = 0.5) -> Pcm:
    parts = [
        part
        for level in levels
        for part in (
            np.full(int(tone * SAMPLE_RATE), level * MARK, np.int16),
            np.zeros(int(pause * SAMPLE_RATE), np.int16),
        )
    ]
    return np.concatenate(parts)


async def blocks_of(audio: Pcm, size: int) -> AsyncIterator[Pcm]:
    for begin in range(0, len(audio), size):
        yield audio[begin : begin + size]


def characters(levels: Sequence[int]) -> str:
    return "".join(chr(0x4E00 + level) for level in levels)


LEVELS = [1 + i % 30 for i in range(200)]


@pytest.mark.parametrize("block", [SAMPLE_RATE * 30, SAMPLE_RATE * 7 + 13, SAMPLE_RATE * 300])
async def test_all_speech_arrives_once_and_in_order(block: int) -> None:
    graph = ToneGraph()
    transcript = await FileJob(graph, FileOptions()).transcript(blocks_of(recording(LEVELS), block))
    assert "".join(word.text for word in transcript.words) == characters(LEVELS)
    assert transcript.duration == pytest.approx(200.0)
    assert transcript.language == "zh"


async def test_word_times_are_those_of_the_recording() -> None:
    transcript = await FileJob(ToneGraph(), FileOptions()).transcript(
        blocks_of(recording(LEVELS), SAMPLE_RATE * 30)
    )
    for index, word in enumerate(transcript.words):
        assert word.begin == pytest.approx(index * 1.0, abs=0.002)


async def test_segments_of_one_file_are_recognized_at_once_but_not_without_bound() -> None:
    graph = ToneGraph(delay=0.01)
    levels = LEVELS[:100]
    options = FileOptions(in_flight=4)
    await FileJob(graph, options).transcript(blocks_of(recording(levels, pause=3.5), SAMPLE_RATE * 30))
    # In flight: what waits in the queue, the one being handed over and the one being awaited.
    assert 2 <= graph.most_running <= 6


async def test_silence_gives_an_empty_transcript() -> None:
    audio = np.zeros(SAMPLE_RATE * 5, np.int16)
    transcript = await FileJob(ToneGraph(), FileOptions()).transcript(blocks_of(audio, SAMPLE_RATE))
    assert (transcript.text, transcript.sentences, transcript.duration) == ("", (), 5.0)


async def test_sentences_come_before_the_recording_ends() -> None:
    gate = asyncio.Event()

    async def slow_upload() -> AsyncIterator[Pcm]:
        async for block in blocks_of(recording(LEVELS), SAMPLE_RATE * 30):
            yield block
        await gate.wait()
        yield np.zeros(SAMPLE_RATE, np.int16)

    job = FileJob(ToneGraph(), FileOptions())
    sentences = job.sentences(slow_upload())
    first = await asyncio.wait_for(anext(sentences), 10)
    assert first.text.startswith(characters(LEVELS[:5]))
    gate.set()
    assert len([sentence async for sentence in sentences]) > 5
    assert job.seconds_done == job.seconds_decoded


async def test_a_fault_in_decoding_is_raised_and_stops_everything() -> None:
    async def damaged() -> AsyncIterator[Pcm]:
        yield recording(LEVELS[:60])
        raise InvalidAudio("The file breaks off.")

    graph = ToneGraph(delay=30)
    with pytest.raises(InvalidAudio, match="breaks off"):
        await asyncio.wait_for(FileJob(graph, FileOptions()).transcript(stop_early(damaged(), graph)), 10)
    assert graph.running == 0


async def stop_early(blocks: AsyncIterator[Pcm], graph: ToneGraph) -> AsyncIterator[Pcm]:
    """Let recognition finish at once, so that the fault of the source is what ends the job."""
    graph.delay = 0.0
    async for block in blocks:
        yield block


async def test_a_fault_of_a_model_is_raised_and_cancels_the_rest() -> None:
    class Lost(ToneGraph):
        async def transcribe(
            self,
            audio: AudioSlice,
            *,
            priority: Priority = Priority.REQUEST,
            options: RecognitionOptions = DEFAULT_RECOGNITION,
        ) -> Recognition:
            if samples_of(audio)[0] == 3 * MARK:
                raise UpstreamLost("gone")
            return await super().transcribe(audio, priority=priority, options=options)

    graph = Lost(delay=0.05)
    audio = recording([1, 2, 3, 4, 5, 6, 7], pause=4)
    with pytest.raises(UpstreamLost):
        await FileJob(graph, FileOptions()).transcript(blocks_of(audio, SAMPLE_RATE * 10))
    assert graph.running == 0


async def test_a_caller_that_goes_away_leaves_nothing_running() -> None:
    graph = ToneGraph(delay=60)
    audio = recording(LEVELS, pause=4)
    task = asyncio.create_task(FileJob(graph, FileOptions()).transcript(blocks_of(audio, SAMPLE_RATE * 30)))
    await asyncio.wait_for(graph.busy.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert graph.running == 0
    assert graph.cancelled >= 5


async def test_leaving_early_waits_for_the_decoder_and_closes_it() -> None:
    decoding, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def decode() -> Generator[Pcm, None, None]:
        try:
            decoding.set()
            assert go_on.wait(10)
            yield np.zeros(16, np.int16)
        finally:
            closed.set()

    async def take() -> None:
        async with aclosing(in_thread(decode())) as blocks:
            await anext(blocks)

    task = asyncio.create_task(take())
    await asyncio.to_thread(decoding.wait, 10)
    task.cancel()
    await asyncio.sleep(0.05)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed.is_set()
