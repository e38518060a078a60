"""The recognizer's training agrees with FunASR's inference: same features, same firing rule, same files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from funasr.frontends.wav_frontend import WavFrontend, load_cmvn
from funasr.utils.timestamp_tools import ts_prediction_lfr6_standard
from hypothesis import given, settings
from hypothesis import strategies as st

from starter.alignment import align
from starter.paraformer_data import TOKENS, encode, filter_bank
from starter.paraformer_evaluation import Recognizer
from starter.paraformer_loss import alpha_targets, firing_times
from starter.paraformer_model import FEATURE_SIZE, build, export, stack_frames


@given(st.integers(400, 40_000), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_stacked_features_are_those_of_the_front_end(length: int, seed: int) -> None:
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, length).astype(np.float32)
    frontend = WavFrontend(fs=16000, window="hamming", n_mels=80, lfr_m=7, lfr_n=6, dither=0.0)
    expected, _ = frontend(torch.from_numpy(samples)[None], torch.tensor([length]))
    np.testing.assert_allclose(stack_frames(filter_bank(samples, 0.0)), expected[0].numpy(), rtol=1e-5)


def test_firing_as_trained_gives_back_the_character_times() -> None:
    begins = torch.tensor([5.0, 8.5, 11.2, 40.0, 43.3])
    ends = torch.tensor([8.0, 11.0, 14.0, 43.0, 46.0])
    frames = 60
    alphas = alpha_targets(firing_times(begins, ends, frames), frames)
    assert alphas.min() >= 0
    assert float(alphas.sum()) == pytest.approx(6, abs=1e-3)
    running = alphas.cumsum(0)
    fired = torch.zeros(frames)
    fired[[int(torch.nonzero(running >= count - 1e-4)[0]) for count in range(1, 7)]] = 1.0
    _, times = ts_prediction_lfr6_standard(alphas, fired, list("一二三四五"), upsample_rate=1)
    for (begin, _), expected in zip(times, begins.tolist(), strict=True):
        assert abs(begin - 60 * expected) <= 45


def test_firing_times_leave_room_for_every_token_in_a_short_clip() -> None:
    firing = firing_times(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 2.0, 3.0]), 4)
    assert torch.all(firing.diff() > 0)
    assert float(firing[-1]) <= 4


@given(st.text("一二三四", max_size=12), st.text("一二三四", max_size=12))
def test_alignment_keeps_equal_characters_in_order(reference: str, hypothesis: str) -> None:
    errors, kept = align(reference, hypothesis)
    assert max(len(reference), len(hypothesis)) - len(kept) >= errors - len(kept)
    assert all(reference[here] == hypothesis[there] for here, there in kept)
    assert kept == sorted(kept)
    assert errors == align(hypothesis, reference)[0]
    assert abs(len(reference) - len(hypothesis)) <= errors <= max(len(reference), len(hypothesis))


def test_an_exported_directory_is_loaded_with_the_weights_and_statistics_it_was_given(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(ctc_weight=0.5)
    mean = np.linspace(5, 9, FEATURE_SIZE, dtype=np.float32)
    deviation = np.linspace(2, 4, FEATURE_SIZE, dtype=np.float32)
    directory = tmp_path / "model"
    export(directory, model.state_dict(), mean, deviation)

    assert sorted(path.name for path in directory.iterdir()) == [
        "am.mvn",
        "config.yaml",
        "configuration.json",
        "model.pt",
        "tokens.json",
    ]
    assert (directory / "model.pt").stat().st_size < 12e6
    assert json.loads((directory / "tokens.json").read_text("utf-8")) == list(TOKENS)
    shift, scale = load_cmvn(str(directory / "am.mvn")).numpy()
    np.testing.assert_allclose(-shift, mean, atol=1e-5)
    np.testing.assert_allclose(1 / scale, deviation, rtol=1e-4)
    recognizer = Recognizer(directory, threads=1)
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, 16000).astype(np.float32)
    assert set(recognizer.text(samples)) <= set(TOKENS)


def test_token_ids_follow_the_token_list() -> None:
    assert [TOKENS[token] for token in encode("你好")] == ["你", "好"]
    with pytest.raises(KeyError):
        encode("X")
