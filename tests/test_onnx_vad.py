"""FSMN-VAD in ONNX Runtime: the published model, both kinds of graphs, int8, and files that are none."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import yaml

from deployments.engines.base import SAMPLE_RATE, Pcm, VadBlock, VadOptions
from deployments.engines.model_files import ModelFilesError
from deployments.engines.onnx_export import Part, find_exporter, write_graph
from deployments.engines.vad_fsmn import FsmnVadEngine
from deployments.engines.vad_onnx import FsmnVadOnnxEngine
from deployments.messages import LiveVadRequest
from deployments.vad import Vad
from tests.onnx_models import (
    STARTER,
    constructor,
    detect,
    exported,
    hub_directory,
    largest_shift,
    milliseconds,
    real_fsmn_vad,
    spans_of_whole_audio,
)
from tests.vad_models import Spans, bursts, write_model

SAMPLES = Path(__file__).parents[1] / "samples"
DEFAULTS = VadOptions()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def recordings() -> list[Pcm]:
    read = (soundfile.read(path, dtype="int16")[0] for path in sorted(SAMPLES.glob("*.wav")))
    return [samples[: 25 * SAMPLE_RATE] for samples in read]


@pytest.fixture(scope="module")
def real() -> Path:
    data = real_fsmn_vad()
    if data is None:
        pytest.skip("the published FSMN-VAD is not here: REAL_FSMN_VAD names no directory with it")
    return data


@pytest.fixture(scope="module")
def real_speech(real: Path) -> Pcm:
    samples: Pcm
    samples, rate = soundfile.read(real / "vad_example.wav", dtype="int16")
    assert rate == SAMPLE_RATE
    return samples


@pytest.fixture(scope="module")
def expected(real: Path, real_speech: Pcm) -> dict[VadOptions, Spans]:
    options = [DEFAULTS, VadOptions(max_end_silence_ms=300, max_span_ms=5000)]
    return {option: spans_of_whole_audio(real, real_speech, option) for option in options}


@pytest.mark.parametrize("graph", ["fsmnvad-online.onnx", "fsmnvad-offline.onnx"])
def test_the_published_model_cuts_real_speech_as_a_run_over_the_whole_audio(
    real: Path, real_speech: Pcm, expected: dict[VadOptions, Spans], graph: str, tmp_path: Path
) -> None:
    """Within 20 ms, in files as live."""
    engine = FsmnVadOnnxEngine(hub_directory(real, graph, tmp_path / "model"), threads=1)
    for (options, spans), packet in zip(expected.items(), (960, 3200), strict=True):
        (whole,) = detect(engine, [real_speech], len(real_speech), options)
        assert len(spans) > 10
        assert largest_shift(spans, whole) <= 20
        assert detect(engine, [real_speech], packet, options) == [whole]


def write_other_graph(source: Path, directory: Path, kind: str) -> Path:
    """The model in ``source`` with a graph of one recording at a time, or of whole recordings only."""
    (part,) = find_exporter(source).parts(source)
    directory.mkdir()
    for name in ("config.yaml", "am.mvn"):
        shutil.copyfile(source / name, directory / name)
    if kind == "one at a time":
        example = tuple(value[:1] for value in part.example)
        axes: Any = {"speech": {1: "frames"}, "logits": {1: "frames"}}
        write_graph(Part("model", part.module, example, part.inputs, part.outputs, axes), directory)
        return directory
    caches = tuple(cache[:1] for cache in part.example[1:])

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.graph = part.module

        def forward(self, speech: torch.Tensor) -> tuple[torch.Tensor]:
            zeros = (torch.zeros_like(cache).expand(speech.shape[0], -1, -1, -1) for cache in caches)
            return (self.graph(speech, *zeros)[0],)

    batch = {0: "batch"} if kind == "whole recordings, batched" else {}
    axes = {"speech": {**batch, 1: "frames"}, "logits": {**batch, 1: "frames"}}
    speech = part.example[0] if batch else part.example[0][:1]
    write_graph(Part("model", Whole(), (speech,), ["speech"], ["logits"], axes), directory)
    return directory


@pytest.fixture(scope="module")
def random_model(base: Path) -> Path:
    """Three layers, so that nothing is made for the usual four."""
    return write_model(base / "random")


@pytest.mark.parametrize("kind", ["ours", "one at a time", "whole recordings", "whole recordings, batched"])
def test_recordings_side_by_side_are_cut_as_by_pytorch(
    random_model: Path, base: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "ours":
        directory = exported(random_model, base)
    else:
        directory = write_other_graph(random_model, tmp_path / "other", kind)
    engine = FsmnVadOnnxEngine(directory, threads=1)
    recordings = [bursts(seed, length) for seed, length in enumerate((12.0, 0.02, 7.3, 0.5, 12.0))]
    expected = detect(FsmnVadEngine(random_model, threads=1), recordings, 10**6, DEFAULTS)
    assert sum(map(len, expected)) > 5
    for packet in (10**6, 3200, 1234):
        assert detect(engine, recordings, packet, DEFAULTS) == expected


def test_the_starter_model_cuts_speech_as_in_pytorch_and_int8_nearly_so(
    base: Path, recordings: list[Pcm]
) -> None:
    source = STARTER / "fsmn-vad"
    expected = detect(FsmnVadEngine(source, threads=1), recordings, 10**6, DEFAULTS)
    assert sum(map(len, expected)) > 8
    same = FsmnVadOnnxEngine(exported(source, base), threads=1)
    assert detect(same, recordings, 10**6, DEFAULTS) == expected
    int8 = FsmnVadOnnxEngine(exported(source, base, quantize=True), threads=1)
    for packet in (10**6, 3200):
        found = detect(int8, recordings, packet, DEFAULTS)
        shifts = [largest_shift(ours, theirs) for ours, theirs in zip(expected, found, strict=True)]
        assert max(shifts) <= 30


def test_either_engine_goes_on_where_the_other_one_stopped(base: Path, recordings: list[Pcm]) -> None:
    source = STARTER / "fsmn-vad"
    engines = [FsmnVadEngine(source, threads=1), FsmnVadOnnxEngine(exported(source, base), threads=1)]
    samples = recordings[0]
    (expected,) = detect(engines[0], [samples], 10**6, DEFAULTS)
    found, state = [], None
    begins = range(0, len(samples), 3200)
    for number, begin in enumerate(begins):
        block = VadBlock(samples[begin : begin + 3200], state, begin == begins[-1])
        (result,) = engines[number % 2].detect([block])
        found += [milliseconds(span) for span in result.spans]
        state = result.state
    assert found == expected


def test_a_directory_of_the_older_layout(base: Path, tmp_path: Path, recordings: list[Pcm]) -> None:
    """``vad.yaml`` with ``vad_post_conf``, as ModelScope's first ``-onnx`` directories had them."""
    newer = exported(STARTER / "fsmn-vad", base)
    config = yaml.safe_load((newer / "config.yaml").read_text("utf-8"))
    config["vad_post_conf"] = config.pop("model_conf")
    del config["model"]
    (tmp_path / "vad.yaml").write_text(yaml.safe_dump(config), "utf-8")
    for name in ("am.mvn", "model.onnx"):
        shutil.copyfile(newer / name, tmp_path / name)
    found = detect(FsmnVadOnnxEngine(tmp_path, threads=1), recordings[:1], 10**6, DEFAULTS)
    assert found == detect(FsmnVadOnnxEngine(newer, threads=1), recordings[:1], 10**6, DEFAULTS)


