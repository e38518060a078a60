"""English Paraformers: pieces of words become words, whichever way a vocabulary marks them, as in FunASR."""

import io
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from benchmarks.full_size import write_checkpoint
from deployments.engines.base import Recognition, Word
from deployments.engines.paraformer_torch import ParaformerTorchEngine
from deployments.engines.words import join_tokens
from tests.test_paraformer_engine import speech_like, spread_out, texts, tiny_config

ENDED = ["the", "wea@@", "th@@", "er", "is", "fi@@", "ne", "to@@", "day", "i", "i'm", "don't", "a", "s", "'"]
"""Words by pieces, as subword-nmt marks those that do not end one."""
SPOKEN = (
    "the weather is fine today and tomorrow we meet at the station because i think i'll never know what "
    "it's worth i'm here i've been there"
)
PIECES = 64


def autoload(directory: Path) -> Any:
    from funasr import AutoModel

    options: dict[str, Any] = {"disable_update": True, "disable_pbar": True, "device": "cpu", "ncpu": 1}
    return AutoModel(model=str(directory), log_level="ERROR", **options)


def english(tokens: Sequence[str]) -> Callable[[dict[str, torch.Tensor], list[str]], None]:
    """Weights under which all kinds of tokens come out, and none that stands for no text."""

    def bias(state: dict[str, torch.Tensor], _: list[str]) -> None:
        spread_out(state, list(tokens))
        begins = [number for number, token in enumerate(tokens) if token.startswith("▁")]
        state["decoder.output_layer.bias"][begins] += 8

    return bias


def test_pieces_that_end_in_a_mark(tmp_path: Path) -> None:
    tokens = ["<blank>", "<s>", "</s>", *ENDED, "<unk>"]
    write_checkpoint(tmp_path, tiny_config("BiCifParaformer"), tokens, english(tokens), dtype=torch.float32)
    engine = ParaformerTorchEngine(tmp_path, threads=1, precision="fp32")
    funasr = autoload(tmp_path)
    joined = 0
    for seed in range(6):
        segment = speech_like(6, seed)
        (recognition,) = engine.transcribe([segment])
        (expected,) = funasr.generate(input=segment.astype("float32") / 32768, output_timestamp=True)
        # FunASR drops a word of which the last piece is missing, at the end of a segment.
        words = recognition.words[: len(expected["timestamp"])]
        assert len(recognition.words) - len(words) <= 1
        assert [word.text for word in words] == expected["text"].split()
        begins = [max(begin, 0) for begin, _ in expected["timestamp"]]
        assert [word.begin_ms for word in words] == pytest.approx(begins, abs=11)
        joined += sum(word.text.lower() not in ENDED for word in words)
    assert joined > 3


def write_english(directory: Path) -> Path:
    """A Paraformer in the layout of the published English one: its vocabulary is a SentencePiece model."""
    directory.mkdir(parents=True, exist_ok=True)
    dice = random.Random(0)
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=(" ".join(dice.choices(SPOKEN.split(), k=8)) for _ in range(300)),
        model_writer=model,
        vocab_size=PIECES,
        model_type="bpe",
        minloglevel=2,
    )
    processor = SentencePieceProcessor(model_proto=model.getvalue())
    tokens = [processor.id_to_piece(number) for number in range(PIECES)]
    config = tiny_config("BiCifParaformer")
    config |= {"tokenizer": "SentencepiecesTokenizer", "tokenizer_conf": {}}
    write_checkpoint(directory, config, tokens, english(tokens), dtype=torch.float32)
    (directory / "tokens.json").unlink()
    (directory / "bpe.model").write_bytes(model.getvalue())
    files = {
        "init_param": "model.pt",
        "config": "config.yaml",
        "tokenizer_conf": {"bpemodel": "bpe.model"},
        "frontend_conf": {"cmvn_file": "am.mvn"},
    }
    (directory / "configuration.json").write_text(json.dumps({"file_path_metas": files}))
    return directory


def test_a_sentencepiece_vocabulary(tmp_path: Path) -> None:
    marked = write_english(tmp_path)
    engine = ParaformerTorchEngine(marked, threads=1, precision="fp32")
    funasr = autoload(marked)
    for seed in range(6):
        segment = speech_like(6, seed)
        (recognition,) = engine.transcribe([segment])
        (expected,) = funasr.generate(input=segment.astype("float32") / 32768)
        assert " ".join(texts(recognition)).lower() == " ".join(expected["text"].split()).lower()
        assert_in_order(recognition)
        assert len(recognition.words) > 3


def assert_in_order(recognition: Recognition) -> None:
    edges = [edge for word in recognition.words for edge in (word.begin_ms, word.end_ms)]
    assert edges == sorted(edges)
    assert all(word.begin_ms < word.end_ms for word in recognition.words)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["▁the", "▁wea", "ther", "▁i", "'ll", "'m", "'ve", "▁it", "s", "i", "<unk>"]))
)
def test_words_are_those_of_funasr(tokens: list[str]) -> None:
    from funasr.utils.postprocess_utils import sentence_postprocess_sentencepiece

    given_words = [Word(token, 100 * at, 100 * at + 50, -1.0) for at, token in enumerate(tokens)]
    _, expected = sentence_postprocess_sentencepiece(tokens)
    if not any(token.startswith("▁") for token in tokens):
        return
    words = join_tokens(given_words)
    assert [word.text for word in words] == [text for text in expected if text]
    assert sum(word.log_prob for word in words) == -sum(token != "<unk>" for token in tokens)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["▁hel", "lo", "▁world"], ["hello", "world"]),
        (["▁", "hello", "▁", "world"], ["hello", "world"]),
        (["▁ok", "今", "天", "▁很", "好", "▁app", "le"], ["ok", "今", "天", "很", "好", "apple"]),
        (["▁i", "'d", "▁is", "▁in"], ["I'd", "is", "in"]),
        (["▁", "</s>", "<unk>"], []),
        (["▁2", "0", "▁a", "▁b"], ["20", "a", "b"]),
    ],
)
def test_marked_pieces_become_words(tokens: list[str], words: list[str]) -> None:
    given_words = [Word(token, 10 * at, 10 * at + 10) for at, token in enumerate(tokens)]
    assert [word.text for word in join_tokens(given_words)] == words


def test_a_joined_word_spans_its_pieces() -> None:
    (word,) = join_tokens([Word("▁hel", 0, 20, -0.5), Word("lo", 30, 60, -0.25)])
    assert word == Word("hello", 0, 60, -0.75)
