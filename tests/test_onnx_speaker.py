"""CAM++ in ONNX Runtime: the voices of PyTorch, graphs of others, and graphs of other models."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import torch

from deployments.engines.base import SAMPLE_RATE, Pcm, Stretch
from deployments.engines.model_files import ModelFilesError
from deployments.engines.onnx_export import Part, write_graph
from deployments.engines.speaker_onnx import SpeakerOnnxEngine
from deployments.engines.speaker_torch import SpeakerTorchEngine
from deployments.model_store import fingerprint
from deployments.speaker_embedding import SpeakerEmbedding
from tests.onnx_models import STARTER, constructor, exported

SOURCE = STARTER / "campplus"
CONVERSATION = STARTER.parents[1] / "samples" / "conversation.wav"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(SOURCE, tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="module")
def speech() -> Pcm:
    samples: Pcm = soundfile.read(CONVERSATION, dtype="int16")[0]
    return samples[: 8 * SAMPLE_RATE]


def stretches(speech: Pcm) -> list[Stretch]:
    """Windows of the usual length, and ones that are very short or much longer."""
    usual = [(begin, begin + 24000) for begin in range(0, len(speech) - 24000, 12000)]
    return [Stretch(speech, (*usual, (0, 100), (500, 3000))), Stretch(speech[:90000], ((0, 90000),))]


def test_voices_are_those_of_pytorch(directory: Path, speech: Pcm) -> None:
    ours, theirs = (
        np.concatenate(engine.embed_stretches(stretches(speech)))
        for engine in (
            SpeakerOnnxEngine(directory, threads=1),
            SpeakerTorchEngine(SOURCE, threads=1, precision="fp32"),
        )
    )
    assert ours.shape == theirs.shape == (len(ours), 192)
    assert (ours * theirs).sum(axis=1).min() > 0.9999
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


def test_a_window_does_not_depend_on_what_is_beside_it(directory: Path, speech: Pcm) -> None:
    engine = SpeakerOnnxEngine(directory, threads=1)
    windows = [speech[begin : begin + 24000] for begin in range(0, 72000, 12000)]
    together = engine.embed(windows)
    alone = np.concatenate([engine.embed([window]) for window in windows])
    assert (together * alone).sum(axis=1).min() > 0.99999
    assert engine.embed([]).shape == (0, 192)
    with pytest.raises(ValueError, match="does not lie in"):
        engine.embed_stretches([Stretch(speech, ((0, len(speech) + 1),))])


def test_graphs_that_others_have_published(tmp_path: Path, directory: Path, speech: Pcm) -> None:
    """Of one window at a time, under another name, with other names inside, beside no other file."""
    model = onnx.load(str(directory / "model.onnx"))
    (value,) = model.graph.input
    value.name, value.type.tensor_type.shape.dim[0].dim_value = "x", 1
    for node in model.graph.node:
        node.input[:] = ["x" if name == "features" else name for name in node.input]
    onnx.save(model, str(tmp_path / "other.onnx"))
    (tmp_path / "configuration.json").write_text('{"file_path_metas": {"onnx": "other.onnx"}}', "utf-8")
    windows = [speech[:24000], speech[24000:48000], speech[:9000]]
    expected = SpeakerOnnxEngine(directory, threads=1).embed(windows)
    found = SpeakerOnnxEngine(tmp_path, threads=1).embed(windows)
    assert (expected * found).sum(axis=1).min() > 0.9999


class _Sum(torch.nn.Module):
    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor]:
        return (features.sum(dim=1),)


@pytest.mark.parametrize(
    ("shape", "axes"), [((1, 20), {1: "frames"}), ((1, 20, 40), {1: "frames"}), ((1, 20, 80), {})]
)
def test_a_graph_of_another_model_is_refused(tmp_path: Path, shape: tuple[int, ...], axes: Any) -> None:
    write_graph(Part("model", _Sum(), (torch.zeros(shape),), ["x"], ["y"], {"x": axes}), tmp_path)
    with pytest.raises(
        ModelFilesError, match=r"model.onnx: takes .* and not features of \(windows, frames, 80\)"
    ):
        SpeakerOnnxEngine(tmp_path, threads=1)


def test_a_directory_without_a_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match=r"holds no model\.onnx"):
        SpeakerOnnxEngine(tmp_path, threads=1)


async def test_the_deployment_runs_the_form_that_is_asked_for(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.speaker_embedding.replica_threads", lambda: 1)
    constructor(SpeakerEmbedding)(str(directory), "cpu", "auto")
    with pytest.raises(ModelFilesError, match="FUNASR_ENGINE=auto or onnx"):
        constructor(SpeakerEmbedding)(str(directory), "cpu", "auto", "torch")


def test_a_graph_has_a_fingerprint_of_its_own(directory: Path) -> None:
    """By which enrolled voices are told from those of other models."""
    assert len(fingerprint(directory)) == 16
    assert fingerprint(directory) != fingerprint(SOURCE)
