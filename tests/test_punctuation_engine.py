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
    """FunASR's own marks for one text, as ours are: full-width, "" for none."""
    from funasr import AutoModel

    with contextlib.redirect_stdout(io.StringIO()):
        model = AutoModel(model=str(model_dir), disable_update=True, disable_pbar=True, ncpu=1)
    names = {index: "" if mark in ("<unk>", "_") else mark for index, mark in enumerate(MARKS)}

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
