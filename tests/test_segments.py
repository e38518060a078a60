"""Greedy merging of speech spans into segments: the limits hold for any recording."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.engines.base import SAMPLE_RATE, SpeechSpan
from serve_app.pipeline.segments import Loudness, SegmentLimits, SegmentPlanner

LIMITS = SegmentLimits(merge=20, longest=90, silence=3)
BLOCK_MS = 30_000


def noise(seconds: float, level: float = 3000.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, level, int(seconds * SAMPLE_RATE)).astype(np.int16)


def plan(
    spans: list[SpeechSpan], length_ms: int, limits: SegmentLimits = LIMITS, audio: np.ndarray | None = None
) -> list[SpeechSpan]:
    """Run the planner as the file pipeline does: block by block, spans told when they have ended."""
    if audio is None:
        audio = np.zeros(length_ms * SAMPLE_RATE // 1000, np.int16)
    loudness = Loudness()
    planner = SegmentPlanner(limits, loudness)
    segments: list[SpeechSpan] = []
    waiting = list(spans)
    for begin in range(0, length_ms, BLOCK_MS):
        position = min(begin + BLOCK_MS, length_ms)
        loudness.append(audio[begin * SAMPLE_RATE // 1000 : position * SAMPLE_RATE // 1000])
        while waiting and (waiting[0].end_ms <= position):
            segments += planner.add(waiting.pop(0))
        open_begin = waiting[0].begin_ms if waiting and waiting[0].begin_ms < position else None
        segments += planner.advance(position, open_begin)
        needed = [ms for ms in (planner.needed_from_ms, open_begin) if ms is not None]
        loudness.forget_before(min(needed, default=position - 1000))
    return segments + list(planner.finish())


@st.composite
def recordings(draw: st.DrawFn) -> tuple[list[SpeechSpan], int]:
    spans, at = [], draw(st.integers(0, 5000))
    for _ in range(draw(st.integers(0, 25))):
        length = draw(st.one_of(st.integers(200, 15_000), st.integers(60_000, 250_000)))
        spans.append(SpeechSpan(at, at + length))
        at += length + draw(st.integers(0, 8000))
    return spans, at + draw(st.integers(0, 2000)) + 1


@given(recordings())
def test_segments_cover_all_speech_and_keep_to_the_limits(recording: tuple[list[SpeechSpan], int]) -> None:
    spans, length = recording
    segments = plan(spans, length)
    for before, after in itertools.pairwise(segments):
        assert before.end_ms <= after.begin_ms
    for segment in segments:
        assert 0 < segment.end_ms - segment.begin_ms <= 90_000
        inside = [s for s in spans if s.begin_ms < segment.end_ms and s.end_ms > segment.begin_ms]
        pauses = [b.begin_ms - a.end_ms for a, b in itertools.pairwise(inside)]
        assert all(pause <= 3000 for pause in pauses)
        assert segment.end_ms - segment.begin_ms <= 20_000 or len(inside) == 1
    for span in spans:
        covered = sum(max(0, min(s.end_ms, span.end_ms) - max(s.begin_ms, span.begin_ms)) for s in segments)
        assert covered == span.end_ms - span.begin_ms


def test_neighbors_are_joined_up_to_the_merge_length() -> None:
    spans = [SpeechSpan(begin, begin + 4000) for begin in range(0, 50_000, 5000)]
    assert [(s.begin_ms, s.end_ms) for s in plan(spans, 50_000)] == [
        (0, 19_000),
        (20_000, 39_000),
        (40_000, 49_000),
    ]


def test_a_pause_above_three_seconds_splits() -> None:
    spans = [SpeechSpan(0, 2000), SpeechSpan(5001, 6000), SpeechSpan(9000, 9500)]
    assert plan(spans, 10_000) == [SpeechSpan(0, 2000), SpeechSpan(5001, 9500)]


def test_merge_of_zero_keeps_spans_apart() -> None:
    spans = [SpeechSpan(0, 1000), SpeechSpan(1500, 2500)]
    assert plan(spans, 3000, SegmentLimits(merge=0)) == spans


def test_endless_speech_is_cut_where_it_is_quietest() -> None:
    audio = noise(200)
    for second in (70.0, 150.0):
        audio[int(second * SAMPLE_RATE) : int((second + 0.3) * SAMPLE_RATE)] //= 100
    segments = plan([SpeechSpan(0, 200_000)], 200_000, audio=audio)
    cuts = [segment.end_ms for segment in segments[:-1]]
    assert len(cuts) == 2
    assert 70_000 <= cuts[0] <= 70_300
    assert 150_000 <= cuts[1] <= 150_300


def test_endless_speech_is_cut_while_it_goes_on() -> None:
    loudness = Loudness()
    planner = SegmentPlanner(LIMITS, loudness)
    loudness.append(noise(120))
    segments = list(planner.advance(120_000, 0))
    assert len(segments) == 1
    assert 45_000 <= segments[0].end_ms <= 90_000


@pytest.mark.parametrize("sizes", [[1], [159, 161], [16_000], [7, 480, 1600, 3]])
def test_loudness_does_not_depend_on_block_sizes(sizes: list[int]) -> None:
    audio = noise(20, seed=3)
    audio[SAMPLE_RATE * 12 : SAMPLE_RATE * 12 + 3200] //= 50
    loudness = Loudness()
    at, turn = 0, 0
    if sizes == [1]:
        audio, sizes = audio[: SAMPLE_RATE * 13], [1600, 1]
    while at < len(audio):
        step = sizes[turn % len(sizes)]
        loudness.append(audio[at : at + step])
        at, turn = at + step, turn + 1
    assert 12_000 <= loudness.quietest(1000, 13_000) <= 12_200
