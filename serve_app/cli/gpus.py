"""Whether the GPUs of a machine are enough for a Serve config."""

from collections.abc import Sequence

from ray.serve.schema import DeploymentSchema, ServeDeploySchema


def gpu_shortage(config: ServeDeploySchema, gpus: int) -> str | None:
    """What is wrong with the ``num_gpus`` of a config on a machine with so many GPUs; ``None``: nothing.

    Ray would not complain: a replica whose share is not there waits for it for ever. Ray does not watch over
    memory either, so shares that are more than one GPU together end in one that is full. Replicas count at
    their largest number.
    """
    shares = [
        (deployment.name, share)
        for application in config.applications
        for deployment in application.deployments
        for share in _shares(deployment)
    ]
    if _fit([share for _, share in shares], gpus):
        return None
    listed = ", ".join(f"{name} {share:g}" for name, share in shares)
    total = sum(share for _, share in shares)
    have = {0: "no GPU", 1: "one GPU"}.get(gpus, f"{gpus} GPUs")
    return (
        f"The replicas ask for {total:g} GPUs ({listed}), but there is {have} here. Give them less num_gpus, "
        "start fewer of them, or take a config for CPUs."
    )


def _shares(deployment: DeploymentSchema) -> list[float]:
    """What each replica asks for; nothing for those that need no GPU."""
    chosen = deployment.model_dump(exclude_unset=True)
    share = float((chosen.get("ray_actor_options") or {}).get("num_gpus") or 0)
    scaling = chosen.get("autoscaling_config") or {}
    replicas = scaling.get("max_replicas") or chosen.get("num_replicas") or 1
    return [share] * (replicas if isinstance(replicas, int) else 1) if share else []


def _fit(shares: Sequence[float], gpus: int) -> bool:
    """Whether each share finds a GPU that has so much left, the largest first."""
    left = [1.0] * gpus
    for share in sorted(shares, reverse=True):
        whole = max(1, round(share))
        each = share / whole
        places = [at for at, rest in enumerate(left) if rest >= each - 1e-9][:whole]
        if len(places) < whole:
            return False
        for at in places:
            left[at] -= each
    return True
