"""Both CT-Transformers in ONNX Runtime: the marks of PyTorch, int8, batches, and directories of others."""

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.engines.base import PunctuatedBlock, PunctuationBlock, RealtimePunctuationEngine
from deployments.engines.model_files import ModelFilesError
from deployments.engines.onnx_export import Part, find_exporter, write_graph
from deployments.engines.punctuation_ct import CtPunctuationEngine
from deployments.engines.punctuation_onnx import CtPunctuationOnnxEngine
from deployments.engines.punctuation_realtime import CtRealtimePunctuationEngine
from deployments.engines.punctuation_realtime_onnx import CtRealtimePunctuationOnnxEngine
from deployments.messages import LivePunctuationRequest, PunctuationRequest
from deployments.punctuation import Punctuation
from tests.onnx_models import STARTER, constructor, exported
from tests.test_punctuation_engine import CHARACTERS
from tests.test_punctuation_realtime_engine import write_model

WHOLE, LIVE = STARTER / "ct-punc", STARTER / "ct-punc-realtime"
Texts = list[list[str]]
LiveMarks = list[list[PunctuatedBlock]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def texts() -> Texts:
    """Of all lengths, longer than what is looked at at once, with words that the vocabulary lacks."""
    tokens = json.loads((WHOLE / "tokens.json").read_text("utf-8"))
    rng = random.Random(0)
    words = [token for token in tokens if not token.startswith("<")]
    texts = [rng.choices([*words, "Zürich"], k=length) for length in (1, 2, 17, 30, 31, 90, 450)]
    written = json.loads((STARTER.parents[1] / "samples" / "written.json").read_text("utf-8"))
    return [*texts, [character for character in str(written) if character in tokens], []]


def live(engine: RealtimePunctuationEngine, texts: Texts, block: int = 7) -> LiveMarks:
    """What each text gets as it arrives in blocks, side by side with the others."""
    found: LiveMarks = [[] for _ in texts]
    contexts: list[tuple[str, ...]] = [() for _ in texts]
    for begin in range(0, max(map(len, texts)), block):
        running = [index for index, words in enumerate(texts) if begin < len(words)]
        blocks = [
            PunctuationBlock(tuple(texts[index][begin : begin + block]), contexts[index]) for index in running
        ]
        for index, result in zip(running, engine.punctuate(blocks), strict=True):
            found[index].append(result)
            contexts[index] = result.context
    return found


def differing(expected: Sequence[Sequence[Any]], found: Sequence[Sequence[Any]]) -> float:
    """The share of the items that are not the same."""
    pairs = [
        (a, b) for one, other in zip(expected, found, strict=True) for a, b in zip(one, other, strict=True)
    ]
    return sum(map(bool, (a != b for a, b in pairs))) / len(pairs)


def test_marks_of_whole_texts_are_those_of_pytorch(base: Path, texts: Texts) -> None:
    expected = CtPunctuationEngine(WHOLE, threads=1).punctuate(texts)
    assert {"，", "。"} <= {mark for marks in expected for mark in marks}
    engine = CtPunctuationOnnxEngine(exported(WHOLE, base), threads=1)
    assert engine.punctuate(texts) == expected
    assert [engine.punctuate([words])[0] for words in texts] == expected
    int8 = CtPunctuationOnnxEngine(exported(WHOLE, base, quantize=True), threads=1)
    assert differing(expected, int8.punctuate(texts)) <= 0.01


def test_marks_of_live_texts_are_those_of_pytorch(base: Path, texts: Texts) -> None:
    expected = live(CtRealtimePunctuationEngine(LIVE, threads=1), texts)
    assert {"，", "。"} <= {mark for blocks in expected for block in blocks for mark in block.marks}
    engine = CtRealtimePunctuationOnnxEngine(exported(LIVE, base), threads=1)
    assert live(engine, texts) == expected
    assert [live(engine, [words])[0] for words in texts[:6]] == expected[:6]
    int8 = CtRealtimePunctuationOnnxEngine(exported(LIVE, base, quantize=True), threads=1)
    assert differing(expected, live(int8, texts)) <= 0.02


def test_what_words_of_a_block_see_counts(tmp_path: Path) -> None:
    """With random weights, in which all that a word sees decides its mark."""
    source = write_model(tmp_path / "random")
    rng = random.Random(1)
    texts = [rng.choices(CHARACTERS, k=length) for length in (40, 63, 9, 250)]
    expected = live(CtRealtimePunctuationEngine(source, threads=1), texts)
    engine = CtRealtimePunctuationOnnxEngine(exported(source, tmp_path), threads=1)
    assert live(engine, texts) == expected


def test_graphs_of_one_text_at_a_time(tmp_path: Path, texts: Texts) -> None:
    """FunASR's own export of the live model takes no more than one."""
    (part,) = find_exporter(LIVE).parts(LIVE)
    axes = {name: {at: axis for at, axis in axes.items() if at} for name, axes in part.axes.items()}
    write_graph(Part("model", part.module, part.example, part.inputs, part.outputs, axes), tmp_path)
    for name in ("config.yaml", "tokens.json"):
        shutil.copyfile(LIVE / name, tmp_path / name)
    expected = live(CtRealtimePunctuationEngine(LIVE, threads=1), texts[:5])
    assert live(CtRealtimePunctuationOnnxEngine(tmp_path, threads=1), texts[:5]) == expected


@pytest.mark.parametrize("vocabulary", ["punc.yaml", "tokens.txt", "numbered tokens.txt"])
def test_directories_of_other_layouts(base: Path, tmp_path: Path, texts: Texts, vocabulary: str) -> None:
    """Older ones have all in ``punc.yaml``; others have a ``tokens.txt``, with or without numbers."""
    newer = exported(WHOLE, base)
    tokens = json.loads((newer / "tokens.json").read_text("utf-8"))
    config = yaml.safe_load((newer / "config.yaml").read_text("utf-8"))
    older = {"punc_list": config["model_conf"]["punc_list"], "token_list": tokens}
    if vocabulary == "punc.yaml":
        (tmp_path / vocabulary).write_text(yaml.safe_dump(older, allow_unicode=True), "utf-8")
    else:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), "utf-8")
        numbered = [f"{token} {index}" for index, token in enumerate(tokens)]
        lines = tokens if vocabulary == "tokens.txt" else numbered
        (tmp_path / "tokens.txt").write_text("\n".join(lines), "utf-8")
    shutil.copyfile(newer / "model.onnx", tmp_path / "model.onnx")
    expected = CtPunctuationOnnxEngine(newer, threads=1).punctuate(texts)
    assert CtPunctuationOnnxEngine(tmp_path, threads=1).punctuate(texts) == expected


