"""Emotion, audio events and hotwords that a model reports, on their way from segments to the transcript."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from deployments.messages import AudioSlice, Priority, Recognition, RecognitionOptions
from serve_app.jobs.codec import dump_recognition, dump_sentence, load_recognition, load_sentence
from serve_app.jobs.types import JobSpec
from serve_app.pipeline.file import FileJob, FileOptions
from serve_app.pipeline.graph import DEFAULT_RECOGNITION
from serve_app.pipeline.segments import SegmentLimits
from serve_app.pipeline.types import Sentence, Speaker, TimedWord, Transcript
from tests.jobs_world import OWNER, CountingGraph, JobsWorld
from tests.test_file_pipeline import MARK, blocks_of, recording, samples_of

HEARD = {
    1: Recognition(emotion="happy", events=("laughter",), applied=("钉钉",)),
    2: Recognition(emotion="sad", events=("bgm", "laughter"), applied=("阿里", "钉钉")),
    3: Recognition(),
}


class FeelingGraph(CountingGraph):
    """What is heard besides words goes by the first level of a segment; ``marked``: each is a sentence."""

    marked = True

    async def transcribe(
        self,
        audio: AudioSlice,
        *,
        priority: Priority = Priority.REQUEST,
        options: RecognitionOptions = DEFAULT_RECOGNITION,
    ) -> Recognition:
        said = await super().transcribe(audio, priority=priority, options=options)
        samples = samples_of(audio)
        heard = HEARD[int(samples[samples != 0][0]) // MARK]
        words = tuple(replace(word, mark="。" if self.marked else "") for word in said.words)
        return replace(heard, words=words, punctuated=self.marked)


async def transcript_of(graph: FeelingGraph, levels: list[int], pause: float) -> Transcript:
    return await FileJob(graph, FileOptions()).transcript(blocks_of(recording(levels, pause), 160_000))


async def test_sentences_have_the_tone_of_their_segment() -> None:
    heard = await transcript_of(FeelingGraph(), [1, 3, 2], 3.5)
    assert [(sentence.emotion, sentence.events) for sentence in heard.sentences] == [
        ("happy", ("laughter",)),
        (None, ()),
        ("sad", ("bgm", "laughter")),
    ]
    assert heard.applied == ("钉钉", "阿里")


async def test_all_sentences_of_a_segment_have_its_tone() -> None:
    heard = await transcript_of(FeelingGraph(), [2, 1, 3], 0.5)
    assert [sentence.emotion for sentence in heard.sentences] == ["sad"] * 3


async def test_a_sentence_across_segments_has_the_tone_of_the_longer_part() -> None:
    graph = FeelingGraph()
    graph.marked = False
    # The stand-in for punctuation ends a sentence after ten words, whatever the pauses are.
    audio = np.concatenate([recording([1], 0.5, tone=0.3), recording([2, 3], 0.5, tone=1.5)])
    options = FileOptions(segments=SegmentLimits(merge=0))
    heard = await FileJob(graph, options).transcript(blocks_of(audio, 160_000))
    (sentence,) = heard.sentences
    assert len(sentence.words) == 3
    assert (sentence.emotion, sentence.events) == ("sad", ("laughter", "bgm"))


async def test_a_job_keeps_the_tone(tmp_path: Path) -> None:
    world = JobsWorld.at(tmp_path)
    world.graph = FeelingGraph()
    job = await world.submit([1], JobSpec())
    async with world.running():
        await world.ended(job)
    (kept,) = await world.jobs.transcripts(OWNER, job.id)
    assert [(sentence.emotion, sentence.events) for sentence in kept.sentences] == [("happy", ("laughter",))]


def test_nothing_is_lost_on_the_way_to_the_database() -> None:
    for recognition in HEARD.values():
        assert load_recognition(dump_recognition(recognition)) == recognition
    sentence = Sentence((TimedWord("好", 0.0, 0.2, -0.1, "。"),))
    for kept in (
        sentence,
        replace(sentence, emotion="angry"),
        replace(sentence, events=("cough", "bgm"), speaker=Speaker(2, "Ann", "Ann", 0.8)),
    ):
        assert load_sentence(dump_sentence(kept)) == kept
