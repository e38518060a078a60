"""Voice-activity detection against FunASR's own, on small random models and on the starter model."""

import pickle
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.engines.base import SAMPLE_RATE, Pcm, VadBlock, VadOptions, VadState
from deployments.engines.model_files import ModelFilesError
from deployments.engines.vad_fsmn import FsmnVadEngine
from tests.onnx_models import real_fsmn_vad
from tests.vad_models import (
    ENCODER,
    Reference,
    Spans,
    bursts,
    funasr_reference,
    published_model,
    write_model,
)

STARTER = Path(__file__).parents[1] / "models" / "starter" / "fsmn-vad"
SAMPLES = Path(__file__).parents[1] / "samples"
DEFAULTS = VadOptions()


def detect_in_blocks(
    engine: FsmnVadEngine, samples: Pcm, cuts: Sequence[int] = (), options: VadOptions = DEFAULTS
) -> Spans:
    """The spans of a recording given in blocks that end at ``cuts``."""
    spans: Spans = []
    state: VadState | None = None
    edges = [0, *sorted(cuts), len(samples)]
    for begin, end in pairwise(edges):
        block = VadBlock(samples[begin:end], state, final=False, options=options)
        (result,) = engine.detect([block])
        spans += [(span.begin_ms, span.end_ms) for span in result.spans]
        state = result.state
    (result,) = engine.detect([VadBlock(samples[:0], state, final=True, options=options)])
    assert result.state is None
    assert result.open_begin_ms is None
    return spans + [(span.begin_ms, span.end_ms) for span in result.spans]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "vad")


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> FsmnVadEngine:
    return FsmnVadEngine(model_dir, threads=1)


@pytest.fixture(scope="module")
def reference(model_dir: Path) -> Reference:
    return funasr_reference(model_dir)


user_options = st.builds(
    VadOptions,
    max_end_silence_ms=st.sampled_from([150, 200, 300, 455, 500, 800, 1200, 2000]),
    max_span_ms=st.sampled_from([2000, 5005, 15_000, 60_000]),
)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), seconds=st.floats(0.03, 20), options=user_options)
def test_spans_are_those_of_funasr(
    engine: FsmnVadEngine, reference: Reference, seed: int, seconds: float, options: VadOptions
) -> None:
    samples = bursts(seed, seconds)
    assert detect_in_blocks(engine, samples, options=options) == reference(samples, options)


def test_spans_of_a_recording_longer_than_a_block_of_funasr(
    engine: FsmnVadEngine, reference: Reference
) -> None:
    samples = bursts(3, 125)
    spans = detect_in_blocks(engine, samples, range(30 * SAMPLE_RATE, len(samples), 30 * SAMPLE_RATE))
    assert len(spans) > 10
    assert spans == reference(samples, VadOptions())


@pytest.mark.parametrize(
    "detector",
    [
        {"do_extend": 0},
        {"window_size_ms": 150, "sil_to_speech_time_thres": 100, "speech_to_sil_time_thres": 60},
        {"lookback_time_start_point": 100, "lookahead_time_end_point": 60},
        {"lookahead_time_end_point": 700},
        {"decibel_thres": -10.0},
        {"snr_thres": 15.0, "noise_frame_num_used_for_snr": 10},
        {"speech_2_noise_ratio": 0.7, "speech_noise_thres": 0.4},
        {"sil_pdf_ids": [1, 4], "silence_pdf_num": 2},
    ],
    ids=lambda detector: "-".join(detector),
)
def test_every_setting_of_the_detector_counts(detector: dict[str, Any], tmp_path: Path) -> None:
    model_dir = write_model(tmp_path / "vad", **detector)
    engine, reference = FsmnVadEngine(model_dir, threads=1), funasr_reference(model_dir)
    found = 0
    for seed, silence_ms in enumerate((200, 455, 800)):
        samples, options = bursts(seed, 20), VadOptions(max_end_silence_ms=silence_ms)
        spans = detect_in_blocks(engine, samples, range(0, len(samples), 4321), options)
        assert spans == reference(samples, options)
        found += len(spans)
    assert found > 3


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), options=user_options, data=st.data())
def test_cutting_a_recording_into_blocks_changes_nothing(
    engine: FsmnVadEngine, seed: int, options: VadOptions, data: st.DataObject
) -> None:
    samples = bursts(seed, 8)
    longest = data.draw(st.sampled_from([7, 160, 400, 960, 9600, len(samples)]))
    rng = random.Random(seed)
    cuts = [0]
    while cuts[-1] < len(samples) and len(cuts) < 120:
        cuts.append(min(len(samples), cuts[-1] + rng.randint(0, longest)))
    whole = detect_in_blocks(engine, samples, options=options)
    assert detect_in_blocks(engine, samples, cuts, options) == whole


