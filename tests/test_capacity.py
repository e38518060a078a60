"""What shares a GPU has to fit it: needs, shares, and the limits that replicas really set."""

import os
import random
import shutil
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
import yaml
from ray.serve.schema import ServeDeploySchema

from deployments import replica
from deployments.engines.gpu_limit import CONTEXT_BYTES, limit_memory, memory_limit
from deployments.engines.onnx_session import OnnxSession
from deployments.engines.qwen3_vllm_start import OUTSIDE_BYTES, utilization
from serve_app.capacity.budget import sharing, too_small
from serve_app.capacity.cards import GIB, sold_as, told_by_driver
from serve_app.capacity.needs import needs
from serve_app.capacity.packing import fits, fits_in_any_order, place
from serve_app.capacity.weights import Model
from serve_app.capacity.written import WrittenSettings
from serve_app.cli.gpus import gpu_shortage
from serve_app.settings import Settings

ROOT = Path(__file__).parents[1]
PROFILE = ROOT / "configs" / "gpu-24g.yaml"
FULL: dict[str, Any] = {
    "enabled_models": "paraformer-large,qwen3-asr-0.6b",
    "vad_model": "fsmn-vad",
    "punctuation_model": "ct-punc",
    "punctuation_realtime_model": "ct-punc-realtime",
    "paraformer_streaming_model": "paraformer-zh-streaming",
    "speaker_model": "cam++",
    "qwen3_aligner_model": "qwen3-forced-aligner-0.6b",
    "modelscope_path": "/nowhere",
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))


def config(shares: dict[str, float], **args: Any) -> ServeDeploySchema:
    document = yaml.safe_load(PROFILE.read_text(encoding="utf-8"))
    application = document["applications"][0]
    application["args"] |= {**FULL, **args}
    for entry in application["deployments"]:
        if entry["name"] in shares:
            entry["ray_actor_options"]["num_gpus"] = shares[entry["name"]]
    return ServeDeploySchema.model_validate(document)


def test_the_cache_is_the_tokens_that_it_holds() -> None:
    need = needs(WrittenSettings(**FULL), {})["Qwen3ASR"]
    cache = next(part.size for part in need.parts if part.what == "cache")
    assert cache == 20_480 * 28 * 8 * 128 * 2 * 2
    given = needs(WrittenSettings(**FULL, qwen3_memory="6GB"), {})["Qwen3ASR"]
    assert given.total - need.total == 6 * GIB - cache
    fp32 = needs(WrittenSettings(**FULL, precision="fp32"), {})
    assert fp32["Qwen3ASR"].total > need.total
    assert (
        fp32["Qwen3Aligner"].total - needs(WrittenSettings(**FULL), {})["Qwen3Aligner"].total == 1840 * 10**6
    )


def test_a_cache_that_holds_no_whole_request_is_refused() -> None:
    shortage = gpu_shortage(config({}, qwen3_memory="1GB", gpu_memory="24GB"), 1)
    assert shortage is not None
    assert "QWEN3_MEMORY is 1.0 GB" in shortage
    assert "20480 tokens" in shortage
    assert (
        gpu_shortage(config({}, qwen3_memory="1GB", qwen3_max_model_len=8192, gpu_memory="24GB"), 1) is None
    )


def test_models_that_are_here_count_as_large_as_they_are(tmp_path: Path) -> None:
    starter = ROOT / "models" / "starter" / "paraformer"
    assert Model(str(starter), Settings()).weights_bytes == (starter / "model.pt").stat().st_size
    own = shutil.copytree(starter, tmp_path / "own")
    with (own / "model.pt").open("ab") as file:
        os.truncate(file.name, 300 * 2**20)
    grown = needs(WrittenSettings(paraformer_model=str(own)), {})["Paraformer"]
    assert grown.parts[0].size == 300 * 2**20
    assert Model("paraformer-large", WrittenSettings(**FULL)).weights_bytes == 900 * 10**6


def test_the_streams_of_a_model_are_counted_by_its_own_shape() -> None:
    def kept(streams: int, **args: Any) -> int:
        need = needs(WrittenSettings(**args), {"ParaformerStreaming": {"max_streams": streams}})
        return next(part.size for part in need["ParaformerStreaming"].parts if "streams" in part.what)

    assert kept(200, **FULL) == 2 * kept(100, **FULL)
    assert kept(100, **FULL, precision="fp32") == 2 * kept(100, **FULL)
    assert kept(100) < kept(100, **FULL) / 20


