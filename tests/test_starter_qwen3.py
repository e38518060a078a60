"""The starter Qwen3 models load in the package, and their training computes what the package does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qwen_asr import Qwen3ASRModel, Qwen3ForcedAligner
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor

from starter.qwen3_alignments import Aligner, time_errors
from starter.qwen3_batches import (
    IGNORE,
    Item,
    character_spans,
    collect_audio,
    cut,
    cut_begin,
    frame_targets,
    windows_of,
)
from starter.qwen3_data import FRAMES_PER_SECOND, log_mel, split_marks
from starter.qwen3_evaluation import character_errors
from starter.qwen3_forward import encode, run_text
from starter.qwen3_layout import CLASSES, write_random
from starter.qwen3_prompts import PromptWriter
from starter.qwen3_recognizer import Recognizer, split_windows, text_of
from starter.qwen3_testsets import held_out
from starter.qwen3_tokenizer import added_tokens, character_id, load_tokenizer, write_tokenizer
from starter.registry import MODELS_DIR
from starter.text import CHARACTERS, MARKS
from starter.voices import SEEN_VOICES

_CLIP = np.random.default_rng(5).uniform(-0.1, 0.1, int(8.7 * 16_000)).astype(np.float32)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    return load_tokenizer(directory)


@pytest.fixture(scope="module")
def random_asr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("asr") / "model"
    write_random(directory, aligner=False)
    return directory


def _sentence() -> Item:
    ids, marks = split_marks("今天，下雨吗？")
    times = np.array([(0.3, 0.5), (0.5, 0.7), (0.9, 1.1), (1.1, 1.3), (1.3, 1.5)], np.float32)
    mel = np.zeros((2 * FRAMES_PER_SECOND, 128), np.float32)
    return Item(mel, ids, marks, times, (0.0, 2.0))


def test_every_character_and_mark_is_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    for character in (*CHARACTERS, *MARKS):
        assert tokenizer(character).input_ids == [character_id(character)]
    whole = "".join(CHARACTERS)
    assert tokenizer(whole).input_ids == [character_id(character) for character in whole]


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=40))
@settings(deadline=None)
def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    normal = tokenizer.backend_tokenizer.normalizer.normalize_str(text)
    assert tokenizer.decode(tokenizer(text).input_ids) == normal


def test_the_answer_tag_is_kept_and_the_chat_tokens_are_not(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("<|im_start|>language Chinese<asr_text>好<timestamp><|im_end|>").input_ids
    assert len(ids) == 7
    assert tokenizer.decode(ids, skip_special_tokens=True) == "language Chinese<asr_text>好<timestamp>"


def test_cached_energies_are_whispers() -> None:
    extract = WhisperFeatureExtractor(feature_size=128)
    expected = extract(_CLIP, sampling_rate=16_000, padding="longest", truncation=False, return_tensors="np")
    (window,) = windows_of(log_mel(_CLIP), whole=True)
    np.testing.assert_allclose(window.T, expected["input_features"][0], atol=1e-5)


@pytest.mark.parametrize("whole", [False, True])
def test_training_computes_what_the_package_does(random_asr: Path, whole: bool) -> None:
    package = Qwen3ASRModel.from_pretrained(str(random_asr), dtype=torch.float32)
    thinker = package.model.thinker
    windows = [_CLIP] if whole else split_windows(_CLIP)
    prompt = package._build_text_prompt(context="天气", force_language="Chinese")
    pad = "<|audio_pad|>"
    inputs = package.processor(
        text=[prompt.replace(pad, pad * len(windows))], audio=windows, return_tensors="pt", padding=True
    )
    mels = [log_mel(window) for window in windows]
    audio = collect_audio([[normal for mel in mels for normal in windows_of(mel, whole=whole)]])
    with torch.inference_mode():
        expected = thinker(**inputs).logits
        here = (inputs["input_ids"] == added_tokens()[pad])[..., None]
        words = functional.embedding(inputs["input_ids"], thinker.model.embed_tokens.weight)
        states = run_text(thinker.model, words.masked_scatter(here, encode(thinker.audio_tower, audio)), None)
        found = states.hidden @ thinker.lm_head.weight.T
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_a_random_recognizer_answers_and_is_laid_out_as_on_the_hub(random_asr: Path) -> None:
    config = json.loads((random_asr / "config.json").read_text("utf-8"))
    assert config["architectures"] == ["Qwen3ASRForConditionalGeneration"]
    assert len(config["support_languages"]) == 30
    assert config["thinker_config"]["audio_token_id"] == added_tokens()["<|audio_pad|>"]
    package = Qwen3ASRModel.from_pretrained(str(random_asr), dtype=torch.float32, max_new_tokens=4)
    (answer,) = package.transcribe((_CLIP, 16_000), language="Chinese")
    assert answer.language == "Chinese"


def test_a_random_aligner_gives_each_word_a_time(tmp_path: Path) -> None:
    write_random(tmp_path / "model", aligner=True)
    package = Qwen3ForcedAligner.from_pretrained(str(tmp_path / "model"), dtype=torch.float32)
    assert package.model.thinker.lm_head.weight.shape[0] == CLASSES
    (result,) = package.align((_CLIP, 16_000), "今天 hello，天气", "Chinese")
    assert [item.text for item in result] == ["今", "天", "hello", "天", "气"]


def test_a_cut_clip_keeps_what_was_heard() -> None:
    early = cut(_sentence(), 72)
    assert early.ids.tolist() == split_marks("今天")[0].tolist()
    assert early.marks.tolist() == [-1, -1]
    assert early.known == pytest.approx((0.0, 0.72))
    later = cut(_sentence(), 120)
    assert len(later.ids) == 3
    assert later.marks[1] == character_id("，")
    assert later.known == pytest.approx((0.0, 1.1))
    assert cut(_sentence(), 180).marks[-1] == character_id("？")
    begun = cut_begin(_sentence(), 100)
    assert begun.ids.tolist() == split_marks("雨吗")[0].tolist()
    assert begun.known == pytest.approx((0.1, 1.0))
    np.testing.assert_allclose(begun.times[0], (0.1, 0.3), atol=1e-6)


def test_embeddings_know_their_characters_and_characters_their_embeddings() -> None:
    item = _sentence()
    (times,) = collect_audio([windows_of(item.mel, whole=False)]).times
    targets = frame_targets(item, times, blank=0)
    assert len(times) == 26
    for (first, last), token, (begin, end) in zip(
        character_spans(item, times), item.ids, item.times, strict=True
    ):
        middle = np.flatnonzero((times > begin + 0.04) & (times < end - 0.04))
        assert set(targets[middle]) == {token}
        assert first <= middle[0]
        assert middle[-1] <= last
    assert set(targets[times < 0.3]) == {0}


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_a_request_trains_its_answer_alone(tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    item = _sentence()
    (times,) = collect_audio([windows_of(item.mel, whole=False)]).times
    example = PromptWriter(tokenizer, np.random.default_rng(seed)).example(item, times)
    learned = example.labels[example.labels != IGNORE]
    answer = tokenizer.decode(learned, skip_special_tokens=True)
    request = tokenizer.decode(example.ids[: len(example.ids) - len(learned)])
    assert (request + answer).endswith("<asr_text>今天，下雨吗？")
    assert request.startswith("<|im_start|>system\n")
    assert example.labels[example.queries].tolist() == item.ids.tolist()
    assert example.ids[example.audio] == added_tokens()["<|audio_pad|>"]


def test_the_shipped_models_understand_held_out_speech() -> None:
    asr, aligner = MODELS_DIR / "qwen3-asr", MODELS_DIR / "qwen3-forced-aligner"
    recognizer = Recognizer(asr)
    clips = held_out("test", 8, SEEN_VOICES, 11)
    answers = recognizer.answers([clip.samples for clip in clips])
    assert all(answer.startswith("language Chinese<asr_text>") for answer in answers)
    assert character_errors(clips, [text_of(answer) for answer in answers]) <= 12
    silence = np.zeros(24_000, np.float32)
    assert recognizer.answers([silence]) == ["language None<asr_text>"]
    begins, ends = time_errors(Aligner(aligner), clips)
    assert np.median(begins) <= 120
    assert np.median(ends) <= 120
    weights = [directory / "model.safetensors" for directory in (asr, aligner)]
    assert sum(path.stat().st_size for path in weights) <= 14_000_000
