"""Paraformer in ONNX Runtime: the words, times and probabilities of PyTorch, int8, and graphs of others."""

import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from funasr.models.paraformer.export_meta import export_rebuild_model

from benchmarks.engines import read_wav
from benchmarks.full_size import write_checkpoint
from deployments.engines.base import Pcm, Recognition
from deployments.engines.loading import load_funasr_model
from deployments.engines.model_files import ModelFilesError
from deployments.engines.onnx_export import copy_beside
from deployments.engines.paraformer_onnx import ParaformerOnnxEngine
from deployments.engines.paraformer_torch import ParaformerTorchEngine
from starter.alignment import align
from tests.onnx_models import ROOT, STARTER, exported
from tests.test_paraformer_engine import TOKENS, speech_like, spread_out, texts, tiny_config

MODEL = STARTER / "paraformer"
SECONDS = (0.03, 0.3, 1.0, 2.7, 6.0, 20.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def int8(base: Path) -> ParaformerOnnxEngine:
    return ParaformerOnnxEngine(exported(MODEL, base, quantize=True), threads=2)


@pytest.fixture(scope="module")
def samples() -> list[Pcm]:
    return [read_wav(path) for path in sorted((ROOT / "samples").glob("*.wav"))][:4]


@pytest.fixture(scope="module")
def expected(samples: list[Pcm]) -> list[Recognition]:
    return ParaformerTorchEngine(MODEL, threads=1, precision="fp32").transcribe(samples)


def assert_close(found: Recognition, expected: Recognition) -> None:
    assert texts(found) == texts(expected)
    for one, other in zip(found.words, expected.words, strict=True):
        assert (one.begin_ms, one.end_ms) == pytest.approx((other.begin_ms, other.end_ms), abs=1)
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "plain"), [("Paraformer", False), ("BiCifParaformer", False), ("BiCifParaformer", True)]
)
def test_exported_graph_finds_what_pytorch_finds(kind: str, plain: bool, tmp_path: Path) -> None:
    config = tiny_config(kind)
    if plain:
        config["predictor_conf"] |= {"use_cif1_cnn": True, "upsample_type": "cnn"}
    write_checkpoint(tmp_path / "tiny", config, TOKENS, spread_out, dtype=torch.float32)
    segments = [*(speech_like(seconds, seed) for seed, seconds in enumerate(SECONDS)), *nearly_empty()]
    engine = ParaformerOnnxEngine(exported(tmp_path / "tiny", tmp_path), threads=2)
    torch_engine = ParaformerTorchEngine(tmp_path / "tiny", threads=1, precision="fp32")
    pairs = zip(engine.transcribe(segments), torch_engine.transcribe(segments), strict=True)
    for found, wanted in pairs:
        assert_close(found, wanted)
    assert sum(len(found.words) for found in engine.transcribe(segments)) > 100


def nearly_empty() -> list[Pcm]:
    return [np.zeros(length, np.int16) for length in (0, 100, 400, 16_000)]


def test_int8_hears_the_samples_as_fp32_does(
    int8: ParaformerOnnxEngine, samples: list[Pcm], expected: list[Recognition]
) -> None:
    for found, wanted in zip(int8.transcribe(samples), expected, strict=True):
        errors, _ = align("".join(texts(wanted)), "".join(texts(found)))
        assert errors <= 0.02 * len("".join(texts(wanted)))
    assert texts(int8.transcribe(samples)[0])


def test_int8_result_is_the_same_whatever_else_is_in_the_call(
    int8: ParaformerOnnxEngine, samples: list[Pcm]
) -> None:
    louder = [np.clip(part[:48_000].astype(int) * 8, -32768, 32767).astype(np.int16) for part in samples]
    together = int8.transcribe([*samples, *louder, *nearly_empty()])
    assert together[: len(samples)] == [int8.transcribe([part])[0] for part in samples]
    assert together[-4:] == [Recognition()] * 4


def test_funasr_onnx_reads_the_export(base: Path, samples: list[Pcm], expected: list[Recognition]) -> None:
    package = pytest.importorskip("funasr_onnx")
    directory = exported(MODEL, base)
    model = package.Paraformer(str(directory), intra_op_num_threads=1)
    found = model(samples[1].astype(np.float32) / (1 << 15))[0]["preds"][1]
    assert "".join(found) == "".join(texts(expected[1]))


def test_graph_of_funasr_gives_words_but_tells_no_times(
    tmp_path: Path, samples: list[Pcm], expected: list[Recognition], caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_funasr_model(MODEL)
    config = {key: value for key, value in loaded.files.config.items() if key != "model"}
    model: Any = export_rebuild_model(loaded.module, **config, max_seq_len=512, device="cpu")
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            model.export_dummy_inputs(),
            str(tmp_path / "model.onnx"),
            input_names=model.export_input_names(),
            output_names=model.export_output_names(),
            dynamic_axes=model.export_dynamic_axes(),
            opset_version=14,
            dynamo=False,
        )
    copy_beside(MODEL, tmp_path)
    with caplog.at_level(logging.WARNING):
        engine = ParaformerOnnxEngine(tmp_path, threads=1)
    assert "no times" in caplog.text
    found = engine.transcribe([samples[1]])[0]
    assert texts(found) == texts(expected[1])
    edges = [edge for word in found.words for edge in (word.begin_ms, word.end_ms)]
    assert edges == sorted(edges)
    assert (edges[0], edges[-1]) == (0, len(samples[1]) // 16)
    assert engine.transcribe(nearly_empty()) == [Recognition()] * 4


def test_directory_that_does_not_fit_is_refused(base: Path, tmp_path: Path) -> None:
    whole = exported(MODEL, base)

    def broken(name: str) -> Path:
        return Path(shutil.copytree(whole, tmp_path / name))

    missing, other, garbage, wrong = map(broken, ("missing", "other", "garbage", "wrong"))
    (missing / "model.onnx").unlink()
    shutil.copyfile(exported(STARTER / "fsmn-vad", base) / "model.onnx", other / "model.onnx")
    (garbage / "model.onnx").write_text("no graph")
    (wrong / "tokens.json").write_text('["<blank>", "<s>", "</s>", "a"]')
    for directory in (missing, other, garbage):
        with pytest.raises(ModelFilesError, match="Remedy"):
            ParaformerOnnxEngine(directory, threads=1)
    engine = ParaformerOnnxEngine(wrong, threads=1)
    with pytest.raises(ModelFilesError, match="vocabulary of 4"):
        engine.transcribe([read_wav(next((ROOT / "samples").glob("*.wav")))])
