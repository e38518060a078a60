"""The speaker starter model: who it is trained on, what it is trained with, and the shipped weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import yaml

from starter.campplus_data import CROP_FRAMES, MEL_BANDS, Clips, SpeakerVoices, filter_bank, window_features
from starter.campplus_evaluate import SpeakerModel
from starter.campplus_model import (
    ARCHITECTURE,
    EMBEDDING_SIZE,
    THRESHOLD,
    MarginClassifier,
    build,
    export,
)
from starter.campplus_speakers import (
    Speaker,
    development_speakers,
    draw_variant,
    training_speakers,
    unseen_speakers,
)
from starter.campplus_training import run_process
from starter.campplus_trials import score, scores, spoken, with_noise
from starter.registry import MODELS_DIR, TrainOptions, load_facts
from starter.text import TextGenerator
from starter.voices import UNSEEN_VOICES, Voice
from tests.espeak import needs_espeak

MODEL_DIR = MODELS_DIR / "campplus"
HELD_OUT = unseen_speakers()


@pytest.fixture(scope="module")
def model() -> SpeakerModel:
    return SpeakerModel(MODEL_DIR)


def test_nobody_is_both_trained_on_and_tested_on() -> None:
    training, development = training_speakers(7), development_speakers(7)
    unseen = {voice.variant for voice in UNSEEN_VOICES}
    assert {speaker.voice.variant for speaker in HELD_OUT} == unseen
    for group, other in ((training, development), (training, HELD_OUT), (development, HELD_OUT)):
        named = [{one.voice.variant for one in part if not one.variant_file} for part in (group, other)]
        assert not named[0] & named[1]
        drawn = [{one.variant_file for one in part if one.variant_file} for part in (group, other)]
        assert not drawn[0] & drawn[1]
    assert training == training_speakers(7)
    assert len({speaker.voice.variant for speaker in training}) >= 50
    assert len(set(training)) == len(training) >= 500


def test_speakers_of_one_variant_are_far_apart() -> None:
    for speakers in (training_speakers(7), HELD_OUT):
        named = [speaker.voice for speaker in speakers if not speaker.variant_file]
        pairs = [(a, b) for a in named for b in named if a.variant == b.variant and a.name < b.name]
        assert pairs
        for one, other in pairs:
            # 50 of espeak-ng's units of pitch are an octave, and the formant shift moves the pitch too.
            octaves = (one.pitch - other.pitch) / 50 + np.log2(one.formant_shift / other.formant_shift)
            formants = abs(np.log(one.formant_shift / other.formant_shift))
            assert formants > 0.05 or 2 ** abs(octaves) > 1.18


@needs_espeak
def test_a_drawn_variant_sounds_as_its_file_says(tmp_path: Path) -> None:
    def speaker(pitch: int) -> Speaker:
        text = f"language variant\nname drawn\npitch {pitch} {pitch + 20}\n"
        return Speaker(Voice("drawn", "drawn", 215, 50, 50, 1.0), text)

    def fundamental(pitch: int) -> float:
        samples = voices.speak(speaker(pitch), TextGenerator(3), "train", 1.0, np.random.default_rng(3))
        spectrum = np.fft.rfft(samples)
        echo = np.fft.irfft(np.abs(spectrum) ** 2)
        return 16000 / float(50 + np.argmax(echo[50:260]))

    voices = SpeakerVoices(tmp_path)
    low, high = fundamental(80), fundamental(180)
    assert 1.6 < high / low < 3.2
    assert fundamental(80) == pytest.approx(low, rel=0.1)


def test_drawn_variants_follow_their_seed() -> None:
    first, again, other = (draw_variant(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other


def _clips(count: int, speakers: int, frames: int = 240) -> Clips:
    rng = np.random.default_rng(0)
    numbers = np.arange(count) % speakers
    # The speaker shows in two bands, so that there is something to learn.
    mel = rng.standard_normal((count, frames, MEL_BANDS))
    mel[np.arange(count), :, numbers] += 3 * np.sin(np.arange(frames))[None]
    starts = np.arange(count + 1) * frames
    return Clips(mel.reshape(-1, MEL_BANDS).astype(np.float16), starts, numbers)


def test_crops_are_what_inference_computes_from_a_window() -> None:
    samples = np.random.default_rng(1).uniform(-0.3, 0.3, 32000).astype(np.float32)
    cropped = filter_bank(samples)[37 : 37 + 148]
    expected = window_features(samples[37 * 160 : 37 * 160 + 24000])[0].numpy()
    np.testing.assert_allclose(cropped - cropped.mean(axis=0), expected, atol=1e-4)


def test_processes_share_out_the_clips_of_an_epoch() -> None:
    clips = _clips(48, speakers=48)
    streams = [clips.batches(8, 5, rank, 2) for rank in range(2)]
    batches = [[next(stream) for _ in range(3)] for stream in streams]
    heard = torch.cat([speakers for part in batches for _, speakers in part])
    assert sorted(heard.tolist()) == list(range(48))
    for (first, _), (second, _) in zip(*batches, strict=True):
        assert first.shape == second.shape
        assert CROP_FRAMES[0] <= first.shape[1] <= CROP_FRAMES[1]
        assert float(first.mean(dim=1).abs().max()) < 1e-3


def test_the_margin_makes_a_right_answer_harder() -> None:
    torch.manual_seed(0)
    classifier = MarginClassifier(5)
    speakers = torch.arange(5)
    # Between its own speaker and the next one, a little nearer to its own.
    weight = torch.nn.functional.normalize(classifier.weight.detach())
    embeddings = weight * 1.1 + weight.roll(1, dims=0)
    with torch.no_grad():
        results = [classifier(embeddings, speakers, margin) for margin in (0.0, 0.2, 0.4)]
        opposite, none_right = classifier(-embeddings, speakers, 0.2)
    losses = [float(loss) for loss, _ in results]
    assert losses[0] < losses[1] < losses[2] < float(opposite)
    assert [float(right) for _, right in results] == [1, 1, 1]
    assert float(none_right) == 0


def test_error_rates_of_known_embeddings() -> None:
    axes = np.eye(4, EMBEDDING_SIZE, dtype=np.float32)
    vectors = np.concatenate([axes, axes * 2])
    right = scores(vectors, np.tile(np.arange(4), 2))
    assert right.equal_error_rate() == 0
    assert right.errors_at(0.5) == (0, 0)
    assert 0 < right.threshold() <= 1
    mixed = scores(vectors, np.repeat(np.arange(2), 4))
    assert 0.3 < mixed.equal_error_rate() < 0.7


@pytest.fixture
def process_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process as the only one of a training: starting another takes longer than the training here."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@needs_espeak
@pytest.mark.usefixtures("process_group")
def test_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    data, work = tmp_path / "data", tmp_path / "work"
    data.mkdir()
    work.mkdir()
    clips = _clips(64, speakers=4)
    np.save(data / "mel.npy", clips.mel)
    np.savez(data / "clips.npz", starts=clips.starts, speakers=clips.speakers)
    steps = [0]
    for minutes in (0.01, 0.02):
        options = TrainOptions(tmp_path / "model", work, minutes, processes=1, seed=1)
        run_process(0, 1, options, data, [HELD_OUT[0], HELD_OUT[20]])
        saved = torch.load(work / "checkpoint.pt", weights_only=True)
        assert saved["state"]["seconds"] >= 60 * minutes
        steps.append(saved["state"]["step"])
    moments = [moment["step"] for moment in saved["optimizer"]["state"].values()]
    assert steps[0] < steps[1]
    assert {int(moment) for moment in moments} == {steps[-1]}


def test_an_exported_directory_has_the_weights_it_was_given(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build().eval()
    export(tmp_path / "model", network.state_dict(), threshold=0.4)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "config.yaml",
        "configuration.json",
        "model.pt",
    ]
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, 24000).astype(np.float32)
    with torch.inference_mode():
        expected = network(window_features(samples))[0].numpy()
    found = SpeakerModel(tmp_path / "model").embed(samples)
    assert scores(np.stack([expected, found]), np.zeros(2, np.int64)).same[0] > 0.999


def test_the_shipped_directory_is_whole() -> None:
    config = yaml.safe_load((MODEL_DIR / "config.yaml").read_text("utf-8"))
    assert config["model"] == "CAMPPlus"
    assert config["model_conf"] == ARCHITECTURE
    assert config[THRESHOLD] == load_facts(MODEL_DIR)[THRESHOLD]
    layout = json.loads((MODEL_DIR / "configuration.json").read_text("utf-8"))
    assert layout["file_path_metas"] == {"init_param": "model.pt", "config": "config.yaml"}
    assert (MODEL_DIR / "model.pt").stat().st_size < 2e6
    assert 0 < float(load_facts(MODEL_DIR)[THRESHOLD]) < 1
    assert f"{THRESHOLD}: {load_facts(MODEL_DIR)[THRESHOLD]}" in (MODEL_DIR / "README.md").read_text("utf-8")


@pytest.mark.parametrize("sound", ["silence", "one frame and a half", "full-scale noise"])
def test_any_sound_has_a_finite_embedding(model: SpeakerModel, sound: str) -> None:
    samples = {
        "silence": np.zeros(24000, np.float32),
        "one frame and a half": np.full(16 * 16000 // 100, 0.1, np.float32),
        "full-scale noise": np.random.default_rng(0).uniform(-1, 1, 24000).astype(np.float32),
    }[sound]
    vector = model.embed(samples)
    assert vector.shape == (EMBEDDING_SIZE,)
    assert np.isfinite(vector).all()


@needs_espeak
def test_shipped_weights_tell_unknown_speakers_apart(model: SpeakerModel) -> None:
    clips = with_noise(spoken(HELD_OUT[::3], "test", 5, seed=77), seed=77)
    pairs = score(model.embed, clips, windows=True)
    assert pairs.equal_error_rate() <= 0.10
    assert float(np.median(pairs.same)) > float(np.quantile(pairs.different, 0.97))
    missed, taken = pairs.errors_at(float(load_facts(MODEL_DIR)[THRESHOLD]))
    assert missed < 0.2
    assert taken < 0.2