def _cut_off(directory: Path) -> None:
    path = directory / "model.onnx"
    path.write_bytes(path.read_bytes()[:5000])


def _foreign(directory: Path) -> None:
    features = (torch.zeros(1, 3),)
    write_graph(Part("model", torch.nn.Linear(3, 3), features, ["features"], ["embedding"], {}), directory)


def _other_normalization(directory: Path) -> None:
    rows = f"<LearnRateCoef> 0 [ {' '.join(['1'] * 80)} ]"
    lines = ["<Nnet>", "<AddShift> 80 80", rows, "<Rescale> 80 80", rows, "</Nnet>"]
    (directory / "am.mvn").write_text("\n".join(lines), "utf-8")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda directory: (directory / "model.onnx").unlink(), "holds no model.onnx or model_quant.onnx"),
        (_cut_off, r"model.onnx: cannot be read as an ONNX graph \(.+\)"),
        (_foreign, "model.onnx: lacks the input speech; it has features"),
        (lambda directory: (directory / "am.mvn").unlink(), "am.mvn: .* is missing"),
        (lambda directory: (directory / "config.yaml").unlink(), "config.yaml: .* is missing"),
        (_other_normalization, "speech has the shape .*400.*, am.mvn 80 values"),
    ],
    ids=["no graph", "cut off", "of another model", "no normalization", "no config", "other normalization"],
)
def test_what_is_wrong_with_a_directory_is_said(
    base: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    directory = tmp_path / "model"
    shutil.copytree(exported(STARTER / "fsmn-vad", base), directory)
    damage(directory)
    with pytest.raises(ModelFilesError, match=said):
        FsmnVadOnnxEngine(directory, threads=1)


async def test_the_deployment_runs_the_form_that_is_asked_for(
    base: Path, recordings: list[Pcm], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.vad.replica_threads", lambda: 1)
    directory = tmp_path / "model"
    shutil.copytree(exported(STARTER / "fsmn-vad", base), directory)
    request = LiveVadRequest(recordings[0], 10**7, None, True, DEFAULTS)
    found = []
    for backend in ("auto", "onnx"):
        (answer,) = await constructor(Vad)(str(directory), "cpu", backend).detect_live([request])
        assert isinstance(answer, list)
        found.append([milliseconds(span) for result in answer for span in result.spans])
    assert found == 2 * detect(
        FsmnVadEngine(STARTER / "fsmn-vad", threads=1), recordings[:1], 10**7, DEFAULTS
    )
    with pytest.raises(ModelFilesError, match="FUNASR_ENGINE=auto or onnx"):
        constructor(Vad)(str(directory), "cpu", "torch")
    with pytest.raises(ModelFilesError, match="models export"):
        constructor(Vad)(str(STARTER / "fsmn-vad"), "cpu", "onnx")
