"""A plan as a Serve config, with what each deployment is for as comments."""

import math
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from serve_app.capacity.cards import GIB, gib
from serve_app.capacity.rates import TARGET_BUSY
from serve_app.capacity.wishes import Plan, Stage

_WIDTH = 108
_REFUSALS = 64
"""Requests of an ingress replica beyond its limits: room to refuse them."""

_ONGOING = {"Vad": 256, "Punctuation": 256, "SpeakerEmbedding": 256, "Paraformer": 64}
_STREAMS_ONGOING = 2
"""Calls to a replica of ParaformerStreaming, for each stream that it may keep: one in work, one that is
refused."""

_SCALING: Mapping[str, Any] = {"metrics_interval_s": 1, "look_back_period_s": 2, "upscale_delay_s": 1}
_LIVE = ("Vad", "Paraformer")


def profile(plan: Plan, command: str) -> str:
    """YAML that ``asr-serve serve --config`` takes; ``command`` is how it was asked for."""
    head = (
        f"Planned by `{command}`. Figures of GPUs are published ones of other servers, none was measured "
        f"with this one, and each core and GPU is planned {TARGET_BUSY:g} busy: docs/sizing.md has them all."
    )
    document = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": 8000, "request_timeout_s": None},
    }
    lines = [*_comment(head, ""), "", *_yaml(document, "")]
    application = {
        "name": "asr",
        "route_prefix": "/",
        "import_path": "serve_app.app:build",
        "args": dict(plan.args),
    }
    first, *rest = _yaml(application, "    ")
    lines += ["", "applications:", f"  - {first.strip()}", *rest, "    deployments:"]
    for stage in plan.stages:
        lines += ["", *_comment(_about(stage, plan), "      ")]
        first, *rest = _yaml(_entry(stage, plan), "        ")
        lines += [f"      - {first.strip()}", *rest]
    return "\n".join(lines) + "\n"


def _about(stage: Stage, plan: Plan) -> str:
    carries = f"{stage.carries[:1].upper()}{stage.carries[1:]}."
    if stage.need is None:
        return carries
    return f"{carries} {gib(min(stage.share, 1) * plan.memory)} GB of a GPU: {stage.need}."


def _entry(stage: Stage, plan: Plan) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": stage.name}
    ongoing = _ongoing(stage, plan)
    if ongoing:
        entry["max_ongoing_requests"] = ongoing
    whole = int(stage.cores)
    resources: dict[str, Any] = {"num_cpus": whole if whole == stage.cores else stage.cores}
    if stage.share:
        resources["num_gpus"] = stage.share
    entry["ray_actor_options"] = resources
    if stage.scales:
        entry["autoscaling_config"] = _scaling(stage)
    elif stage.name in ("Qwen3ASR", "Qwen3Aligner", "SpeakerEmbedding"):
        # Their own default scales, and Serve takes no num_replicas beside that.
        entry["autoscaling_config"] = {"min_replicas": stage.replicas, "max_replicas": stage.replicas}
    else:
        entry["num_replicas"] = stage.replicas
    if stage.config:
        entry["user_config"] = dict(stage.config)
    return entry


def _ongoing(stage: Stage, plan: Plan) -> int | None:
    if stage.name == "Ingress":
        return int(plan.args["max_live_sessions"]) + int(plan.args["max_concurrent_files"]) + _REFUSALS
    if stage.name == "ParaformerStreaming":
        return _STREAMS_ONGOING * int(stage.config["max_streams"])
    return _ONGOING.get(stage.name)


def _scaling(stage: Stage) -> dict[str, Any]:
    least = 1 if stage.name == "SpeakerEmbedding" else max(1, math.ceil(stage.replicas / 4))
    bounds = {"initial_replicas": least, "min_replicas": least, "max_replicas": stage.replicas}
    if stage.name == "Ingress":
        policy = {
            "policy_function": "deployments.autoscaling:IngressPolicy",
            "policy_kwargs": {"target_share": 0.6, "hold_seconds": 600},
        }
        return {**bounds, **_SCALING, "upscale_delay_s": 5, "downscale_delay_s": 60, "policy": policy}
    kwargs = {"target_wait_seconds": 2.0, "target_busy": TARGET_BUSY, "hold_seconds": 300}
    if stage.name in _LIVE:
        kwargs |= {"target_wait_seconds": 0.5, "max_lag_seconds": 0.5}
    policy = {"policy_function": "deployments.autoscaling:AudioPolicy", "policy_kwargs": kwargs}
    return {**bounds, **_SCALING, "downscale_delay_s": 30, "policy": policy}


def _comment(text: str, indent: str) -> Iterator[str]:
    yield from textwrap.wrap(text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _yaml(content: Mapping[str, Any], indent: str) -> list[str]:
    text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
    return textwrap.indent(text, indent).rstrip("\n").split("\n")


def spelled_gpus(plan: Plan) -> str:
    """What a plan is for, in words."""
    if not plan.wish.gpus:
        return "no GPU"
    size = f"{plan.wish.gpu / GIB:g} GB, of which programs have {gib(plan.memory)}"
    return f"a GPU of {size}" if plan.wish.gpus == 1 else f"{plan.wish.gpus} GPUs of {size} each"
