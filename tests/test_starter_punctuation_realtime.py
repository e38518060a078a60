"""The live punctuation starter model: its training data, and the shipped weights through funasr.AutoModel."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from random import Random

import pytest
import torch

from starter import punctuation, punctuation_realtime
from starter.punctuation_data import MARK_NAMES, NO_MARK, sentences
from starter.punctuation_evaluate import compare
from starter.punctuation_realtime_data import realtime_batch
from starter.punctuation_realtime_evaluate import Cut, RealtimePunctuator, cut_anywhere, cut_at_pauses
from starter.registry import MODELS_DIR, TrainOptions
from starter.text import MARKS, strip_punctuation

MODEL_DIR = MODELS_DIR / "ct-punc-realtime"


@pytest.fixture(scope="module")
def punctuate() -> RealtimePunctuator:
    return RealtimePunctuator(MODEL_DIR)


def test_batches_are_fixed_by_their_seed_and_padded_with_zero() -> None:
    for seed in range(30):
        batch, again = realtime_batch(seed), realtime_batch(seed)
        assert torch.equal(batch.ids, again.ids)
        assert torch.equal(batch.marks, again.marks)
        assert torch.equal(batch.blocks, again.blocks)
        inside = torch.arange(batch.ids.shape[1]) < batch.lengths[:, None]
        assert (batch.ids[inside] > 0).all()
        assert (batch.marks[inside] >= NO_MARK).all()
        assert not batch.ids[~inside].any()
        assert not batch.marks[~inside].any()
        assert (batch.blocks >= 0).all()
        assert (batch.blocks < batch.lengths).all()


def test_batches_show_what_a_live_model_is_asked() -> None:
    """First blocks and later ones; ends at sentence ends, at pauses and anywhere; short and long."""
    batches = [realtime_batch(seed) for seed in range(60)]
    last = [
        MARK_NAMES[int(marks[length - 1])]
        for batch in batches
        for marks, length in zip(batch.marks, batch.lengths, strict=True)
    ]
    for mark in "_，。？":
        assert last.count(mark) / len(last) > 0.03
    firsts = torch.cat([batch.blocks for batch in batches]) == 0
    assert 0.15 < firsts.float().mean() < 0.5
    lengths = torch.cat([batch.lengths for batch in batches])
    assert lengths.min() <= 2
    assert lengths.max() >= 150


def test_training_writes_a_model_that_funasr_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(punctuation, "_WARMUP", 1)
    options = TrainOptions(tmp_path / "model", tmp_path / "work", minutes=0.01, processes=1, seed=1)
    punctuation_realtime.train(options)
    blocks = ["今天天气", "怎么样我", "们去公园"]
    found = RealtimePunctuator(options.output)(blocks)
    # It has hardly been trained: <unk> is a mark that no training text has.
    assert strip_punctuation(found.replace("<unk>", "")) == "".join(blocks)


def test_streams_are_cut_whole() -> None:
    text = "".join(islice(sentences(5, "test"), 40))
    rng = Random(1)
    anywhere, pauses = cut_anywhere(text, rng), cut_at_pauses(text, rng)
    assert "".join(anywhere) == "".join(pauses) == strip_punctuation(text)
    assert len(anywhere[0]) > 1
    rest = text
    for block in pauses:
        while block:
            assert rest[0] in MARKS or rest[0] == block[0]
            block = block[rest[0] not in MARKS :]
            rest = rest[1:]
        assert rest[0] in MARKS


@pytest.mark.parametrize("cut", [cut_anywhere, cut_at_pauses])
def test_the_shipped_model_punctuates_held_out_streams(punctuate: RealtimePunctuator, cut: Cut) -> None:
    source, rng = sentences(78, "test"), Random(2)
    right = total = 0
    for _ in range(8):
        text = "".join(islice(source, 8))
        counts = compare(text, punctuate(cut(text, rng)))
        right += sum(counts[mark, "right"] for mark in MARKS)
        total += sum(max(counts[mark, "true"], counts[mark, "found"]) for mark in MARKS)
    assert right / total > 0.85


def test_a_pause_within_a_sentence_gets_a_comma_at_once(punctuate: RealtimePunctuator) -> None:
    """The mark behind the last word of a block, before anything follows it, is the right one of the three."""
    right: dict[str, int] = dict.fromkeys("，。？", 0)
    total = dict(right)
    for text in islice(sentences(79, "test"), 150):
        blocks = [strip_punctuation(part) for part in text.split("，")]
        if len(blocks[0]) < 2:
            continue
        marks = ["，"] * (len(blocks) - 1) + [text[-1]]
        for true, (_, mark) in zip(marks, punctuate.stream(blocks), strict=True):
            total[true] += 1
            right[true] += mark == true
    assert all(right[mark] / total[mark] > 0.75 for mark in total), (right, total)


def test_the_shipped_model_takes_unknown_characters_and_latin_words(punctuate: RealtimePunctuator) -> None:
    found = punctuate(["饕餮", "魑魅 hello", "world 明天", "天气怎么样"])
    assert strip_punctuation(found).replace(" ", "") == "饕餮魑魅helloworld明天天气怎么样"
    assert found[-1] in "。？"