def test_the_quantized_graph_is_taken_first(base: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(exported(WHOLE, base, quantize=True), directory)
    (directory / "model.onnx").write_bytes(b"not looked at")
    assert CtPunctuationOnnxEngine(directory, threads=1).punctuate([["你"]])


def test_what_is_wrong_with_a_directory_is_said(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match=r"lacks the input vad_masks, sub_masks; it has inputs"):
        CtRealtimePunctuationOnnxEngine(exported(WHOLE, base), threads=1)
    with pytest.raises(ModelFilesError, match="it is not a model for whole texts"):
        CtPunctuationOnnxEngine(exported(LIVE, base), threads=1)
    directory = tmp_path / "model"
    shutil.copytree(exported(WHOLE, base), directory)
    (directory / "tokens.json").unlink()
    with pytest.raises(ModelFilesError, match=r"tokens.json: .* vocabulary is missing"):
        CtPunctuationOnnxEngine(directory, threads=1)


async def test_the_deployment_runs_the_form_that_is_asked_for(
    base: Path, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.punctuation.replica_threads", lambda: 1)
    directories = str(exported(WHOLE, base)), str(exported(LIVE, base))
    deployment = constructor(Punctuation)(*directories, "cpu", "onnx")
    words = texts[5]
    marks = await deployment.punctuate(PunctuationRequest(words))
    assert [marks] == CtPunctuationEngine(WHOLE, threads=1).punctuate([words])
    block = await deployment.punctuate_live(LivePunctuationRequest(words[:7], ()))
    (expected,) = live(CtRealtimePunctuationEngine(LIVE, threads=1), [words[:7]])
    assert [block] == expected
    with pytest.raises(ModelFilesError, match="FUNASR_ENGINE=auto or onnx"):
        constructor(Punctuation)(*directories, "cpu", "torch")
