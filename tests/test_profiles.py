"""The configs in ``configs/``: each is one of Serve, of this graph, and fits the machine that it is for."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import DeploymentSchema, RayActorOptionsSchema

from deployments.autoscaling import policy_fault
from deployments.paraformer_streaming import ParaformerStreamingConfig
from deployments.punctuation import PunctuationConfig
from deployments.qwen3_aligner import Qwen3AlignerConfig
from deployments.recognizer import RecognizerConfig
from deployments.speaker_embedding import SpeakerEmbeddingConfig
from deployments.vad import VadConfig
from serve_app.app import build
from serve_app.capacity.budget import sharing
from serve_app.capacity.cards import GIB, sold_as
from serve_app.capacity.checking import CannotCheck, check_file
from serve_app.capacity.packing import fits_in_any_order
from serve_app.cli.served import fit_to_models
from serve_app.cli.server import load_config
from serve_app.jobs.deployment import JobsConfig
from serve_app.model_hub.selection import profile as models_of
from serve_app.settings import Settings

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
GPUS = {
    "gpu-16g": (16, 1),
    "gpu-24g": (24, 1),
    "gpu-80g": (80, 1),
    "gpu-multi": (24, 4),
    "multi-node": (24, 1),
}
"""By profile: the size of each GPU of a machine, in GB, and how many it has."""

ALL = ["starter-cpu", "cpu", *GPUS]

USER_CONFIGS: dict[str, type[BaseModel]] = {
    "Jobs": JobsConfig,
    "Vad": VadConfig,
    "Paraformer": RecognizerConfig,
    "ParaformerStreaming": ParaformerStreamingConfig,
    "Punctuation": PunctuationConfig,
    "SpeakerEmbedding": SpeakerEmbeddingConfig,
    "Qwen3Aligner": Qwen3AlignerConfig,
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def application(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    found: dict[str, Any] = document["applications"][0]
    return found


def entries(name: str) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in application(name)["deployments"]}


@pytest.fixture(scope="module")
def graph() -> set[str]:
    """Names of all deployments of the graph."""

    def names(node: Any) -> Iterator[str]:
        yield node._bound_deployment.name
        bound = node._bound_deployment
        for value in (*bound.init_args, *bound.init_kwargs.values()):
            yield from within(value)

    def within(value: Any) -> Iterator[str]:
        if hasattr(value, "_bound_deployment"):
            yield from names(value)
        elif isinstance(value, dict):
            for item in value.values():
                yield from within(item)
        elif hasattr(value, "__dataclass_fields__"):
            for field in value.__dataclass_fields__:
                yield from within(getattr(value, field))

    return set(names(build({"device": "cpu"})))


def test_these_are_all_profiles() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} - {"models"} == set(ALL)
    assert (CONFIGS / "starter-cpu.yaml").read_bytes() == (ROOT / "serve_config.yaml").read_bytes()


@pytest.mark.parametrize("name", ALL)
def test_every_entry_is_a_deployment_of_the_graph(name: str, graph: set[str]) -> None:
    config = load_config(CONFIGS / f"{name}.yaml", None, None)
    assert {entry.name for entry in config.applications[0].deployments} <= graph
    # What an environment without these models leaves out is passed over, not refused.
    config.applications[0].args |= {"enabled_models": "paraformer-starter"}
    left_out = fit_to_models(config)
    assert set(left_out) <= {"Qwen3ASR", "Qwen3Aligner"}
    assert len(config.applications[0].deployments) + len(left_out) == len(entries(name))


@pytest.mark.parametrize("name", ALL)
def test_what_is_set_is_known(name: str) -> None:
    Settings(**application(name)["args"])
    for deployment, entry in entries(name).items():
        # Serve itself passes over what it does not know.
        assert entry.keys() <= DeploymentSchema.model_fields.keys()
        assert entry["ray_actor_options"].keys() <= RayActorOptionsSchema.model_fields.keys()
        assert entry.get("autoscaling_config", {}).keys() <= AutoscalingConfig.model_fields.keys()
        assert policy_fault(entry.get("autoscaling_config")) is None
        if "user_config" in entry:
            USER_CONFIGS[deployment].model_validate(entry["user_config"], extra="forbid")


@pytest.mark.parametrize("name", ALL)
def test_there_is_room_to_refuse(name: str) -> None:
    settings, found = Settings(**application(name)["args"]), entries(name)
    sessions = settings.max_live_sessions + settings.max_concurrent_files
    assert found["Ingress"]["max_ongoing_requests"] > sessions
    streaming = found["ParaformerStreaming"]
    assert streaming["max_ongoing_requests"] > streaming["user_config"]["max_streams"]


@pytest.mark.parametrize(("name", "gpu", "gpus"), [(name, *machine) for name, machine in GPUS.items()])
def test_it_fits_the_gpus_that_it_is_for(name: str, gpu: int, gpus: int) -> None:
    found = check_file(CONFIGS / f"{name}.yaml", gpu * GIB, gpus)
    assert found.fits, found.text
    assert "Qwen3ASR" in found.text
    if name != "gpu-80g":
        smaller = check_file(CONFIGS / f"{name}.yaml", gpu * GIB // 2, gpus)
        assert not smaller.fits
    shares = [
        each.share
        for each in map(sharing, entries(name).values())
        if each.share
        for _ in range(each.replicas)
    ]
    if name == "multi-node":
        shares = [each.share for each in map(sharing, entries(name).values()) if each.share]
    assert fits_in_any_order(shares, gpus)


@pytest.mark.parametrize("name", GPUS)
def test_gigabytes_in_comments_are_the_shares(name: str) -> None:
    gpu, _ = GPUS[name]
    text = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    told = re.findall(
        r"^      # ([\d.]+) GB(?: each)?[:,](?:(?!^      - ).*\n)*?      - name: (\w+)\n", text, re.MULTILINE
    )
    assert told or name == "multi-node"
    for size, deployment in told:
        share = entries(name)[deployment]["ray_actor_options"]["num_gpus"]
        assert float(size) == pytest.approx(share * sold_as(gpu * GIB) / GIB, abs=0.06), deployment


def test_each_node_of_a_cluster_gets_one_of_each() -> None:
    found = entries("multi-node")
    on_gpus = [entry for entry in found.values() if sharing(entry).share]
    assert len(on_gpus) == 5
    assert all(entry["max_replicas_per_node"] == 1 for entry in on_gpus)
    assert sum(sharing(entry).share for entry in on_gpus) <= 1
    document = yaml.safe_load((CONFIGS / "multi-node.yaml").read_text(encoding="utf-8"))
    assert document["proxy_location"] == "EveryNode"
    for deployment in ("Ingress", "Vad", "Punctuation", "Paraformer", "ParaformerStreaming"):
        assert found[deployment]["autoscaling_config"]["min_replicas"] >= 2


@pytest.mark.parametrize("name", ["cpu", "multi-node"])
def test_models_that_are_named_are_those_of_the_download(name: str) -> None:
    args = application(name)["args"]
    named = {value for key, value in args.items() if key.endswith("_model")} | {
        *args["enabled_models"].split(",")
    }
    assert named == set(models_of("cpu" if name == "cpu" else "gpu-24g"))


def test_a_file_that_is_no_config_cannot_be_checked(tmp_path: Path) -> None:
    for content in ("- a list", "applications: []", "{"):
        (tmp_path / "config.yaml").write_text(content)
        with pytest.raises(CannotCheck, match=r"config\.yaml"):
            check_file(tmp_path / "config.yaml", 24 * GIB, 1)
    with pytest.raises(CannotCheck, match="cannot be read"):
        check_file(tmp_path / "none.yaml", 24 * GIB, 1)
    (tmp_path / "config.yaml").write_text("applications: [{args: {no_such: 1}, deployments: []}]")
    with pytest.raises(CannotCheck, match="no_such"):
        check_file(tmp_path / "config.yaml", 24 * GIB, 1)
