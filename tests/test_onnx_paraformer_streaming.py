"""Live streams in ONNX Runtime: the tokens of PyTorch, whatever shares a run; int8; graphs of FunASR."""

import itertools
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from funasr.models.paraformer_streaming.export_meta import export_rebuild_model

from benchmarks.engines import read_wav
from benchmarks.full_size import write_checkpoint
from deployments.engines.base import StreamOptions, Token
from deployments.engines.loading import load_funasr_model
from deployments.engines.model_files import ModelFilesError
from deployments.engines.onnx_export import copy_beside
from deployments.engines.onnx_export_paraformer import stream_texts
from deployments.engines.paraformer_streaming import ParaformerStreamingEngine, StreamingParaformer
from deployments.engines.paraformer_streaming_onnx import ParaformerStreamingOnnxEngine
from deployments.messages import StreamStep, StreamTokens
from deployments.paraformer_streaming import ParaformerStreaming
from starter.alignment import align
from tests.onnx_models import ROOT, STARTER, constructor, exported
from tests.test_paraformer_engine import TOKENS, speech_like
from tests.test_paraformer_streaming_engine import Script, config_of, run, spread_out

MODEL = STARTER / "paraformer-streaming"
TOLERANCE = 2e-3
NO_LOOK_BACK = StreamOptions((5, 10, 5), 0, 0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def tiny(base: Path) -> Path:
    write_checkpoint(base / "tiny", config_of("published"), TOKENS, spread_out, dtype=torch.float32)
    return base / "tiny"


@pytest.fixture(scope="module")
def scripts() -> list[Script]:
    """Streams of all lengths and options, in packets of any size."""
    options = (
        StreamOptions(),
        StreamOptions(),
        StreamOptions(),
        StreamOptions((5, 10, 5), 2, -1),
        StreamOptions((0, 8, 4), -1, 2),
        StreamOptions((0, 5, 0), 4, 0),
        NO_LOOK_BACK,
    )
    found = []
    for index, option in enumerate(options):
        samples = speech_like((0.01, 4.0, 7.3, 6.0, 5.0, 3.0, 4.6)[index], index)
        packet = (9600, 9600, 12_345, 4000, 30_000, 9600, 9600)[index]
        packets = [samples[begin : begin + packet] for begin in range(0, len(samples), packet)]
        found.append(Script(packets, option))
    return found


def streamed(engine: StreamingParaformer, scripts: list[Script], *, alone: bool = False) -> list[list[Token]]:
    groups = [[script] for script in scripts] if alone else [scripts]
    results = [stream for group in groups for stream in steps(engine, group)]
    return [[token for call in calls for token in call] for calls in results]


def steps(engine: StreamingParaformer, scripts: list[Script]) -> list[list[list[Token]]]:
    everything = list(range(len(scripts)))
    return run(engine, scripts, itertools.repeat(everything))


def assert_same(found: list[list[Token]], expected: list[list[Token]]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert [token.text for token in one] == [token.text for token in other]
        assert [token.log_prob for token in one] == pytest.approx(
            [token.log_prob for token in other], abs=TOLERANCE
        )
        times = [(token.begin_ms, token.end_ms) for token in one]
        assert np.array(times) == pytest.approx(
            np.array([(token.begin_ms, token.end_ms) for token in other]), abs=1
        )


def test_streams_together_and_alone_are_those_of_pytorch(
    tiny: Path, base: Path, scripts: list[Script]
) -> None:
    engine = ParaformerStreamingOnnxEngine(exported(tiny, base), threads=1)
    expected = streamed(ParaformerStreamingEngine(tiny, threads=1, precision="fp32"), scripts)
    assert sum(map(len, expected)) > 50
    assert_same(streamed(engine, scripts), expected)
    assert_same(streamed(engine, scripts, alone=True), expected)


def test_int8_hears_the_samples_as_pytorch_does(base: Path) -> None:
    recordings = [read_wav(path)[: 8 * 16_000] for path in sorted((ROOT / "samples").glob("*.wav"))][:3]
    engine = ParaformerStreamingOnnxEngine(exported(MODEL, base, quantize=True), threads=1)
    expected = stream_texts(ParaformerStreamingEngine(MODEL, threads=1, precision="fp32"), recordings)
    for found, wanted in zip(stream_texts(engine, recordings), expected, strict=True):
        assert wanted
        assert align("".join(wanted), "".join(found))[0] <= 0.04 * len(wanted)


@pytest.fixture(scope="module")
def of_funasr(tiny: Path, base: Path) -> Path:
    """What FunASR itself exports, whose encoder sees nothing but the chunk."""
    directory = base / "of-funasr"
    directory.mkdir()
    loaded = load_funasr_model(tiny)
    config = {key: value for key, value in loaded.files.config.items() if key != "model"}
    parts = export_rebuild_model(loaded.module, **config, device="cpu")
    for part in parts:
        model: Any = part.eval()
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                model.export_dummy_inputs(),
                str(directory / f"{model.export_name}.onnx"),
                input_names=model.export_input_names(),
                output_names=model.export_output_names(),
                dynamic_axes=model.export_dynamic_axes(),
                opset_version=14,
                dynamo=False,
            )
    copy_beside(tiny, directory)
    return directory


def test_graphs_of_funasr_are_read_and_look_back_no_further_than_their_chunk(
    of_funasr: Path, tiny: Path, scripts: list[Script]
) -> None:
    engine = ParaformerStreamingOnnxEngine(of_funasr, threads=1)
    torch_engine = ParaformerStreamingEngine(tiny, threads=1, precision="fp32")
    plain = [Script(script.packets, NO_LOOK_BACK) for script in scripts]
    assert_same(streamed(engine, plain), streamed(torch_engine, plain))
    # The decoder's look-back is the engine's own, so it works all the same.
    deeper = [Script(script.packets, StreamOptions((5, 10, 5), 0, 2)) for script in scripts]
    assert_same(streamed(engine, deeper), streamed(torch_engine, deeper))
    looking = [Script(script.packets, StreamOptions((5, 10, 5), 4, 0)) for script in scripts]
    assert_same(streamed(engine, looking), streamed(torch_engine, plain))


async def test_deployment_runs_the_form_that_is_there(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.paraformer_streaming.replica_threads", lambda threads: 1)
    directory = str(exported(MODEL, base, quantize=True))
    samples = read_wav(min((ROOT / "samples").glob("*.wav"), key=lambda path: path.stat().st_size))
    deployment = constructor(ParaformerStreaming)(directory, "cpu", "auto")
    reply = await deployment.step(StreamStep("one", 0, samples, True, StreamOptions()))
    assert isinstance(reply, StreamTokens)
    (expected,) = stream_texts(ParaformerStreamingOnnxEngine(Path(directory), threads=1), [samples])
    assert [token.text for token in reply.tokens] == expected
    assert expected
    with pytest.raises(ModelFilesError, match="FUNASR_ENGINE=auto or onnx"):
        constructor(ParaformerStreaming)(directory, "cpu", "auto", 0, "torch")


def test_directory_that_does_not_fit_is_refused(base: Path, tiny: Path, tmp_path: Path) -> None:
    whole = exported(tiny, base)
    lacking = Path(shutil.copytree(whole, tmp_path / "lacking"))
    (lacking / "decoder.onnx").unlink()
    with pytest.raises(ModelFilesError, match=r"decoder_quant\.onnx.*Remedy"):
        ParaformerStreamingOnnxEngine(lacking, threads=1)
    swapped = Path(shutil.copytree(whole, tmp_path / "swapped"))
    (swapped / "decoder.onnx").replace(swapped / "model.onnx")
    shutil.copyfile(whole / "model.onnx", swapped / "decoder.onnx")
    with pytest.raises(ModelFilesError, match="lacks the input"):
        ParaformerStreamingOnnxEngine(swapped, threads=1)
