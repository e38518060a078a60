"""The features are those of Kaldi, as FunASR computes them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.engines.base import Pcm
from deployments.engines.features import Frontend

CONF: dict[str, Any] = {
    "fs": 16000,
    "window": "hamming",
    "n_mels": 80,
    "frame_length": 25,
    "frame_shift": 10,
    "lfr_m": 7,
    "lfr_n": 6,
    "dither": 0.0,
}


def kaldi_features(samples: Pcm, conf: dict[str, Any], cmvn: npt.NDArray[np.float32] | None) -> torch.Tensor:
    from funasr.frontends.wav_frontend import WavFrontend

    frontend = WavFrontend(**conf)
    frontend.cmvn = None if cmvn is None else torch.from_numpy(cmvn)
    waveform = torch.from_numpy(samples.astype(np.float32) / (1 << 15))
    features: torch.Tensor = frontend(waveform[None], torch.tensor([len(samples)]))[0][0]
    return features


def sound(kind: str, samples: int, seed: int = 0) -> Pcm:
    rng = np.random.default_rng(seed)
    at = np.arange(samples)
    wave = {
        "silence": np.zeros(samples),
        "constant": np.full(samples, 12_000),
        "noise": rng.normal(0, 4000, samples),
        "faint": rng.normal(0, 2, samples),
        "sine": 30_000 * np.sin(0.3 * at),
        "square": 32_767 * np.sign(np.sin(0.01 * at)),
        "click": np.where(at == samples // 2, 32_767, 0),
    }[kind]
    return np.asarray(np.clip(wave, -32_768, 32_767), dtype=np.int16)


@pytest.mark.parametrize("kind", ["silence", "constant", "noise", "faint", "sine", "square", "click"])
def test_equals_kaldi_on_every_kind_of_signal(kind: str) -> None:
    samples = sound(kind, 24_000)
    torch.testing.assert_close(
        Frontend(CONF, None)(samples), kaldi_features(samples, CONF, None), atol=1e-3, rtol=0
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(samples=st.integers(400, 9000), stack=st.sampled_from([(7, 6), (5, 1), (1, 1)]))
def test_equals_kaldi_at_every_length_and_stacking(samples: int, stack: tuple[int, int]) -> None:
    conf = {**CONF, "lfr_m": stack[0], "lfr_n": stack[1]}
    cmvn = np.random.default_rng(1).normal(1, 0.2, (2, 80 * stack[0])).astype(np.float32)
    signal = sound("noise", samples, seed=samples)
    frontend = Frontend(conf, cmvn)
    features = frontend(signal)
    assert features.shape == (frontend.frames(samples), frontend.size)
    torch.testing.assert_close(features, kaldi_features(signal, conf, cmvn), atol=1e-3, rtol=0)


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_less_than_one_window_gives_no_features(samples: int) -> None:
    frontend = Frontend(CONF, None)
    assert frontend(np.zeros(samples, np.int16)).shape == (0, 560) == (frontend.frames(samples), 560)


def test_dither_has_the_configured_amplitude_and_is_the_same_every_time() -> None:
    silence = sound("silence", 16_000 * 20)
    quiet, loud = (Frontend({**CONF, "dither": dither}, None)(silence) for dither in (1.0, 4.0))
    torch.testing.assert_close(quiet, Frontend({**CONF, "dither": 1.0}, None)(silence), atol=0, rtol=0)
    # Four times the amplitude is 2 ln 4 more log energy, in every band and wherever in a long recording.
    torch.testing.assert_close(loud - quiet, torch.full_like(quiet, 2 * np.log(4.0)), atol=1e-2, rtol=0)
    expected = kaldi_features(silence, {**CONF, "dither": 1.0}, None)
    assert abs(float(quiet.mean() - expected.mean())) < 0.05


def test_dither_defaults_to_that_of_kaldi() -> None:
    conf = {key: value for key, value in CONF.items() if key != "dither"}
    silence = sound("silence", 16_000)
    assert torch.equal(Frontend(conf, None)(silence), Frontend({**conf, "dither": 1.0}, None)(silence))


def test_leaves_the_samples_alone() -> None:
    samples = sound("noise", 16_000)
    before = samples.copy()
    Frontend({**CONF, "dither": 1.0}, None)(samples)
    np.testing.assert_array_equal(samples, before)


@pytest.mark.parametrize("wrong", [{"fs": 44100}, {"window": "hanning"}])
def test_refuses_what_it_does_not_compute(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="hamming"):
        Frontend({**CONF, **wrong}, None)
