"""From no service to one, and from one config to the next without those noticing who are served meanwhile."""

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import httpx
import ray
from pydantic import ValidationError
from ray import serve
from ray.serve._private.common import ReplicaState
from ray.serve.context import _get_global_client
from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentSchema,
    DeploymentStatusOverview,
    ServeApplicationSchema,
    ServeDeploySchema,
)
from rich.console import Console

from serve_app.cli.front import Front
from serve_app.cli.gpus import gpu_shortage
from serve_app.cli.served import GRAPH, optional_deployments
from serve_app.cli.signals import Signals
from serve_app.enabled_models import FORMER

_POLL_SEC = 0.5
_LEAVING_SEC = 10
"""How long replicas of before may take to end before it is worth a line."""

_NO_ROOM = re.compile(r"replicas that have taken more than \d+s to be scheduled")
"""What Serve says of a deployment whose replicas find no node with the CPUs or GPUs that they ask for."""

_COMING = (ReplicaState.STARTING, ReplicaState.UPDATING, ReplicaState.RECOVERING)

Statuses = Mapping[str, ApplicationStatusOverview]


class DeployError(Exception):
    """The config cannot be served; the message says why."""


class Rollout:
    """Deploys one config after the other on the Serve instance of this process, and reports how far it is."""

    def __init__(self, front: Front, signals: Signals, console: Console) -> None:
        self._front = front
        self._signals = signals
        self._console = console
        self._applied: ServeDeploySchema | None = None

    def start(self, config: ServeDeploySchema) -> bool:
        """Deploy the first config and wait until clients reach it; ``False`` if told to stop.

        Raises:
            DeployError: it cannot be served.
        """
        self._deploy(config)
        ready = self._until_ready(config, lambda: self._signals.stopping)
        if ready:
            self._applied = config
        return ready

    def change(self, config: ServeDeploySchema) -> bool:
        """Go over to another config; ``False`` if told to stop, or to read the config once more.

        Raises:
            DeployError: it cannot be served. The one before is, then, as it was.
        """
        before = self._applied
        assert before is not None, "start() has returned true"
        try:
            for step in (between(before, config), config):
                if step is not None:
                    self._deploy(step)
                    if not self._until_ready(step, self._is_interrupted, changing=True):
                        return False
        except DeployError:
            self._deploy(before)
            raise
        self._applied = config
        return True

    def _is_interrupted(self) -> bool:
        return self._signals.stopping or self._signals.asked_to_reread

    def _deploy(self, config: ServeDeploySchema) -> None:
        have = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray has not annotated it
        shortage = gpu_shortage(config, int(have.get("GPU", 0)))
        if shortage is not None:
            raise DeployError(shortage)
        # Serve has no public call that deploys a whole config without its dashboard; `serve run` uses this.
        client = _get_global_client()
        assert client is not None, "Serve runs before anything is deployed"
        client.deploy_apps(config)

    def _until_ready(
        self, config: ServeDeploySchema, is_over: Callable[[], bool], *, changing: bool = False
    ) -> bool:
        """Report progress until all applications run and clients reach them, or ``is_over``."""
        progress = _Progress(self._console)
        crowded: set[tuple[str, str]] = set()
        with self._console.status("Starting ..."):
            while not is_over():
                self._signals.wait(_POLL_SEC)
                self._front.tend()
                applications = serve.status().applications
                progress.tell(applications, changing)
                if changing and (more := without_room(applications) - crowded):
                    crowded |= more
                    progress.tell_crowded(more)
                    self._deploy(making_room(config, crowded))
                    continue
                running = [item.status == ApplicationStatus.RUNNING for item in applications.values()]
                if len(running) == len(config.applications) and all(running) and self._answers():
                    return True
        return False

    def _answers(self) -> bool:
        try:
            return httpx.get(self._front.health_url, timeout=2, trust_env=False).is_success
        except httpx.TransportError:
            return False


