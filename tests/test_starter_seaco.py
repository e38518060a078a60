"""Names of the hotword model's training, the batches made of them, and the model directory that came out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from funasr.models.seaco_paraformer.model import SeacoParaformer

from starter.paraformer_data import TOKENS, encode
from starter.registry import MODELS_DIR, load, load_facts
from starter.seaco_batches import make_batch
from starter.seaco_data import Rows, syllable_numbers
from starter.seaco_model import NO_BIAS, NO_HOTWORD, BiasNetwork, build_seaco
from starter.seaco_names import NameGenerator, Spoken, ambiguous, fill, part_of_name, reading
from starter.text import CHARACTERS, Split

MODEL = MODELS_DIR / "paraformer-hotwords"


def rows_of(sentence: Spoken, rng: np.random.Generator) -> Rows:
    numbers = syllable_numbers()
    tokens = len(sentence.text) + 1
    return Rows(
        rng.normal(size=(tokens, 192)).astype(np.float16),
        rng.normal(size=(tokens, 192)).astype(np.float16),
        np.append(encode(sentence.text), 2),
        np.append(encode(sentence.text), 2),
        np.array([*(numbers.get(syllable, -1) for syllable in sentence.syllables), -1]),
        sentence.names,
    )


def test_a_sentence_has_a_syllable_for_each_character() -> None:
    sentence = fill("好的，＃和＃在银行吗？", ["李智", "文静美"])
    assert sentence.text == "好的李智和文静美在银行吗"
    assert sentence.pinyin == "hao3 de5, li3 zhi4 he2 wen2 jing4 mei3 zai4 yin2 hang2 ma5?"
    assert sentence.names == ((2, 4), (5, 8))
    assert len(sentence.syllables) == len(sentence.text)


@pytest.mark.parametrize("part", ["train", "dev", "test"])
def test_names_belong_to_one_part_in_every_spelling(part: Split) -> None:
    generator = NameGenerator(1, part)
    for _ in range(40):
        sentence = generator.with_names()
        assert set(sentence.text) <= set(CHARACTERS)
        for begin, end in sentence.names:
            name = sentence.text[begin:end]
            assert sentence.syllables[begin:end] == tuple(map(reading, name))
            assert part_of_name(sentence.syllables[begin:end]) == part
            assert 2 <= len(name) <= 5
            assert sum(character in ambiguous() for character in name) >= 2


def test_the_same_seed_gives_the_same_sentences() -> None:
    one, other = NameGenerator(5, "train"), NameGenerator(5, "train")
    assert [one.with_names() for _ in range(5)] == [other.with_names() for _ in range(5)]


def test_labels_follow_the_spelling_of_the_list() -> None:
    rng = np.random.default_rng(3)
    generator = NameGenerator(3, "train")
    clips = [rows_of(generator.with_names(), rng) for _ in range(12)]
    clips += [rows_of(generator.plain(), rng) for _ in range(4)]
    batch = make_batch(clips, "train", rng)
    hotwords = [hotword.tolist() for hotword in batch.hotwords]
    assert tuple(hotwords[-1]) == NO_HOTWORD
    starts = np.flatnonzero(np.diff(np.append(-1, batch.labels.numpy()) >= 0, prepend=False))
    assert len(starts) >= len(clips)
    biased = 0
    for row, (label, place) in enumerate(zip(batch.labels.tolist(), batch.looked_at.tolist(), strict=True)):
        assert (label < 0) == (place < 0) == (not batch.row_mask[row])
        if label < 0:
            continue
        assert batch.heeded[row, place], "a hotword to look at is in the clip's list"
        assert (label == NO_BIAS) == (place == len(hotwords) - 1)
        if label != NO_BIAS:
            biased += 1
            assert label in hotwords[place]
    assert biased > 10


def test_the_packed_network_is_that_of_funasr() -> None:
    """Several clips in one matrix, each with hotwords of its own, give what FunASR gives one by one."""
    torch.manual_seed(2)
    model: SeacoParaformer = build_seaco().eval()
    hotwords = [torch.tensor([5, 9, 30]), torch.tensor([7, 8]), torch.tensor(NO_HOTWORD)]
    lengths, gap = (6, 4), 5
    rows = torch.randn(2, sum(lengths) + 2 * gap, 192)
    mask = torch.zeros(rows.shape[1])
    heeded = torch.zeros(rows.shape[1], 3, dtype=torch.int64)
    heeded[:, 2] = 1
    begin, expected = 0, []
    for length, listed in zip(lengths, ([0, 2], [1, 2]), strict=True):
        place = slice(begin, begin + length)
        mask[place] = 1
        for number in listed:
            heeded[place, number] = 1
        expected.append(one_clip(model, rows[:, place], [hotwords[number] for number in listed]))
        begin += length + gap
    rows, network = rows * mask[:, None], BiasNetwork(model).eval()
    with torch.inference_mode():
        scores, _ = network(rows[0], rows[1], mask, hotwords, heeded)
    torch.testing.assert_close(scores[mask > 0], torch.cat(expected), rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def one_clip(model: SeacoParaformer, rows: torch.Tensor, hotwords: list[torch.Tensor]) -> torch.Tensor:
    padded = torch.nn.utils.rnn.pad_sequence(hotwords, batch_first=True)
    selected = model._hotword_representation(padded, torch.tensor([len(hotword) for hotword in hotwords]))
    counts = torch.tensor([len(hotwords)]), torch.tensor([rows.shape[1]])
    attended = [model.seaco_decoder(selected[None], counts[0], part[None], counts[1])[0] for part in rows]
    scores: torch.Tensor = model.hotword_output_layer(attended[0] + attended[1])[0]
    return scores


class TestShippedModel:
    def test_the_recognizer_in_it_is_the_starter_recognizer(self) -> None:
        state = torch.load(MODEL / "model.pt", weights_only=True)
        base = torch.load(MODELS_DIR / "paraformer" / "model.pt", weights_only=True)
        assert all(torch.equal(state[name], value) for name, value in base.items())
        assert {value.dtype for value in state.values()} == {torch.float16}
        assert (MODEL / "tokens.json").read_bytes() == (
            MODELS_DIR / "paraformer" / "tokens.json"
        ).read_bytes()

    def test_it_is_whole(self) -> None:
        state = torch.load(MODEL / "model.pt", weights_only=True)
        wanted = {name: value.shape for name, value in build_seaco().state_dict().items()}
        assert {name: value.shape for name, value in state.items()} == wanted

    def test_funasr_is_told_how_to_cut_hotwords(self) -> None:
        lines = (MODEL / "seg_dict").read_text("utf-8").splitlines()
        assert {line.split()[0] for line in lines} == {token for token in TOKENS if len(token) == 1}

    def test_its_card_has_its_figures(self) -> None:
        module = load("paraformer-hotwords")
        card = (MODEL / "README.md").read_text("utf-8")
        assert module.ABOUT.strip() in card
        assert "false insertion" in card
        assert load_facts(MODEL)["updates"]
