"""Live punctuation against FunASR's own, on small models with random weights and on the starter model."""

import contextlib
import io
import json
import pickle
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from deployments.engines.base import PunctuatedBlock, PunctuationBlock
from deployments.engines.model_files import ModelFilesError
from deployments.engines.punctuation_realtime import CtRealtimePunctuationEngine
from tests.test_punctuation_engine import CHARACTERS, LATIN, MARKS, random_text

STARTER = Path(__file__).parents[1] / "models" / "starter" / "ct-punc-realtime"
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
    "sanm_shfit": 5,
    "selfattention_layer_type": "sanm",
    "padding_idx": 0,
}
SPOKEN = re.compile(r"[a-z0-9'\-]+|[^\s，。？、<>]")

Words = Sequence[str]
Reference = Callable[[Sequence[Words]], tuple[list[str], list[str]]]


def write_model(model_dir: Path, bias: Sequence[float] = (), **changes: Any) -> Path:
    """A CTTransformerStreaming of FunASR's with random weights; ``bias`` shifts what it likes to say."""
    from funasr.models.ct_transformer_streaming.model import CTTransformerStreaming

    tokens = ["<blank>", "<s>", "</s>", *CHARACTERS, *LATIN, "<unk>"]
    encoder = ENCODER | changes
    config: dict[str, Any] = {
        "model": "CTTransformerStreaming",
        "model_conf": {"embed_unit": 32, "att_unit": 32, "punc_list": MARKS, "sentence_end_id": 3},
        "encoder": "SANMVadEncoder",
        "encoder_conf": encoder,
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": {"unk_symbol": "<unk>"},
    }
    torch.manual_seed(5)
    model = CTTransformerStreaming(
        encoder="SANMVadEncoder", encoder_conf=encoder, vocab_size=len(tokens), **config["model_conf"]
    )
    state = model.state_dict()
    # Random attention is weak; what a word sees of those around it is to decide its mark.
    state["decoder.weight"] *= 6
    for name in state:
        if "self_attn" in name:
            state[name] *= 3
    if bias:
        state["decoder.bias"] += torch.tensor(bias)
    model_dir.mkdir(parents=True, exist_ok=True)
    torch.save(state, model_dir / "model.pt")
    (model_dir / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), "utf-8")
    (model_dir / "tokens.json").write_text(json.dumps(tokens, ensure_ascii=False), "utf-8")
    return model_dir


@pytest.fixture(scope="module", params=["causal memory", "centered memory", "starter"])
def model_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "starter":
        if not (STARTER / "model.pt").exists():
            pytest.skip("no models/starter/ct-punc-realtime: `python -m starter train ct-punc-realtime`")
        return STARTER
    shift = 5 if request.param == "causal memory" else 0
    return write_model(tmp_path_factory.mktemp("models") / "realtime", sanm_shfit=shift)


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> CtRealtimePunctuationEngine:
    return CtRealtimePunctuationEngine(model_dir, threads=1)


@pytest.fixture(scope="module")
def reference(model_dir: Path) -> Reference:
    return funasr_reference(model_dir)


def funasr_reference(model_dir: Path) -> Reference:
    """FunASR's own text of a stream, block by block, and the context that it ends with."""
    from funasr import AutoModel

    with contextlib.redirect_stdout(io.StringIO()):
        model = AutoModel(model=str(model_dir), disable_update=True, disable_pbar=True, ncpu=1)

    def punctuate(blocks: Sequence[Words]) -> tuple[list[str], list[str]]:
        cache: dict[str, Any] = {}
        texts = []
        for words in blocks:
            (result,) = model.generate(input=" ".join(words), cache=cache, disable_pbar=True)
            last = MARKS[int(result["punc_array"][-1])]
            texts.append(result["text"].replace("<unk>", "") + f"({last.strip('_').removeprefix('<unk>')})")
        return texts, [word.strip() for word in cache["pre_text"]]

    return punctuate


def go_through(
    engine: CtRealtimePunctuationEngine, blocks: Sequence[Words]
) -> tuple[list[PunctuatedBlock], tuple[str, ...]]:
    results: list[PunctuatedBlock] = []
    context: tuple[str, ...] = ()
    for words in blocks:
        results += engine.punctuate([PunctuationBlock(tuple(words), context)])
        context = results[-1].context
    return results, context


