"""The online recognizer: it is trained on what FunASR's chunks compute, and the shipped weights hear well."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from starter import noise
from starter.paraformer_batches import Batch
from starter.paraformer_data import TOKENS, encode, filter_bank
from starter.paraformer_evaluation import count_errors
from starter.paraformer_loss import alpha_targets, in_time
from starter.paraformer_model import FEATURE_SIZE, export, stack_frames
from starter.paraformer_streaming_evaluation import StreamingRecognizer
from starter.paraformer_streaming_model import ARCHITECTURE, LIVE, build, read_statistics, start_from_offline
from starter.paraformer_streaming_training import longer_pauses, losses
from starter.paraformer_streaming_windows import Chunking, transcribe
from starter.paraformer_testsets import TestSets, degraded
from starter.registry import MODELS_DIR
from starter.voices import SEEN_VOICES, UNSEEN_VOICES, Voice
from tests.espeak import needs_espeak

MODEL_DIR, OFFLINE_DIR = MODELS_DIR / "paraformer-streaming", MODELS_DIR / "paraformer"
CHUNKINGS = (LIVE, Chunking(5, 10, 5), Chunking(8, 8, 4))


@pytest.fixture(scope="module")
def recognizer() -> StreamingRecognizer:
    return StreamingRecognizer(MODEL_DIR, threads=1)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights whose predictor fires every few frames, so that every sound has a text."""
    torch.manual_seed(3)
    model = build(ctc_weight=0.0)
    with torch.no_grad():
        model.predictor.cif_output.weight *= 20
        model.predictor.cif_output.bias.fill_(-1.5)
        for parameter in model.decoder.parameters():
            parameter *= 2
    directory = tmp_path_factory.mktemp("untrained") / "model"
    mean, deviation = read_statistics(OFFLINE_DIR)
    export(directory, model.state_dict(), mean, deviation, ARCHITECTURE)
    return directory