def test_what_does_not_fit_is_refused_with_the_arithmetic() -> None:
    assert gpu_shortage(config({}, gpu_memory="24GB"), 1) is None
    shortage = gpu_shortage(config({"Qwen3ASR": 0.3}, gpu_memory="24GB"), 1)
    assert shortage is not None
    assert (
        "Qwen3ASR: num_gpus 0.3 = 6.6 GB; weights 1.8 + cache 6.0 + working memory 1.5 + CUDA 0.5 = 9.8 GB"
        in (shortage)
    )
    assert "TOO SMALL, give it 0.45" in shortage
    assert gpu_shortage(config({"Qwen3ASR": 0.45}, gpu_memory="24GB"), 1) is None
    smaller = gpu_shortage(config({}, gpu_memory="8GB"), 1)
    assert smaller is not None
    assert "TOO LARGE for such a GPU" in smaller
    # Two GPUs are not one memory.
    both = gpu_shortage(config({"Qwen3ASR": 2}, qwen3_memory="20GB", gpu_memory="24GB"), 3)
    assert both is not None
    assert "Qwen3ASR: num_gpus 2 = 22.0 GB" in both


def test_the_driver_is_asked_where_nobody_says_how_large_gpus_are() -> None:
    assert gpu_shortage(config({}), 1, lambda: None) is None
    assert gpu_shortage(config({}), 1, lambda: 23_028 * 2**20) is None
    assert gpu_shortage(config({}), 1, lambda: 15_360 * 2**20) is not None
    assert gpu_shortage(config({}, gpu_memory="24GB"), 1, lambda: 15_360 * 2**20) is None


def test_starter_models_fit_everywhere() -> None:
    document = yaml.safe_load(PROFILE.read_text(encoding="utf-8"))
    document["applications"][0]["args"] = {
        "gpu_memory": "24GB",
        "enabled_models": "paraformer-starter,qwen3-asr-starter",
    }
    assert gpu_shortage(ServeDeploySchema.model_validate(document), 1) is None


@pytest.mark.parametrize(
    ("sold", "least", "most"), [(16, 14.4, 14.6), (24, 21.9, 22.1), (80, 78.5, 79.2), (20, 17.5, 18.5)]
)
def test_programs_do_not_get_all_of_a_card(sold: int, least: float, most: float) -> None:
    assert least <= sold_as(sold * GIB) / GIB <= most
    assert told_by_driver(sold * GIB) == sold * GIB - GIB // 2


@pytest.mark.parametrize(
    ("shares", "gpus", "held"),
    [
        ([0.3, 0.6, 0.3], 2, [[0, 1], [2]]),
        # The fullest that still has room, not the first.
        ([0.5, 0.7, 0.3], 2, [[0], [1, 2]]),
        ([0.2, 1.0, 0.2], 2, [[0, 2], [1]]),
        ([0.2, 2.0], 3, [[0], [1], [1]]),
        ([0.6, 0.6], 1, None),
        ([0.1, 1.0], 1, None),
    ],
)
def test_replicas_are_placed_as_ray_does(
    shares: list[float], gpus: int, held: list[list[int]] | None
) -> None:
    assert place(shares, gpus) == held


def test_an_order_that_leaves_no_room_is_found() -> None:
    # A whole GPU is left only if the small ones come together on the other one.
    assert fits([1.0, 0.6, 0.4], 2)
    shares = [0.5, 0.5, 0.3, 0.7]
    assert fits(shares, 2)
    assert not fits_in_any_order(shares, 2)
    dice = random.Random(1)
    for _ in range(50):
        found = [dice.randint(1, 60) / 100 for _ in range(dice.randint(1, 8))]
        placed = place(found, 3)
        assert placed is None or all(sum(found[at] for at in gpu) <= 1 + 1e-6 for gpu in placed)


