"""The voice activity starter model: its training data, and the shipped weights through funasr.AutoModel."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from funasr.frontends.wav_frontend import WavFrontendOnline

from starter import noise, training, vad
from starter.augment import SAMPLE_RATE, Samples, add_noise
from starter.registry import MODELS_DIR, TrainOptions
from starter.synth import Utterance
from starter.vad_data import ClipMaker, Features, frame_labels, speech_spans, stack
from starter.vad_evaluate import Detector
from starter.voices import UNSEEN_VOICES
from tests.espeak import needs_espeak

MODEL_DIR = MODELS_DIR / "fsmn-vad"


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(MODEL_DIR)


def test_spans_join_short_gaps_and_leave_silent_closures_out() -> None:
    samples = np.zeros(2 * SAMPLE_RATE, np.float32)
    for begin, end in ((0.14, 0.30), (0.30, 0.50), (0.60, 0.80), (1.20, 1.50)):
        samples[round(begin * SAMPLE_RATE) : round(end * SAMPLE_RATE)] = 0.5
    # The first character begins with 40 ms of closure; 100 ms of pause are joined, 400 ms are not.
    utterance = Utterance(samples, [(0.10, 0.30), (0.30, 0.50), (0.60, 0.80), (1.20, 1.50)])
    assert np.ravel(speech_spans(utterance)) == pytest.approx([0.14, 0.80, 1.20, 1.50], abs=0.011)


def test_frame_labels_follow_window_centers() -> None:
    labels = frame_labels([(0.10, 0.20)], 40)
    speech = np.flatnonzero(labels)
    assert 0.10 <= speech[0] * 0.010 + 0.0125 < 0.111
    assert 0.189 < speech[-1] * 0.010 + 0.0125 < 0.20
    assert len(speech) == 10


def test_training_features_equal_the_front_ends_of_the_exported_model() -> None:
    samples = noise.noise_clip(1.0, np.random.default_rng(0), "pink")
    audio = torch.from_numpy(samples)[None]
    frontend = WavFrontendOnline(**vad.FRONTEND)
    expected, _ = frontend(audio, torch.tensor([audio.shape[1]]), is_final=True, cache={})
    mel = torch.from_numpy(Features(vad.FRONTEND).mel(samples))[None]
    assert torch.equal(stack(mel), expected)


@needs_espeak
def test_training_clips_are_seeded_and_say_where_the_speech_is() -> None:
    maker = ClipMaker(3, "test", UNSEEN_VOICES)
    clip = maker.clean_clip(15.0, (0.5, 1.0))
    assert len(clip.utterances) >= 2
    assert len(clip.samples) == 15 * SAMPLE_RATE
    labels = np.repeat(frame_labels(clip.spans, 1500), SAMPLE_RATE // 100)
    energy = clip.samples.astype(np.float64) ** 2
    assert energy[~labels].mean() < 0.05 * energy[labels].mean()


@needs_espeak
def test_training_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vad, "_CLIPS", 16)
    monkeypatch.setattr(vad, "_CLIP_SECONDS", 3.0)
    monkeypatch.setattr(vad, "_WARMUP", 2)
    monkeypatch.setattr(training, "_CHECKPOINT_EVERY", 3)

    def weights(name: str) -> dict[str, torch.Tensor]:
        options = TrainOptions(tmp_path / name, tmp_path / f"{name}-work", minutes=0.05, processes=1, seed=1)
        vad.train(options)
        return dict(torch.load(options.output / "model.pt"))

    whole = weights("whole")
    # The clips of a second maker in the same process differ a little: see Synthesizer.speak.
    shutil.copytree(tmp_path / "whole-work", tmp_path / "broken-work", ignore=shutil.ignore_patterns("*.pt"))
    rate = training.Schedule.rate

    def interrupt(schedule: training.Schedule, step: int) -> float:
        if step == 4:
            raise KeyboardInterrupt
        return rate(schedule, step)

    with monkeypatch.context() as broken:
        broken.setattr(training.Schedule, "rate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            weights("broken")
    resumed = weights("broken")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@needs_espeak
def test_the_shipped_model_finds_utterances_of_unseen_voices(detector: Detector) -> None:
    maker = ClipMaker(11, "test", UNSEEN_VOICES)
    right = frames = 0
    for seed in range(4):
        clip = maker.clean_clip(12.0, (1.3, 2.0))
        samples = add_noise(clip.samples, 20.0, np.random.default_rng(seed))
        found = detector.segments(samples)
        assert len(found) == len(clip.utterances)
        assert np.abs(np.array(found) - np.array(clip.utterances)).max() < 0.4
        decided = detector.speech_frames(samples)
        right += int((decided == frame_labels(clip.spans, len(decided))).sum())
        frames += len(decided)
    assert right / frames > 0.95


@pytest.mark.parametrize("kind", list(noise.KINDS))
def test_the_shipped_model_hears_no_speech_in_noise(detector: Detector, kind: str) -> None:
    rng = np.random.default_rng(5)
    taken = sum(
        end - begin for _ in range(5) for begin, end in detector.segments(noise.noise_clip(4.0, rng, kind))
    )
    assert taken / 20 <= 0.05


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(480, np.float32),
        np.zeros(SAMPLE_RATE, np.float32),
        np.ones(SAMPLE_RATE, np.float32),
        np.sign(np.sin(np.arange(SAMPLE_RATE) * 0.05)).astype(np.float32),
        np.tile(np.array([1, -1], np.float32), SAMPLE_RATE // 2),
        np.eye(1, SAMPLE_RATE, SAMPLE_RATE // 2, dtype=np.float32)[0],
        np.random.default_rng(0).uniform(-1, 1, SAMPLE_RATE).astype(np.float32),
    ],
    ids=["30 ms", "silence", "full-scale DC", "square wave", "Nyquist", "impulse", "full-scale noise"],
)
def test_no_signal_makes_the_shipped_model_fail(detector: Detector, samples: Samples) -> None:
    # A posterior of exactly 0 or 1 would end in math.log(0) inside FunASR.
    detector.segments(samples)


def test_the_shipped_model_loads_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("loading the model asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert Detector(MODEL_DIR).segments(np.zeros(SAMPLE_RATE, np.float32)) == []