def _sound(seconds: float, seed: int) -> NDArray[np.float32]:
    """Noise whose level and color change several times a second."""
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal(max(400, int(seconds * 16000)))
    levels = np.repeat(10 ** rng.uniform(-3, -0.5, len(samples) // 1600 + 1), 1600)[: len(samples)]
    return np.asarray(np.cumsum(samples * levels) % 0.5 - 0.25, np.float32)


@pytest.mark.parametrize("chunking", CHUNKINGS, ids=str)
def test_training_computes_what_a_live_session_computes(untrained: Path, chunking: Chunking) -> None:
    model = build(ctc_weight=0.0).eval()
    weights = torch.load(untrained / "model.pt", weights_only=True)
    model.load_state_dict({key: value.float() for key, value in weights.items()})
    mean, deviation = read_statistics(untrained)
    live = StreamingRecognizer(untrained, 1, (chunking.left, chunking.stride, chunking.right))

    # 1.2 s ends with a chunk, which leaves a last one of look-ahead frames alone. After 1.0 s the front end
    # would drop the 40 ms behind the last chunk of eight frames.
    sounds = [_sound(seconds, seed) for seed, seconds in enumerate((0.3, 1.05, 1.2, 1.92, 3.71, 6.4))]
    features = [(stack_frames(filter_bank(sound, 0.0)) - mean) / deviation for sound in sounds]
    lengths = torch.tensor([len(part) for part in features])
    speech = torch.zeros(len(features), int(lengths.max()), FEATURE_SIZE)
    for row, part in enumerate(features):
        speech[row, : len(part)] = torch.from_numpy(part)

    ours = ["".join(TOKENS[token] for token in ids) for ids in transcribe(model, speech, lengths, chunking)]
    assert ours == [live.text(sound) for sound in sounds]
    assert len(set("".join(ours))) > 5


@given(st.lists(st.floats(0.5, 8.0), min_size=1, max_size=12), st.floats(0, 20), st.integers(0, 30))
@settings(max_examples=50, deadline=None)
def test_weights_to_learn_fire_every_token_and_rest_between_whole_numbers(
    gaps: list[float], start: float, pause: int
) -> None:
    begins = start + torch.tensor(gaps).cumsum(0)
    frames = int(begins[-1]) + 12 + pause
    targets = alpha_targets(in_time(begins, frames), frames, ended=False)
    assert float(targets.min()) >= 0
    rest = float(targets.sum()) - len(gaps)
    # The tail of 0.45 that ends a session must neither fire one more token nor be needed for the last.
    assert 0 <= rest < 0.5


def _batch(texts: list[str], frames: int) -> Batch:
    torch.manual_seed(0)
    lengths = torch.tensor([len(text) for text in texts])
    ids = torch.full((len(texts), max(1, int(lengths.max()))), -1)
    begins = [4 + 3.5 * torch.arange(len(text), dtype=torch.float32) for text in texts]
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.from_numpy(encode(text))
    ends = [times + 3 for times in begins]
    speech = torch.randn(len(texts), frames, FEATURE_SIZE)
    return Batch(speech, torch.full((len(texts),), frames), ids, lengths, begins, ends)


def test_the_loss_falls_and_stands_clips_without_speech() -> None:
    torch.manual_seed(1)
    model = build(ctc_weight=0.5)
    start_from_offline(model, OFFLINE_DIR)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batch = _batch(["", "今天", "明天上午"], frames=37)
    totals = []
    for _ in range(12):
        terms = losses(model, batch)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        totals.append(float(terms.total.detach()))
    assert totals[-1] < 0.5 * totals[0]
    silent = losses(model, _batch(["", ""], frames=20))
    silent.total.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def test_longer_pauses_move_the_times_with_the_speech() -> None:
    features = np.zeros((300, 80), np.float32)
    features[100:200] = 1 + np.arange(100, dtype=np.float32)[:, None]
    times = np.array([[1.0, 1.5], [1.5, 2.0]], np.float32)
    lengths = set()
    for seed in range(20):
        longer, moved = longer_pauses(features, times, np.random.default_rng(seed))
        first = round(float(moved[0, 0]) * 100)
        np.testing.assert_array_equal(longer[first : first + 100], features[100:200])
        assert not longer[:first].any()
        assert not longer[first + 100 :].any()
        assert 300 <= len(longer) <= 450
        lengths.add(len(longer))
    assert len(lengths) > 3


def test_the_first_weights_are_those_of_the_offline_model(tmp_path: Path) -> None:
    model = build(ctc_weight=0.5)
    start_from_offline(model, OFFLINE_DIR)
    weights = torch.load(OFFLINE_DIR / "model.pt", weights_only=True)
    assert torch.equal(model.encoder.after_norm.weight, weights["encoder.after_norm.weight"].float())
    del weights["encoder.after_norm.weight"]
    torch.save(weights, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"missing .*after_norm"):
        start_from_offline(model, tmp_path)


def test_the_shipped_directory_shares_tokens_and_statistics_with_the_offline_model() -> None:
    for name in ("tokens.json", "am.mvn"):
        assert (MODEL_DIR / name).read_bytes() == (OFFLINE_DIR / name).read_bytes()
    assert yaml.safe_load((MODEL_DIR / "config.yaml").read_text("utf-8")) == ARCHITECTURE
    assert json.loads((MODEL_DIR / "training.json").read_text("utf-8"))["parameters"] > 1_000_000
    assert "paraformer-streaming" in (MODEL_DIR / "README.md").read_text("utf-8")
    assert (MODEL_DIR / "model.pt").stat().st_size < 10e6


@needs_espeak
@pytest.mark.parametrize(
    ("voices", "most"), [(SEEN_VOICES, 8.0), (UNSEEN_VOICES, 16.0)], ids=["seen", "unseen"]
)
def test_shipped_weights_transcribe_chunks_of_600_ms(
    recognizer: StreamingRecognizer, voices: tuple[Voice, ...], most: float
) -> None:
    clips = degraded(TestSets("test", 11).sentences(25, voices), "light", 11)
    tally = count_errors(recognizer, clips, "sentences")
    assert tally.cer <= most
    assert tally.invented_first <= 1


@needs_espeak
def test_text_comes_while_the_sentence_is_spoken(recognizer: StreamingRecognizer) -> None:
    talk = TestSets("test", 12).talks(1, 10, SEEN_VOICES)[0]
    answers = list(recognizer.answers(talk.samples))
    early = "".join(text for seconds, text in answers if seconds <= 5)
    spoken_before = int(np.sum(talk.times[:, 1] <= 3.5))
    assert len(early) >= 0.8 * spoken_before > 0


@pytest.mark.parametrize("kind", ["silence", "white", "pink", "hum"])
def test_shipped_weights_invent_no_text(recognizer: StreamingRecognizer, kind: str) -> None:
    rng = np.random.default_rng(5)
    clips = [noise.noise_clip(float(rng.uniform(1, 6)), rng, kind) for _ in range(5)]
    assert [text for clip in clips if (text := recognizer.text(clip))] == []
