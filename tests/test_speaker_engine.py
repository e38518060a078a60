"""Speaker engines give FunASR's own voices, whatever they share a batch with, and read models strictly."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from funasr.models.campplus.model import CAMPPlus
from funasr.models.campplus.utils import extract_feature
from funasr.models.eres2net.model import ERes2NetV2SV

from benchmarks.full_size import CAMPPLUS
from deployments.engines.base import SAMPLE_RATE, Embeddings, Pcm, Stretch
from deployments.engines.model_files import ModelFilesError
from deployments.engines.speaker_torch import SpeakerTorchEngine
from deployments.model_store import ModelMissing, find_model

CAMPPLUS_CONF = {"growth_rate": 8, "bn_size": 2, "init_channels": 24, "embedding_size": 32}
ERES2NET_CONF = {"m_channels": 8, "embedding_size": 24}
WIDE_ERES2NET_CONF = {**ERES2NET_CONF, "baseWidth": 24, "scale": 4, "expansion": 4}
BUILD: dict[str, Callable[..., torch.nn.Module]] = {"CAMPPlus": CAMPPlus, "ERes2NetV2": ERes2NetV2SV}
KINDS = [("CAMPPlus", CAMPPLUS_CONF), ("ERes2NetV2", ERES2NET_CONF), ("ERes2NetV2", WIDE_ERES2NET_CONF)]
SECONDS = (1.5, 0.3, 1.5, 0.777, 2.03, 4.4, 1.5)
"""Also above 2 s, where CAM++'s context is no longer the whole window."""


def network(kind: str, conf: dict[str, Any], seed: int = 1) -> torch.nn.Module:
    """FunASR's own with random weights, normalizations included: scales of both signs, and some of zero."""
    torch.manual_seed(seed)
    module = BUILD[kind](**conf).eval()
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.uniform_(-0.3, 0.3)
            part.running_var.uniform_(0.5, 2.0)
            if part.affine:
                part.weight.data.uniform_(-0.3, 1.5)
                part.weight.data[::7] = 0
                part.bias.data.uniform_(-0.3, 0.3)
    return module


def write(directory: Path, kind: str, conf: dict[str, Any], module: torch.nn.Module | None = None) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    module = module or network(kind, conf)
    torch.save(module.state_dict(), directory / "model.pt")
    (directory / "config.yaml").write_text(yaml.safe_dump({"model": kind, "model_conf": conf}))
    return directory


def sound(seconds: float, seed: int) -> Pcm:
    """Noise with some color and changing loudness."""
    generator = np.random.default_rng(seed)
    count = int(seconds * SAMPLE_RATE)
    noise = np.convolve(generator.standard_normal(count + 7), generator.standard_normal(8), "valid")
    loudness = 500 + 400 * np.sin(np.arange(count) / generator.uniform(1000, 5000))
    samples: Pcm = (noise * loudness).clip(-32768, 32767).astype(np.int16)
    return samples


def of_funasr(module: torch.nn.Module, windows: list[Pcm]) -> Embeddings:
    """What FunASR's own inference gives, one window at a time, made as long as 1."""
    voices = []
    with torch.inference_mode():
        for window in windows:
            features, _, _ = extract_feature([torch.from_numpy(window.astype(np.float32) / 32768)])
            voices.append(torch.nn.functional.normalize(module(features))[0].numpy())
    return np.stack(voices)


def engine(directory: Path, **options: Any) -> SpeakerTorchEngine:
    return SpeakerTorchEngine(directory, threads=1, **{"precision": "fp32", **options})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The threads of FunASR's small layers would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("campplus"), "CAMPPlus", CAMPPLUS_CONF)


@pytest.mark.parametrize(("kind", "conf"), KINDS, ids=["CAM++", "ERes2NetV2", "ERes2NetV2 w24s4ep4"])
@pytest.mark.parametrize(("precision", "least_cosine"), [("fp32", 0.999999), ("bf16", 0.998)])
def test_voices_are_those_of_funasr(
    tmp_path: Path, kind: str, conf: dict[str, Any], precision: str, least_cosine: float
) -> None:
    module = network(kind, conf)
    windows = [sound(seconds, seed) for seed, seconds in enumerate(SECONDS)]
    expected = of_funasr(module, windows)
    voices = engine(write(tmp_path, kind, conf, module), precision=precision).embed(windows)
    assert voices.dtype == np.float32
    assert voices.shape == expected.shape
    assert np.abs(np.linalg.norm(voices, axis=1) - 1).max() < 1e-5
    assert (voices * expected).sum(axis=1).min() > least_cosine
    if precision == "fp32":
        assert np.abs(voices - expected).max() < 2e-5