class _Progress:
    """Says what is worth a line, once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._healthy: set[str] = set()
        self._leaving_since: float | None = None

    def tell(self, applications: Statuses, changing: bool) -> None:
        """Raises :class:`DeployError` where an application was given up."""
        for name, application in applications.items():
            if application.status == ApplicationStatus.DEPLOY_FAILED:
                raise DeployError(f"{name} cannot start. {_failure(application)}")
            for deployment, overview in application.deployments.items():
                if overview.status.value == "HEALTHY" and deployment not in self._healthy:
                    self._healthy.add(deployment)
                    self._console.print(f"{deployment} is ready.")
        if changing:
            self._tell_leaving([item for of in applications.values() for item in of.deployments.items()])

    def tell_crowded(self, crowded: Iterable[tuple[str, str]]) -> None:
        names = ", ".join(sorted(name for _, name in crowded))
        self._console.print(
            f"There is no room for another replica of {names}: an old one ends first, and requests wait "
            "for the new one."
        )

    def _tell_leaving(self, deployments: Sequence[tuple[str, DeploymentStatusOverview]]) -> None:
        leaving = [name for name, item in deployments if item.replica_states.get(ReplicaState.STOPPING)]
        if not leaving or any(item.replica_states.get(state) for _, item in deployments for state in _COMING):
            return
        if self._leaving_since is None:
            self._leaving_since = time.monotonic() + _LEAVING_SEC
        elif time.monotonic() > self._leaving_since:
            self._leaving_since = math.inf
            names = ", ".join(leaving)
            self._console.print(f"New replicas serve. Those of before ({names}) end what they have begun.")


def _failure(application: ApplicationStatusOverview) -> str:
    """The most telling message: that of a deployment that failed, else the application's."""
    messages = [item.message for item in application.deployments.values() if item.message]
    return str(next(iter(messages), application.message)).strip()


def between(before: ServeDeploySchema, after: ServeDeploySchema) -> ServeDeploySchema | None:
    """A config to be applied on the way from one to the other; ``None`` where there is no need of one.

    Serve removes deployments that a new config no longer has at once, while ingress replicas of the old one
    still send them what their sessions and files bring. So this is ``after`` with the models of ``before``
    kept beside its own.
    """
    old = {application.name: application for application in before.applications}
    bridged = after.model_copy(deep=True)
    dropped = [_keep(old.get(application.name), application) for application in bridged.applications]
    return bridged if any(dropped) else None


def _keep(old: ServeApplicationSchema | None, new: ServeApplicationSchema) -> bool:
    """Whether ``new`` now holds deployments of ``old`` that it did not have."""
    if old is None or not old.import_path == new.import_path == GRAPH:
        return False
    try:
        dropped = {*optional_deployments(old.args)} - {*optional_deployments(new.args)}
    except ValidationError:
        # The graph itself says best which setting is wrong.
        return False
    if dropped:
        new.args = {**new.args, FORMER: old.args}
        new.deployments += [entry for entry in old.deployments if entry.name in dropped]
    return bool(dropped)


def without_room(applications: Statuses) -> set[tuple[str, str]]:
    """Deployments, by application and name, whose new replicas wait for a node that has room."""
    return {
        (name, deployment)
        for name, application in applications.items()
        for deployment, overview in application.deployments.items()
        if _NO_ROOM.search(overview.message)
    }


def making_room(config: ServeDeploySchema, crowded: Iterable[tuple[str, str]]) -> ServeDeploySchema:
    """``config`` with ``crowded`` deployments that end an old replica before they start a new one."""
    changed = config.model_copy(deep=True)
    for application in changed.applications:
        for name in (deployment for of, deployment in crowded if of == application.name):
            entry = next((entry for entry in application.deployments if entry.name == name), None)
            if entry is None:
                entry = DeploymentSchema(name=name)
                application.deployments.append(entry)
            entry.max_surge_percent = 0
    return changed