class PretendedCuda:
    """What is used here of ``torch.cuda``, for there is no GPU where tests run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, total: int) -> None:
        self.fraction = 1.0
        for name, pretended in {
            "is_available": lambda: True,
            "get_device_properties": lambda _: SimpleNamespace(total_memory=total),
            "set_per_process_memory_fraction": self.limit,
            "get_per_process_memory_fraction": lambda _: self.fraction,
        }.items():
            monkeypatch.setattr(torch.cuda, name, pretended)

    def limit(self, fraction: float, _device: int) -> None:
        self.fraction = fraction


def test_a_replica_takes_no_more_of_a_gpu_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    total = 22 * GIB
    cuda = PretendedCuda(monkeypatch, total)
    shares = {"GPU": 0.25}
    monkeypatch.setattr(replica, "_assigned", lambda resource: shares.get(resource, 0.0))
    assert replica.claim_device("auto") == "cuda"
    assert cuda.fraction * total == pytest.approx(0.25 * total - CONTEXT_BYTES)
    assert memory_limit() == pytest.approx(0.25 * total - CONTEXT_BYTES, abs=1)
    cuda.fraction = 1.0
    assert replica.claim_device("cpu") == "cpu"
    assert cuda.fraction == 1.0
    for whole in (0.0, 1.0, 2.0):
        limit_memory(whole)
        assert memory_limit() is None


def test_a_share_below_what_cuda_takes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    PretendedCuda(monkeypatch, 22 * GIB)
    with pytest.raises(
        ValueError, match=r"0\.44 GB of this GPU, and CUDA alone takes 0\.5 GB: give it 0\.05"
    ):
        limit_memory(0.02)


def negation(directory: Path) -> Path:
    """A graph of one operation."""
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None]) for name in "xy"]
    node = onnx.helper.make_node("Neg", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "negation", ends[:1], ends[1:])
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, ir_version=8, opset_imports=[opset]), directory / "model.onnx")
    return directory / "model.onnx"


@pytest.mark.parametrize("part", [1.0, 0.5])
def test_onnx_runtime_gets_the_same_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, part: float
) -> None:
    total = 22 * GIB
    PretendedCuda(monkeypatch, total)
    graph = negation(tmp_path)
    real = onnxruntime.InferenceSession
    asked: list[Any] = []

    def session(path: str, options: Any, *, providers: list[Any]) -> Any:
        asked.extend(providers)
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    OnnxSession(graph, threads=1, device="cuda", part=part)
    assert asked == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    asked.clear()
    limit_memory(0.1)
    OnnxSession(graph, threads=1, device="cuda", part=part)
    name, options = asked[0]
    assert name == "CUDAExecutionProvider"
    assert options["gpu_mem_limit"] == pytest.approx(part * (0.1 * total - CONTEXT_BYTES), abs=1)


def test_all_limits_of_a_profile_are_no_more_than_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    total = 22 * GIB
    cuda = PretendedCuda(monkeypatch, total)
    taken = 0.0
    document = yaml.safe_load(PROFILE.read_text(encoding="utf-8"))
    for entry in map(sharing, document["applications"][0]["deployments"]):
        if entry.name == "Qwen3ASR":
            taken += utilization(entry.share, total) * total + OUTSIDE_BYTES
        elif entry.share:
            limit_memory(entry.share)
            taken += cuda.fraction * total + CONTEXT_BYTES
    assert 0.9 * total < taken <= total


def test_a_deployment_on_the_cpu_needs_nothing_of_the_gpu() -> None:
    needed = needs(WrittenSettings(**FULL), {})
    entries = [sharing({"name": name}) for name in needed]
    assert too_small(entries, needed, GIB) is None


def nvidia_smi(directory: Path, memory: int, capability: float) -> None:
    command = directory / "nvidia-smi"
    command.write_text(
        f'#!/bin/sh\ncase "$*" in *compute_cap*) echo {capability};; *) echo {memory};; esac\n'
    )
    command.chmod(0o755)


def test_a_gpu_without_bf16_needs_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = yaml.safe_load((ROOT / "configs" / "gpu-16g.yaml").read_text(encoding="utf-8"))
    application = document["applications"][0]
    application["args"] |= FULL
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def shortage() -> str | None:
        return gpu_shortage(ServeDeploySchema.model_validate(document), 1)

    nvidia_smi(tmp_path, 16_376, 8.9)
    assert shortage() is None
    # A T4, of which 15 360 MiB are told; the profile says what to change for it.
    nvidia_smi(tmp_path, 15_360, 7.5)
    refused = shortage()
    assert refused is not None
    assert "64 streams 1.8" in refused
    application["args"] |= {"qwen3_aligner_model": "none"}
    entries = {entry["name"]: entry for entry in application["deployments"]}
    entries["ParaformerStreaming"]["user_config"]["max_streams"] = 32
    assert shortage() is None


@pytest.mark.parametrize("module", ["punctuation_onnx", "punctuation_realtime_onnx"])
def test_two_graphs_of_one_replica_share_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    directory = shutil.copytree(ROOT / "models" / "starter" / "ct-punc", tmp_path / "model")
    (directory / "model.pt").rename(directory / "model.onnx")
    parts: list[float] = []

    class Recorded(Exception):
        pass

    def session(*_: Any, part: float = 1.0, **__: Any) -> None:
        parts.append(part)
        raise Recorded

    loaded = import_module(f"deployments.engines.{module}")
    monkeypatch.setattr(loaded, "OnnxSession", session)
    engine = next(value for name, value in vars(loaded).items() if name.endswith("OnnxEngine"))
    with pytest.raises(Recorded):
        engine(directory, threads=1, device="cuda")
    assert parts == [0.5]