def test_voices_of_the_published_shape_are_those_of_funasr(tmp_path: Path) -> None:
    conf = CAMPPLUS["model_conf"]
    module = network("CAMPPlus", conf)
    windows = [sound(1.5, 1), sound(1.5, 2)]
    voices = engine(write(tmp_path, "CAMPPlus", conf, module)).embed(windows)
    assert np.abs(voices - of_funasr(module, windows)).max() < 2e-5


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.02)])
@pytest.mark.parametrize(("kind", "conf"), KINDS[:2], ids=["CAM++", "ERes2NetV2"])
def test_a_voice_does_not_depend_on_its_batch(
    tmp_path: Path, kind: str, conf: dict[str, Any], precision: str, tolerance: float
) -> None:
    embed = engine(write(tmp_path, kind, conf), precision=precision).embed
    windows = [sound(seconds, seed) for seed, seconds in enumerate((*SECONDS, *[1.5] * 40))]
    together = embed(windows)
    alone = np.concatenate([embed([window]) for window in windows])
    assert np.abs(together - alone).max() < tolerance
    order = np.random.default_rng(0).permutation(len(windows))
    assert np.abs(embed([windows[index] for index in order]) - together[order]).max() < tolerance


def test_windows_of_a_stretch_are_as_if_they_were_cut_out(model_dir: Path) -> None:
    speech = sound(8, 5)
    on_grid = [(begin, begin + 24_000) for begin in range(0, 96_001, 12_000)]
    windows = (*on_grid, (100_000, 128_000), (7, 24_007), (20_000, 20_300), (19_999, 60_000), (0, 24_000))
    other = Stretch(sound(2, 6), ((0, 24_000), (8_000, 32_000)))
    speaker = engine(model_dir)
    found = speaker.embed_stretches([Stretch(speech, windows), Stretch(speech, ()), other])
    assert [len(voices) for voices in found] == [len(windows), 0, 2]
    assert np.abs(found[0] - speaker.embed([speech[begin:end] for begin, end in windows])).max() < 1e-5
    assert np.abs(found[2] - speaker.embed([other.samples[b:e] for b, e in other.windows])).max() < 1e-5
    assert np.array_equal(found[0][0], found[0][-1])


@pytest.mark.parametrize("samples", [1, 160, 399, 719, 720, 2000])
@pytest.mark.parametrize(("kind", "conf"), KINDS[:2], ids=["CAM++", "ERes2NetV2"])
def test_short_windows_have_voices(tmp_path: Path, kind: str, conf: dict[str, Any], samples: int) -> None:
    voices = engine(write(tmp_path, kind, conf)).embed([sound(1, 3)[:samples], sound(1.5, 4)])
    assert np.isfinite(voices).all()
    assert np.abs(np.linalg.norm(voices, axis=1) - 1).max() < 1e-5


def test_digital_silence_has_a_voice(model_dir: Path) -> None:
    voices = engine(model_dir).embed([np.zeros(24_000, np.int16)])
    assert np.isfinite(voices).all()


def test_no_windows_are_no_voices(model_dir: Path) -> None:
    speaker = engine(model_dir)
    assert speaker.embed([]).shape == (0, CAMPPLUS_CONF["embedding_size"])
    assert speaker.embed_stretches([]) == []


@pytest.mark.parametrize("window", [(0, 0), (5, 4), (-1, 100), (0, 16_001)])
def test_windows_that_are_not_there_are_refused(model_dir: Path, window: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="does not lie in 16000 samples"):
        engine(model_dir).embed_stretches([Stretch(sound(1, 1), (window,))])


