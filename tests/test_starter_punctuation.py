"""The punctuation starter model: its training data, and the shipped weights through funasr.AutoModel."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch

from starter import punctuation, training
from starter.punctuation_data import MARK_NAMES, TOKENS, label, sentences, training_batch
from starter.punctuation_evaluate import Punctuator, compare
from starter.registry import MODELS_DIR, TrainOptions
from starter.text import MARKS, split_of, strip_punctuation

MODEL_DIR = MODELS_DIR / "ct-punc"


@pytest.fixture(scope="module")
def punctuate() -> Punctuator:
    return Punctuator(MODEL_DIR)


def test_labels_are_the_marks_behind_the_characters() -> None:
    labelled = label("你好，几点了？")
    assert "".join(character for character, _ in labelled) == "你好几点了"
    assert [MARK_NAMES[mark] for _, mark in labelled] == ["_", "，", "_", "_", "？"]


def test_training_never_sees_held_out_sentences() -> None:
    assert {split_of(text) for text in islice(sentences(1, "train"), 2000)} == {"train"}
    assert {split_of(text) for text in islice(sentences(1, "test"), 50)} == {"test"}


def test_batches_are_fixed_by_their_seed_and_padded_with_zero() -> None:
    for seed in range(20):
        ids, lengths, marks = training_batch(seed)
        again = training_batch(seed)
        assert torch.equal(ids, again[0])
        assert torch.equal(marks, again[2])
        columns = torch.arange(ids.shape[1])
        inside = columns < lengths[:, None]
        assert (ids[inside] > 0).all()
        assert (marks[inside] > 0).all()
        assert not ids[~inside].any()
        assert not marks[~inside].any()
        assert int(ids.max()) < len(TOKENS)


@pytest.mark.slow
def test_training_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(punctuation, "_WARMUP", 2)
    monkeypatch.setattr(training, "_CHECKPOINT_EVERY", 2)

    def weights(name: str) -> dict[str, torch.Tensor]:
        options = TrainOptions(tmp_path / name, tmp_path / f"{name}-work", minutes=0.01, processes=1, seed=1)
        punctuation.train(options)
        return dict(torch.load(options.output / "model.pt"))

    whole = weights("whole")
    rate = training.Schedule.rate

    def interrupt(schedule: training.Schedule, step: int) -> float:
        if step == 3:
            raise KeyboardInterrupt
        return rate(schedule, step)

    with monkeypatch.context() as broken:
        broken.setattr(training.Schedule, "rate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            weights("broken")
    resumed = weights("broken")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_compare_counts_each_mark_and_refuses_other_characters() -> None:
    counts = compare("你好，几点了？", "你好。几点了？")
    assert counts["，", "true"] == counts["。", "found"] == counts["？", "right"] == 1
    assert counts["，", "right"] == 0
    with pytest.raises(ValueError, match="changed the text"):
        compare("你好。", "您好。")


@pytest.mark.parametrize("count", [1, 4, 60], ids=["sentence", "paragraph", "long stream"])
def test_the_shipped_model_punctuates_held_out_text(punctuate: Punctuator, count: int) -> None:
    source = sentences(77, "test")
    right = total = 0
    for _ in range(30 // count or 1):
        text = "".join(next(source) for _ in range(count))
        found = punctuate(strip_punctuation(text))
        counts = compare(text, found)
        right += sum(counts[mark, "right"] for mark in MARKS)
        total += sum(max(counts[mark, "true"], counts[mark, "found"]) for mark in MARKS)
    assert right / total > 0.85


def test_the_shipped_model_takes_unknown_characters_and_latin_words(punctuate: Punctuator) -> None:
    found = punctuate("饕餮魑魅 hello world 明天天气怎么样")
    assert strip_punctuation(found).replace(" ", "").lower().startswith("饕餮魑魅helloworld明天")
    assert found[-1] in "。？"
