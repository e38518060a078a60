"""The near-field filter: who is far away begins no sentence and keeps none open."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.messages import Pcm
from serve_app.pipeline.live.events import LiveEvent, LiveOptions, NearField
from tests.live_graph import ToneGraph
from tests.live_sessions import RATE, SIZES, cut, finals, hear, settled


def at_level(rms: float, seconds: float, seed: int = 0) -> Pcm:
    """Noise of this RMS, as a share of full scale."""
    noise = np.random.default_rng(seed).standard_normal(int(seconds * RATE))
    return np.rint(noise * rms * 32768).astype(np.int16)


async def filtered(parts: Sequence[Pcm], sizes: Sequence[int] = ()) -> list[LiveEvent]:
    audio = np.concatenate([np.zeros(0, np.int16), *parts])
    return await hear(ToneGraph(), cut(audio, list(sizes)), LiveOptions(near_field=NearField()))


def spans(events: Sequence[LiveEvent]) -> list[tuple[float, float]]:
    return [(final.begin, final.end) for final in finals(events)]


@pytest.mark.parametrize("level", [0.004, 0.008])
async def test_far_speech_is_no_sentence(level: float) -> None:
    assert spans(await filtered([at_level(level, 3.0), at_level(0, 1.0), at_level(level, 2.0)])) == []


async def test_near_speech_is_heard_from_its_soft_onset() -> None:
    onset, rest = at_level(0.004, 0.4), at_level(0.05, 1.0)
    ((begin, end),) = spans(await filtered([at_level(0, 1.0), onset, rest, at_level(0, 2.0)]))
    assert begin <= 1.0
    assert end >= 2.4


@pytest.mark.parametrize("level", [0.004, 0.008])
async def test_somebody_far_away_neither_begins_nor_carries_on_a_sentence(level: float) -> None:
    far = at_level(level, 8.0)
    ((begin, end),) = spans(await filtered([far, at_level(0.05, 1.5), far]))
    assert 6.0 <= begin <= 8.0
    assert 9.5 <= end <= 14.0


async def test_quiet_parts_of_a_sentence_are_kept() -> None:
    quiet = (at_level(0.007, 0.5), at_level(0.0, 0.25), at_level(0.002, 0.1))
    sentence = (at_level(0.05, 0.6), *quiet, at_level(0.05, 0.6), at_level(0.007, 0.6))
    ((begin, end),) = spans(await filtered([at_level(0, 1.0), *sentence, at_level(0, 2.0)]))
    assert begin <= 1.0
    assert end >= 1.0 + sum(map(len, sentence)) / RATE


@given(st.lists(st.sampled_from([0.0, 0.002, 0.007, 0.012, 0.05]), max_size=12), SIZES)
@settings(max_examples=30, deadline=None)
async def test_the_near_field_filter_does_not_depend_on_packets(
    levels: list[float], sizes: list[int]
) -> None:
    parts = [at_level(level, 0.31) for level in levels]
    assert settled(await filtered(parts, sizes)) == settled(await filtered(parts))