def test_the_published_layout_of_campplus(tmp_path: Path) -> None:
    module = network("CAMPPlus", CAMPPLUS_CONF)
    directory = write(tmp_path / "iic" / "campplus", "CAMPPlus", CAMPPLUS_CONF, module)
    (directory / "model.pt").rename(directory / "campplus_cn_common.bin")
    metas = {"init_param": "campplus_cn_common.bin", "config": "config.yaml"}
    (directory / "configuration.json").write_text(json.dumps({"file_path_metas": metas}))
    config = yaml.safe_load((directory / "config.yaml").read_text())
    config.update({"frontend": "WavFrontend", "frontend_conf": {"fs": 16000}})
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    windows = [sound(1.5, 1)]
    voices = engine(find_model("iic/campplus", tmp_path)).embed(windows)
    assert np.abs(voices - of_funasr(module, windows)).max() < 2e-5


@pytest.mark.parametrize("wrapped", [True, False])
def test_the_published_layout_of_eres2netv2(tmp_path: Path, wrapped: bool) -> None:
    conf = {"embedding_size": 16, "baseWidth": 8}
    module = network("ERes2NetV2", conf)
    assert isinstance(module, ERes2NetV2SV)
    weights = module.state_dict() if wrapped else module.model.state_dict()
    torch.save(weights, tmp_path / "pretrained_eres2netv2.ckpt")
    model = {
        "type": "eres2netv2-sv",
        "model_config": {"sample_rate": 16000, "embed_dim": 16, "baseWidth": 8, "scale": 2, "expansion": 2},
        "pretrained_model": "pretrained_eres2netv2.ckpt",
    }
    (tmp_path / "configuration.json").write_text(json.dumps({"task": "speaker-verification", "model": model}))
    windows = [sound(0.8, 1)]
    voices = engine(find_model(str(tmp_path), tmp_path)).embed(windows)
    assert np.abs(voices - of_funasr(module, windows)).max() < 2e-5


def without_a_parameter(directory: Path) -> None:
    weights = torch.load(directory / "model.pt")
    del weights["xvector.block2.tdnnd3.cam_layer.linear1.bias"]
    torch.save(weights, directory / "model.pt")


def with_another_width(directory: Path) -> None:
    rewrite(directory, growth_rate=16)


def rewrite(directory: Path, model: str = "CAMPPlus", **conf: Any) -> None:
    config = {"model": model, "model_conf": {**CAMPPLUS_CONF, **conf}}
    (directory / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            without_a_parameter,
            r"model\.pt: lacks the parameter xvector\.block2\.tdnnd3\.cam_layer\.linear1\.bias",
        ),
        (with_another_width, r"has the shape .*, but config\.yaml asks for"),
        (
            lambda directory: rewrite(directory, model="Paraformer"),
            "Paraformer is neither CAMPPlus nor ERes2NetV2",
        ),
        (lambda directory: rewrite(directory, output_level="frame"), "output_level: frame is not supported"),
        (lambda directory: (directory / "model.pt").write_bytes(b"no"), "cannot be read as PyTorch weights"),
        (lambda directory: (directory / "config.yaml").unlink(), "the file with the architecture is missing"),
        (lambda directory: (directory / "configuration.json").write_text("[]"), "not a JSON object"),
    ],
)
def test_a_directory_that_cannot_be_used_is_named(
    tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    directory = write(tmp_path, "CAMPPlus", CAMPPLUS_CONF)
    spoil(directory)
    with pytest.raises(ModelFilesError, match=said) as caught:
        engine(directory)
    assert str(directory) in str(caught.value)
    assert "Remedy: " in str(caught.value)


def test_a_published_directory_without_its_weights_is_named(tmp_path: Path) -> None:
    directory = write(tmp_path, "CAMPPlus", CAMPPLUS_CONF)
    metas = {"init_param": "campplus_cn_common.bin", "config": "config.yaml"}
    (directory / "configuration.json").write_text(json.dumps({"file_path_metas": metas}))
    with pytest.raises(ModelMissing, match=r"has no campplus_cn_common\.bin"):
        find_model(str(directory), tmp_path)


def test_options_are_checked(model_dir: Path) -> None:
    with pytest.raises(ValueError, match="threads"):
        SpeakerTorchEngine(model_dir, threads=0)
    with pytest.raises(ValueError, match="precision"):
        engine(model_dir, precision="fp64")