def as_funasr(words: Words, result: PunctuatedBlock) -> str:
    """A block as FunASR writes it: first the mark for what came before, the last mark in parentheses."""
    text = result.context_mark
    for index, (word, mark) in enumerate(zip(words, (*result.marks[:-1], ""), strict=True)):
        if index and word.isascii() and words[index - 1].isascii():
            text += " "
        text += word + mark
    return f"{text}({result.marks[-1]})"


def assert_agree(
    engine: CtRealtimePunctuationEngine, reference: Reference, blocks: Sequence[Words]
) -> list[PunctuatedBlock]:
    results, context = go_through(engine, blocks)
    texts, pre_text = reference(blocks)
    # FunASR writes a space before a Latin word that follows one of the block before.
    shown = [text.replace(" ", "") for text in texts]
    ours = [as_funasr(*pair).replace(" ", "") for pair in zip(blocks, results, strict=True)]
    assert ours == shown
    assert list(context) == pre_text
    return results


def random_stream(seed: int, longest: int, count: int) -> list[list[str]]:
    """Two words to begin with: a stream that begins with a single one makes FunASR 1.4 raise TypeError."""
    rng = random.Random(seed)
    return [random_text(rng, max(rng.randint(1, longest), 2 - index)) for index in range(count)]


@pytest.mark.parametrize(("longest", "count"), [(1, 60), (8, 40), (25, 25), (70, 12), (300, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_streams_are_those_of_funasr(
    seed: int, longest: int, count: int, engine: CtRealtimePunctuationEngine, reference: Reference
) -> None:
    assert_agree(engine, reference, random_stream(seed, longest, count))


def test_random_streams_use_every_mark_and_context(engine: CtRealtimePunctuationEngine) -> None:
    """The comparisons above would say little if every word got one mark, or every context were empty."""
    results, _ = go_through(engine, random_stream(0, 30, 60))
    assert len({mark for result in results for mark in result.marks}) >= 4
    assert len({result.context_mark for result in results}) >= 3
    assert len({len(result.context) for result in results}) >= 5


def test_where_the_block_begins_is_hidden_from_what_was_before(tmp_path: Path) -> None:
    """The comparisons above would not notice a wrong begin if no mark depended on it."""
    engine = CtRealtimePunctuationEngine(write_model(tmp_path / "model"), threads=1)
    contexts: set[bool] = set()
    for seed in range(20):
        words = tuple(random_text(random.Random(seed), 19))
        (whole,) = engine.punctuate([PunctuationBlock(words)])
        for begin in range(1, 18):
            (rest,) = engine.punctuate([PunctuationBlock(words[begin:], words[:begin])])
            # The block itself, and the word that it follows, see all words.
            assert (rest.context_mark, *rest.marks) == whole.marks[begin - 1 :]
            contexts.add(rest.context == whole.context)
    assert contexts == {True, False}


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=12),
    seed=st.integers(),
)
def test_results_do_not_depend_on_the_batch(
    engine: CtRealtimePunctuationEngine, sizes: list[tuple[int, int]], seed: int
) -> None:
    rng = random.Random(seed)
    blocks = [
        PunctuationBlock(tuple(random_text(rng, size)), tuple(random_text(rng, context)))
        for size, context in sizes
    ]
    assert engine.punctuate(blocks) == [engine.punctuate([block])[0] for block in blocks]


def test_interleaved_streams_do_not_mix(engine: CtRealtimePunctuationEngine) -> None:
    streams = [random_stream(seed, 20, 8) for seed in range(12)]
    alone = [go_through(engine, stream)[0] for stream in streams]
    contexts: list[tuple[str, ...]] = [() for _ in streams]
    for step in range(8):
        blocks = [
            PunctuationBlock(tuple(stream[step]), context)
            for stream, context in zip(streams, contexts, strict=True)
        ]
        results = engine.punctuate(blocks)
        assert results == [each[step] for each in alone]
        contexts = [result.context for result in results]


def test_versions_of_a_growing_sentence_leave_no_trace(engine: CtRealtimePunctuationEngine) -> None:
    blocks = random_stream(4, 20, 6)
    plain, _ = go_through(engine, blocks)
    context: tuple[str, ...] = ()
    for words, expected in zip(blocks, plain, strict=True):
        for size in range(len(words)):
            engine.punctuate([PunctuationBlock(tuple(words[:size]), context)])
        (result,) = engine.punctuate([PunctuationBlock(tuple(words), context)])
        assert result == expected
        context = pickle.loads(pickle.dumps(result.context))


def test_nothing_new(engine: CtRealtimePunctuationEngine) -> None:
    assert engine.punctuate([]) == []
    assert engine.punctuate([PunctuationBlock(())]) == [PunctuatedBlock((), "", ())]
    words = tuple(random_text(random.Random(1), 12))
    (first,) = engine.punctuate([PunctuationBlock(words)])
    (nothing,) = engine.punctuate([PunctuationBlock((" ", ""), first.context)])
    assert nothing.marks == ("", "")
    assert nothing.context_mark in {"", *"，。？、"}
    assert first.context[-len(nothing.context) :] == nothing.context


@pytest.mark.parametrize("length", [1, 20, 123])
def test_white_space_and_words_of_several_tokens(engine: CtRealtimePunctuationEngine, length: int) -> None:
    rng = random.Random(length)
    characters = [rng.choice(CHARACTERS) for _ in range(2 * length)]
    context = tuple(random_text(rng, 15))
    (plain,) = engine.punctuate([PunctuationBlock(tuple(characters), context)])
    pairs = [first + second for first, second in zip(characters[::2], characters[1::2], strict=True)]
    spaced = tuple(each for pair in pairs for each in ("", f" {pair} "))
    (result,) = engine.punctuate([PunctuationBlock(spaced, tuple(f" {word}" for word in context))])
    assert result.marks == tuple(each for mark in plain.marks[1::2] for each in ("", mark))
    assert result.context_mark == plain.context_mark
    assert result.context == plain.context


def test_unknown_words_are_those_of_funasr(engine: CtRealtimePunctuationEngine, reference: Reference) -> None:
    blocks = [[*"☃今天", "qwertz", *"很犇好"], ["ok"], ["ok", "hello", *"我们☃"], ["x-7"], [*"去公园吧"]] * 3
    assert_agree(engine, reference, blocks)


def test_commas_end_a_sentence_that_is_too_long(tmp_path: Path) -> None:
    commas = write_model(tmp_path / "commas", bias=[-1000, 0, 0, -1000, -1000, -1000])
    engine = CtRealtimePunctuationEngine(commas, threads=1)
    results = assert_agree(engine, funasr_reference(commas), random_stream(7, 40, 40))
    assert max(len(result.context) for result in results) > 200


@pytest.mark.slow
def test_stream_without_any_mark_stays_bounded(tmp_path: Path) -> None:
    """FunASR would carry all of such a stream along and look at it again with every block."""
    silent = write_model(tmp_path / "silent", bias=[0, 1000, 0, 0, 0, 0])
    engine = CtRealtimePunctuationEngine(silent, threads=1)
    context: tuple[str, ...] = ()
    rng = random.Random(6)
    work = []
    for _ in range(90):
        with FlopCounterMode(display=False) as counter:
            block = PunctuationBlock(tuple(random_text(rng, 20)), context)
            (result,) = engine.punctuate([block])
        work.append(counter.get_total_flops())
        context = result.context
        assert len(context) <= 400
    assert max(work[30:]) <= max(work[:30])


@pytest.mark.parametrize("blocks", [1, 2])
def test_encoders_of_few_blocks_are_those_of_funasr(blocks: int, tmp_path: Path) -> None:
    model_dir = write_model(tmp_path / "few", num_blocks=blocks)
    engine = CtRealtimePunctuationEngine(model_dir, threads=1)
    assert_agree(engine, funasr_reference(model_dir), random_stream(blocks, 30, 20))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("config.yaml", "model: CTTransformerStreaming", "model: CTTransformer"),
        ("config.yaml", "encoder: SANMVadEncoder", "encoder: SANMEncoder"),
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
        CtRealtimePunctuationEngine(path.parent, threads=1)
