"""Whether what shares a GPU fits it: the sum of the shares, and each share for the replica that gets it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_app.capacity.cards import gib
from serve_app.capacity.needs import Need
from serve_app.capacity.packing import fits

_ROUNDING = 1e-6
_AUTO_REPLICAS = 100
"""``max_replicas`` of Serve's ``num_replicas: auto``."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """A deployment's part of the GPUs.

    Attributes:
        name: of the deployment.
        share: ``num_gpus`` of a replica; 0: none.
        replicas: the largest number of them.
        config: its ``user_config``.
    """

    name: str
    share: float
    replicas: int = 1
    config: Mapping[str, Any] = field(default_factory=dict)


def sharing(entry: Mapping[str, Any]) -> Sharing:
    """What an entry under ``deployments`` of a Serve config, as written, asks for."""
    share = float((entry.get("ray_actor_options") or {}).get("num_gpus") or 0)
    scaling = entry.get("autoscaling_config")
    most = scaling.get("max_replicas") if isinstance(scaling, Mapping) else None
    replicas = most or entry.get("num_replicas") or 1
    if replicas == "auto":
        replicas = _AUTO_REPLICAS
    config = entry.get("user_config")
    return Sharing(
        str(entry.get("name")),
        share,
        replicas if isinstance(replicas, int) else 1,
        config if isinstance(config, Mapping) else {},
    )


def too_many(entries: Sequence[Sharing], gpus: int) -> str | None:
    """What is wrong with the shares on so many GPUs; ``None``: each replica finds its share.

    Ray would not complain: a replica whose share is not there waits for it for ever.
    """
    shares = [(entry.name, entry.share) for entry in entries for _ in range(entry.replicas) if entry.share]
    if fits([share for _, share in shares], gpus):
        return None
    listed = ", ".join(f"{name} {share:g}" for name, share in shares)
    total = math.fsum(share for _, share in shares)
    have = {0: "no GPU", 1: "one GPU"}.get(gpus, f"{gpus} GPUs")
    return (
        f"The replicas ask for {total:g} GPUs ({listed}), but there is {have} here. Give them less num_gpus, "
        "start fewer of them, or take a config for CPUs."
    )


def too_small(entries: Sequence[Sharing], needs: Mapping[str, Need], memory: int) -> str | None:
    """What is wrong with the shares of GPUs with ``memory`` bytes each; ``None``: every replica fits into
    its own.

    Together with :func:`too_many` this is all: shares of one GPU are no more than all of it.
    """
    users = [entry for entry in entries if entry.share and entry.name in needs]
    faults = [f"{entry.name}: {fault}" for entry in users if (fault := needs[entry.name].fault)]
    small = [entry for entry in users if needs[entry.name].total > _bytes(entry, memory) + _ROUNDING * memory]
    if not small and not faults:
        return None
    lines = [
        f"What is to share a GPU of {gib(memory)} GB does not fit it:",
        *(f"  {line}" for line in overview(entries, needs, memory)),
        *(f"  {fault}" for fault in faults),
        *_remedy(users, needs, memory, bool(small)),
    ]
    return "\n".join(lines)


def overview(entries: Sequence[Sharing], needs: Mapping[str, Need], memory: int) -> list[str]:
    """For each deployment that has a share: what that is, and what a replica needs."""
    return [
        _line(entry, needs[entry.name], memory) for entry in entries if entry.share and entry.name in needs
    ]


def least_share(need: Need, memory: int) -> float:
    """The least ``num_gpus`` in hundredths that holds it; above 1 where no GPU does."""
    return math.ceil(100 * need.total / memory - _ROUNDING) / 100


def _bytes(entry: Sharing, memory: int) -> float:
    # Whole GPUs are not one memory: a model is on one of them.
    return min(entry.share, 1.0) * memory


def _line(entry: Sharing, need: Need, memory: int) -> str:
    have = _bytes(entry, memory)
    many = f"{entry.replicas} replicas with " if entry.replicas > 1 else ""
    each = " each" if entry.replicas > 1 else ""
    verdict = "fits"
    if need.total > have + _ROUNDING * memory:
        verdict = f"TOO SMALL, give it {least_share(need, memory):g}"
        if need.total > memory:
            verdict = "TOO LARGE for such a GPU"
    return f"{entry.name}: {many}num_gpus {entry.share:g} = {gib(have)} GB{each}; {need}: {verdict}"


def _remedy(users: Sequence[Sharing], needs: Mapping[str, Need], memory: int, is_small: bool) -> list[str]:
    if not is_small:
        return []
    least = [
        max(least_share(needs[entry.name], memory), 0.01) for entry in users for _ in range(entry.replicas)
    ]
    total = math.fsum(least)
    if total <= 1:
        return [f"With the least shares all would take {total:.2f} of one GPU."]
    return [
        f"With the least shares all replicas would take {total:.2f} GPUs. Run some on the CPU (no num_gpus), "
        "lower QWEN3_MEMORY or max_streams, leave a model out (ENABLED_MODELS), or take a larger GPU."
    ]