@settings(max_examples=15, deadline=None)
@given(
    recordings=st.lists(
        st.tuples(st.integers(0, 10**6), st.floats(0.01, 8), user_options), min_size=2, max_size=8
    ),
    block=st.sampled_from([960, 3200, 9600, 48_000]),
)
def test_recordings_in_one_call_are_independent(
    engine: FsmnVadEngine, recordings: list[tuple[int, float, VadOptions]], block: int
) -> None:
    sounds = [bursts(seed, seconds) for seed, seconds, _ in recordings]
    spans: list[Spans] = [[] for _ in recordings]
    states: list[VadState | None] = [None] * len(recordings)
    running, offset = list(range(len(recordings))), 0
    while running:
        blocks = [
            VadBlock(
                sounds[i][offset : offset + block],
                states[i],
                final=offset + block >= len(sounds[i]),
                options=recordings[i][2],
            )
            for i in running
        ]
        for i, result in zip(running, engine.detect(blocks), strict=True):
            spans[i] += [(span.begin_ms, span.end_ms) for span in result.spans]
            states[i] = result.state
        running = [i for i in running if states[i] is not None]
        offset += block
    alone = [
        detect_in_blocks(engine, sound, options=options)
        for sound, (_, _, options) in zip(sounds, recordings, strict=True)
    ]
    assert spans == alone


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), seconds=st.floats(0, 15), options=user_options)
def test_spans_lie_in_the_recording_and_apart(
    engine: FsmnVadEngine, seed: int, seconds: float, options: VadOptions
) -> None:
    samples = bursts(seed, seconds)
    edges = [edge for span in detect_in_blocks(engine, samples, options=options) for edge in span]
    assert edges == sorted(edges)
    assert all(begin < end for begin, end in zip(edges[::2], edges[1::2], strict=True))
    assert not edges or (edges[0] >= 0 and edges[-1] * SAMPLE_RATE <= len(samples) * 1000)


def test_open_span_is_reported_while_it_lasts(engine: FsmnVadEngine) -> None:
    samples, block = bursts(4, 20), SAMPLE_RATE // 5
    state: VadState | None = None
    open_begin: int | None = None
    begins: set[int] = set()
    ended: set[int] = set()
    for offset in range(0, len(samples), block):
        final = offset + block >= len(samples)
        (result,) = engine.detect([VadBlock(samples[offset : offset + block], state, final)])
        if open_begin is not None:
            # An open span either ends, before any other, or stays open with the same begin.
            begin_now = result.spans[0].begin_ms if result.spans else result.open_begin_ms
            assert begin_now == open_begin
        ended |= {span.begin_ms for span in result.spans}
        open_begin, state = result.open_begin_ms, result.state
        begins |= set() if open_begin is None else {open_begin}
    assert begins
    assert begins <= ended


@pytest.fixture(scope="module")
def saturated(tmp_path_factory: pytest.TempPathFactory) -> FsmnVadEngine:
    """A model so sure of itself that its posteriors are exactly 0 and 1, as trained ones can be."""
    return FsmnVadEngine(write_model(tmp_path_factory.mktemp("models") / "vad", reach=3000.0), threads=1)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(0, np.int16),
        np.zeros(1, np.int16),
        np.full(399, 9, np.int16),
        np.zeros(32_000, np.int16),
        np.full(32_000, 32_767, np.int16),
        np.full(32_000, -32_768, np.int16),
        np.where(np.arange(32_000) % 80 < 40, 32_767, -32_768).astype(np.int16),
        np.where(np.arange(32_000) == 16_000, 32_767, 0).astype(np.int16),
        bursts(1, 5),
    ],
    ids=["empty", "one-sample", "399-samples", "silence", "dc", "negative-dc", "clipped", "click", "bursts"],
)
def test_no_sound_makes_it_fail(saturated: FsmnVadEngine, samples: Pcm) -> None:
    for block in (777, 100_000):
        spans = detect_in_blocks(saturated, samples, range(0, len(samples), block))
        assert all(0 <= begin < end <= len(samples) / 16 for begin, end in spans)


def test_no_blocks_give_no_results(engine: FsmnVadEngine) -> None:
    assert engine.detect([]) == []


def test_state_is_small_and_travels(engine: FsmnVadEngine) -> None:
    samples = bursts(7, 10)
    half = len(samples) // 2
    (first,) = engine.detect([VadBlock(samples[:half], None, final=False)])
    assert first.state is not None
    assert len(first.state.payload) < 64_000
    travelled: VadState = pickle.loads(pickle.dumps(first.state))
    (second,) = engine.detect([VadBlock(samples[half:], travelled, final=True)])
    spans = [(span.begin_ms, span.end_ms) for span in first.spans + second.spans]
    assert spans == detect_in_blocks(engine, samples)


