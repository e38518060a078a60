"""Models of telephone speech get the lower half of the band, at 8 kHz, and tell times as all others do."""

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soxr
import torch

from benchmarks.full_size import write_checkpoint
from deployments.engines.base import SAMPLE_RATE, Pcm, SpeechSpan, VadBlock, VadOptions
from deployments.engines.features import Frontend
from deployments.engines.frontend_online import OnlineFrontend
from deployments.engines.half_rate import CONTEXT, half_count, halved, halved_inside
from deployments.engines.paraformer_torch import ParaformerTorchEngine
from deployments.engines.vad_fsmn import FsmnVadEngine
from tests.test_features import CONF, kaldi_features, sound
from tests.test_paraformer_engine import TOKENS, speech_like, spread_out, texts, tiny_config
from tests.vad_models import bursts, write_model

TELEPHONE = 8000
CONF_8K = {**CONF, "fs": TELEPHONE}


def at_8k(samples: Pcm) -> npt.NDArray[np.float32]:
    """As FunASR wants it: full scale at 1."""
    return np.asarray(halved(torch.from_numpy(samples.astype(np.float32))) / 32768, np.float32)


@pytest.mark.parametrize(("hertz", "decibel"), [(100, 0), (1000, 0), (3300, 0), (4100, -70), (6000, -70)])
def test_what_a_telephone_carries_passes_and_nothing_else(hertz: int, decibel: int) -> None:
    at = torch.arange(SAMPLE_RATE, dtype=torch.float64) / SAMPLE_RATE
    tone = torch.sin(2 * torch.pi * hertz * at).float()
    inside = halved(tone)[200:-200]
    level = 20 * float(torch.log10(inside.abs().max() + 1e-9))
    assert level < decibel or (decibel == 0 and level == pytest.approx(0, abs=0.1))
    if decibel == 0:
        torch.testing.assert_close(inside, tone[::2][200:-200], atol=0.01, rtol=0)  # and not a sample late


@pytest.mark.parametrize("samples", [0, 1, 2, 127, 128, 129, 8191, 8193, 20_001])
def test_half_as_many_samples_however_a_recording_is_cut(samples: int) -> None:
    recording = torch.from_numpy(sound("noise", samples).astype(np.float32))
    whole = halved(recording)
    assert len(whole) == half_count(samples)
    around = torch.nn.functional.pad(recording, (CONTEXT, CONTEXT))
    cuts = [0, *sorted(2 * cut for cut in random.Random(samples).choices(range(len(whole) + 1), k=3)), 10**6]
    parts = [halved_inside(around[a : b + 2 * CONTEXT]) for a, b in itertools.pairwise(cuts)]
    torch.testing.assert_close(torch.cat(parts), whole, atol=0.01, rtol=1e-5)


@pytest.mark.parametrize("kind", ["silence", "noise", "faint", "square", "click"])
def test_features_are_those_of_funasr_at_8_khz(kind: str) -> None:
    samples = sound(kind, 24_000)
    frontend = Frontend(CONF_8K, None)
    features = frontend(samples)
    assert features.shape == (frontend.frames(len(samples)), 560)
    assert frontend.frame_ms == 60
    halves = np.round(at_8k(samples) * 32768).astype(np.int16)
    rounded = Frontend(CONF_8K, None).features(torch.from_numpy(halves.astype(np.float32)))
    torch.testing.assert_close(rounded, kaldi_features(halves, CONF_8K, None), atol=1e-3, rtol=0)


def test_a_call_that_came_at_8_khz_sounds_to_the_model_as_if_it_had_never_been_converted() -> None:
    call = speech_like(3, 4)[::2]
    received = np.round(soxr.resample(call.astype(np.float64), TELEPHONE, SAMPLE_RATE)).astype(np.int16)
    ours = Frontend(CONF_8K, None)(received)
    direct = kaldi_features(call, CONF_8K, None)
    assert float((ours - direct).abs().median()) < 0.02


def test_models_of_live_speech_are_not_of_that_kind() -> None:
    with pytest.raises(ValueError, match="fs 16000"):
        OnlineFrontend(CONF_8K, None)


@pytest.mark.parametrize("model", ["Paraformer", "BiCifParaformer"])
def test_paraformer_gives_what_funasr_gives_at_8_khz(model: str, tmp_path: Path) -> None:
    from funasr import AutoModel

    config = tiny_config(model)
    config["frontend_conf"] |= {"fs": TELEPHONE}
    write_checkpoint(tmp_path, config, TOKENS, spread_out, dtype=torch.float32)
    engine = ParaformerTorchEngine(tmp_path, threads=1, precision="fp32")
    options: dict[str, Any] = {"disable_update": True, "disable_pbar": True, "device": "cpu", "ncpu": 1}
    funasr = AutoModel(model=str(tmp_path), log_level="ERROR", **options)
    segments = [speech_like(seconds, seed) for seed, seconds in enumerate((6, 0.4, 2.5))]
    recognitions = engine.transcribe(segments)
    assert engine.transcribe(segments[:1])[0].words[:3] == recognitions[0].words[:3]
    for segment, recognition in zip(segments, recognitions, strict=True):
        (expected,) = funasr.generate(input=at_8k(segment), fs=TELEPHONE, output_timestamp=True)
        assert texts(recognition) == expected["text"].split()
        if model == "BiCifParaformer":
            begins = [word.begin_ms for word in recognition.words]
            assert begins == pytest.approx([max(begin, 0) for begin, _ in expected["timestamp"]], abs=11)
    assert len(recognitions[0].words) > 10
    assert recognitions[0].words[-1].end_ms > 5000


def spans_of(engine: FsmnVadEngine, samples: Pcm, cuts: list[int], options: VadOptions) -> list[SpeechSpan]:
    spans: list[SpeechSpan] = []
    state = None
    edges = [0, *cuts, len(samples)]
    for begin, end in itertools.pairwise(edges):
        (result,) = engine.detect([VadBlock(samples[begin:end], state, end == len(samples), options)])
        spans += result.spans
        state = result.state
    assert state is None
    return spans


@pytest.mark.parametrize("detector", [{}, {"decibel_thres": -10.0}], ids=["", "levels"])
def test_voice_activity_is_what_funasr_finds_at_8_khz(detector: dict[str, Any], tmp_path: Path) -> None:
    from funasr import AutoModel

    model_dir = write_model(tmp_path, rate=TELEPHONE, **detector)
    engine = FsmnVadEngine(model_dir, threads=1)
    funasr = AutoModel(model=str(model_dir), disable_update=True, disable_pbar=True, ncpu=1)
    found = 0
    for seed in range(6):
        samples = bursts(seed, 11.025)  # of which the last frame takes the last sample
        for options in (VadOptions(), VadOptions(max_end_silence_ms=300)):
            (expected,) = funasr.generate(
                input=at_8k(samples), fs=TELEPHONE, max_end_silence_time=options.max_end_silence_ms
            )
            whole = spans_of(engine, samples, [], options)
            assert [[span.begin_ms, span.end_ms] for span in whole] == expected["value"]
            found += len(whole)
            dice = random.Random(seed)
            cuts = sorted(dice.choices(range(len(samples)), k=20))
            assert spans_of(engine, samples, cuts, options) == whole
    assert found > 20
