"""Punctuation against FunASR's own, on a small model with random weights and on the starter model."""

import contextlib
import io
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from deployments.engines.model_files import ModelFilesError
from deployments.engines.punctuation_ct import CtPunctuationEngine

STARTER = Path(__file__).parents[1] / "models" / "starter" / "ct-punc"
CHARACTERS = "今天气很好我们去公园吧你说什么时候会议开始请把文件发给他谢明再见一二三四五六七八九十"
LATIN = ["hello", "world", "gpu", "ok", "don't", "3"]
MARKS = ["<unk>", "_", "，", "。", "？", "、"]
ENCODER: dict[str, Any] = {
    "input_size": 32,
    "output_size": 32,
    "attention_heads": 4,
    "linear_units": 48,
    "num_blocks": 3,
    "dropout_rate": 0.1,
    "input_layer": "pe",
    "pos_enc_class": "SinusoidalPositionEncoder",
    "kernel_size": 11,
    "sanm_shfit": 0,
    "selfattention_layer_type": "sanm",
    "padding_idx": 0,
}

Reference = Callable[[Sequence[str]], list[str]]


def write_model(model_dir: Path, marks: Sequence[str] = MARKS, bias: Sequence[float] = ()) -> Path:
    """A CTTransformer of FunASR's with random weights; ``bias`` shifts what it likes to say."""
    from funasr.models.ct_transformer.model import CTTransformer

    tokens = ["<blank>", "<s>", "</s>", *CHARACTERS, *LATIN, "<unk>"]
    config: dict[str, Any] = {
        "model": "CTTransformer",
        "model_conf": {"embed_unit": 32, "att_unit": 32, "punc_list": list(marks), "sentence_end_id": 3},
        "encoder": "SANMEncoder",
        "encoder_conf": ENCODER,
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": {"unk_symbol": "<unk>"},
    }
    torch.manual_seed(5)
    model = CTTransformer(
        encoder="SANMEncoder", encoder_conf=ENCODER, vocab_size=len(tokens), **config["model_conf"]
    )
    state = model.state_dict()
    state["decoder.weight"] *= 6
    if bias:
        state["decoder.bias"] += torch.tensor(bias)
    model_dir.mkdir(parents=True, exist_ok=True)
    torch.save(state, model_dir / "model.pt")
    (model_dir / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), "utf-8")
    (model_dir / "tokens.json").write_text(json.dumps(tokens, ensure_ascii=False), "utf-8")
    return model_dir


@pytest.fixture(scope="module", params=["random", "starter"])
def model_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "random":
        return write_model(tmp_path_factory.mktemp("models") / "punctuation")
    if not (STARTER / "model.pt").exists():
        pytest.skip("models/starter/ct-punc is not there: `python -m starter train ct-punc` makes it")
    return STARTER


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> CtPunctuationEngine:
    return CtPunctuationEngine(model_dir, threads=1)


@pytest.fixture(scope="module")
def reference(model_dir: Path) -> Reference:
    return funasr_reference(model_dir)


def funasr_reference(model_dir: Path) -> Reference:
    """FunASR's own marks for one text, as ours are: full-width, "" for none."""
    from funasr import AutoModel

    with contextlib.redirect_stdout(io.StringIO()):
        model = AutoModel(model=str(model_dir), disable_update=True, disable_pbar=True, ncpu=1)
    names = ["" if mark in ("<unk>", "_") else mark for mark in MARKS]

    def punctuate(words: Sequence[str]) -> list[str]:
        (result,) = model.generate(input=" ".join(words), disable_pbar=True)
        return [names[int(mark)] for mark in result["punc_array"]]

    return punctuate


def random_text(rng: random.Random, length: int) -> list[str]:
    return [rng.choice(LATIN) if rng.random() < 0.1 else rng.choice(CHARACTERS) for _ in range(length)]


@pytest.mark.parametrize("length", [1, 2, 3, 19, 20, 21, 40, 41, 63, 130, 700])
def test_marks_are_those_of_funasr(length: int, engine: CtPunctuationEngine, reference: Reference) -> None:
    words = random_text(random.Random(length), length)
    (marks,) = engine.punctuate([words])
    assert len(marks) == length
    # FunASR forces a mark on the last word; the engine leaves that to its caller.
    assert marks[:-1] == reference(words)[:-1]


def test_random_model_uses_every_mark(engine: CtPunctuationEngine) -> None:
    """The comparisons above would say little about a model that gives every word the same mark."""
    (marks,) = engine.punctuate([random_text(random.Random(0), 2000)])
    assert len(set(marks)) >= 4


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 120), min_size=1, max_size=12), seed=st.integers(0, 10**6))
def test_marks_do_not_depend_on_the_batch(engine: CtPunctuationEngine, lengths: list[int], seed: int) -> None:
    rng = random.Random(seed)
    texts = [random_text(rng, length) for length in lengths]
    assert engine.punctuate(texts) == [engine.punctuate([words])[0] for words in texts]