def test_state_does_not_grow(engine: FsmnVadEngine) -> None:
    state: VadState | None = None
    sizes = []
    for seed in range(20):
        (result,) = engine.detect([VadBlock(bursts(seed, 5), state, final=False)])
        assert result.state is not None
        state = result.state
        sizes.append(len(state.payload))
    # What varies are the samples of the frame that is not complete yet.
    assert max(sizes) - min(sizes) < 2 * 400


def test_samples_may_be_read_only(engine: FsmnVadEngine) -> None:
    samples = bursts(8, 5)
    spans = detect_in_blocks(engine, samples)
    samples.flags.writeable = False
    assert detect_in_blocks(engine, samples) == spans


@pytest.mark.parametrize("payload", [b"", b"FVA1", bytes(5000), b"FVA1" + bytes(5000)])
def test_foreign_state_is_refused(engine: FsmnVadEngine, payload: bytes) -> None:
    with pytest.raises(ValueError, match="voice-activity detector"):
        engine.detect([VadBlock(bursts(1, 1), VadState(payload), final=False)])


def test_state_of_another_model_is_refused(engine: FsmnVadEngine, tmp_path: Path) -> None:
    other = FsmnVadEngine(write_model(tmp_path / "vad", encoder={**ENCODER, "proj_dim": 24}), threads=1)
    (result,) = other.detect([VadBlock(bursts(1, 1), None, final=False)])
    with pytest.raises(ValueError, match="another model"):
        engine.detect([VadBlock(bursts(1, 1), result.state, final=False)])


@pytest.mark.parametrize(
    ("section", "change", "says"),
    [
        ("encoder_conf", {"rorder": 2}, "rorder 0"),
        ("encoder_conf", {"proj_dim": 24}, "shape"),
        ("frontend_conf", {"lfr_n": 6}, "lfr_n 1"),
        ("frontend_conf", {"fs": 44100}, "fs 16000 or 8000"),
        ("frontend_conf", {"window": "hanning"}, "hamming"),
        ("model_conf", {"detect_mode": 0}, "detect_mode"),
        ("model_conf", {"sil_to_speech_time_thres": 0}, "sil_to_speech_time_thres"),
    ],
)
def test_model_that_cannot_work_is_refused(
    section: str, change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    model_dir = write_model(tmp_path / "vad")
    config = yaml.safe_load((model_dir / "config.yaml").read_text("utf-8"))
    config[section].update(change)
    (model_dir / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    with pytest.raises(ModelFilesError, match=says):
        FsmnVadEngine(model_dir, threads=1)


def test_starter_model_cuts_like_funasr() -> None:
    if not (STARTER / "model.pt").exists():
        pytest.skip("models/starter/fsmn-vad is not there: `python -m starter train fsmn-vad` makes it")
    engine, reference = FsmnVadEngine(STARTER, threads=1), funasr_reference(STARTER)
    recordings = [bursts(seed, 20) for seed in range(3)] + [talk_of_samples()]
    for samples in recordings:
        for options in (VadOptions(), VadOptions(max_end_silence_ms=300, max_span_ms=5000)):
            spans = detect_in_blocks(engine, samples, range(9600, len(samples), 9600), options)
            assert spans == reference(samples, options)


def talk_of_samples() -> Pcm:
    """The recordings of samples/ one after the other with pauses; only a pause if there are none."""
    pieces: list[Pcm] = [np.zeros(SAMPLE_RATE, np.int16)]
    for path in sorted(SAMPLES.glob("*.wav")):
        samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
        assert rate == SAMPLE_RATE
        pieces += [samples[:, 0], np.zeros(2 * SAMPLE_RATE, np.int16)]
    return np.concatenate(pieces)


def test_published_model_cuts_real_speech_like_funasr(tmp_path: Path) -> None:
    """With iic's weights, taken from their ONNX export: scores as ONNX Runtime's, spans as FunASR's."""
    data = real_fsmn_vad()
    if data is None:
        pytest.skip("REAL_FSMN_VAD names no directory with the published FSMN-VAD")
    model_dir = published_model(data, tmp_path)
    samples, _ = soundfile.read(data / "vad_example.wav", dtype="int16")
    engine, reference = FsmnVadEngine(model_dir, threads=1), funasr_reference(model_dir)
    for silence_ms in (200, 800):
        options = VadOptions(max_end_silence_ms=silence_ms)
        spans = detect_in_blocks(engine, samples, range(960, len(samples), 960), options)
        assert len(spans) > 10
        assert spans == reference(samples, options)