@pytest.mark.parametrize("length", [1, 20, 333])
def test_white_space_and_empty_words_have_no_marks(engine: CtPunctuationEngine, length: int) -> None:
    words = random_text(random.Random(1), length)
    (plain,) = engine.punctuate([words])
    spaced = [each for word in words for each in ("", f" {word} ", "  ")]
    (marks,) = engine.punctuate([spaced])
    assert marks == [each for mark in plain for each in ("", mark, "")]


def test_empty_texts(engine: CtPunctuationEngine) -> None:
    assert engine.punctuate([]) == []
    assert engine.punctuate([[], ["今"], []])[::2] == [[], []]


def test_latin_words_are_looked_up_in_lower_case(engine: CtPunctuationEngine, model_dir: Path) -> None:
    if model_dir == STARTER:
        pytest.skip("the starter model knows no Latin words")
    words = random_text(random.Random(2), 100)
    assert engine.punctuate([[word.upper() for word in words]]) == engine.punctuate([words])
    unknown = [word if word not in LATIN else "qwertz" for word in words]
    assert engine.punctuate([unknown]) != engine.punctuate([words])


def test_unknown_words_are_those_of_funasr(engine: CtPunctuationEngine, reference: Reference) -> None:
    words = [*"☃今天", "qwertz", *"很犇好我们☃", "x-7", "QWERTZ", *"去公园吧"] * 3
    assert engine.punctuate([words])[0][:-1] == reference(words)[:-1]


def test_word_of_several_tokens_gets_the_mark_of_its_last(engine: CtPunctuationEngine) -> None:
    characters = [word for word in random_text(random.Random(3), 300) if word not in LATIN]
    (marks,) = engine.punctuate([characters])
    pairs = [first + second for first, second in zip(characters[::2], characters[1::2], strict=False)]
    assert engine.punctuate([pairs]) == [marks[1::2]]


def test_marks_of_any_width_come_out_full_width(tmp_path: Path) -> None:
    words = random_text(random.Random(4), 200)
    full = CtPunctuationEngine(write_model(tmp_path / "full"), threads=1)
    half = write_model(tmp_path / "half", marks=["<unk>", "_", ",", ".", "?", "、"])
    # The reading of long texts goes by the meaning of marks, so the models agree in spite of their spelling.
    assert CtPunctuationEngine(half, threads=1).punctuate([words]) == full.punctuate([words])


@pytest.mark.slow
def test_long_text_takes_linear_work(engine: CtPunctuationEngine) -> None:
    def work(length: int) -> int:
        with FlopCounterMode(display=False) as counter:
            (marks,) = engine.punctuate([random_text(random.Random(5), length)])
        assert len(marks) == length
        return int(counter.get_total_flops())

    assert work(4_000) < 4.5 * work(1_000)


@pytest.mark.slow
def test_text_without_any_end_takes_bounded_work(tmp_path: Path) -> None:
    """FunASR would look at all of such a text again for every twenty words more."""
    silent = write_model(tmp_path / "silent", bias=[0, 1000, 0, 0, 0, 0])
    engine = CtPunctuationEngine(silent, threads=1)
    work = []
    for length in (1200, 2400):
        with FlopCounterMode(display=False) as counter:
            assert engine.punctuate([random_text(random.Random(6), length)]) == [[""] * length]
        work.append(counter.get_total_flops())
    assert work[1] < 2.3 * work[0]


def test_comma_ends_a_sentence_that_is_too_long(tmp_path: Path) -> None:
    """As in FunASR: in a text that has commas only, one of them becomes a full stop now and then."""
    commas = write_model(tmp_path / "commas", bias=[-1000, 0, 0, -1000, -1000, -1000])
    words = random_text(random.Random(7), 900)
    (marks,) = CtPunctuationEngine(commas, threads=1).punctuate([words])
    assert marks.count("。") == 4
    assert marks[:-1] == funasr_reference(commas)(words)[:-1]


def test_model_with_a_dictionary_reads_whole_words(tmp_path: Path) -> None:
    model_dir = write_model(tmp_path / "words")
    (model_dir / "jieba_usr_dict").write_text("今天 1000\n公园 1000\n会议开始 1000\n", "utf-8")
    words = [*"今天会议开始", "ok", "hello", *"我们去公园", "3", *"今天天气很好吧"] * 9
    (marks,) = CtPunctuationEngine(model_dir, threads=1).punctuate([words])
    # FunASR gives every character of a word but the last "none", and so does the engine.
    assert marks[:-1] == funasr_reference(model_dir)(words)[:-1]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("config.yaml", "model: CTTransformer", "model: Paraformer"),
        ("config.yaml", "num_blocks: 3", "num_blocks: 4"),
        ("config.yaml", "、", "¿"),
        ("tokens.json", "<unk>", "<nothing>"),
        ("tokens.json", '"hello", ', ""),
    ],
)
def test_model_that_cannot_work_is_refused(file: str, old: str, new: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "broken") / file
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    with pytest.raises(ModelFilesError):
        CtPunctuationEngine(path.parent, threads=1)
