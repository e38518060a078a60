"""Runs the service in the foreground, on a Ray instance of its own that ends with it.

Imported only by ``asr-serve serve``, after :mod:`serve_app.cli.environment` has done its part: Ray takes
seconds to import and reads its environment when it is.
"""

import io
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import httpx
import ray
import yaml
from pydantic import ValidationError
from ray import serve
from ray.exceptions import RayError
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, DeploymentSchema, LoggingConfig, ServeDeploySchema
from rich.console import Console
from rich.markup import escape

from serve_app.cli.front import Front
from serve_app.cli.gpus import gpu_shortage
from serve_app.cli.ports import url_of
from serve_app.cli.quiet_ray import no_questions_to_clouds
from serve_app.cli.served import NotServable, fit_to_models
from serve_app.cli.signals import Signals
from serve_app.edge.errors import EdgeError

logger = logging.getLogger(__name__)

_POLL_SEC = 0.5
_ASK_SEC = 5

_QUIET = LoggingConfig(log_level="WARNING")
"""For Serve's controller and proxies; the service's own replicas log as ``LOG_LEVEL`` says."""


class ServeError(Exception):
    """The service cannot run; the message says why and what to do."""


def load_config(path: Path, host: str | None, port: int | None) -> ServeDeploySchema:
    """Read a Serve config file and put ``host`` and ``port`` in place of its own.

    Raises:
        ServeError: the file is missing, or is not a Serve config.
    """
    try:
        config = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ServeError(f"There is no {path} here. Run this in the project's directory.") from error
    except (yaml.YAMLError, ValidationError) as error:
        raise ServeError(f"{path} is not a Serve config: {error}") from error
    if host is not None:
        config.http_options.host = host
    if port is not None:
        config.http_options.port = port
    return config


def cpus_wanted(config: ServeDeploySchema) -> float:
    """CPUs that all replicas of the config reserve once they run, at their smallest number."""
    return sum(_cpus_of(item) for application in config.applications for item in application.deployments)


def _cpus_of(deployment: DeploymentSchema) -> float:
    chosen = deployment.model_dump(exclude_unset=True)
    each = (chosen.get("ray_actor_options") or {}).get("num_cpus")
    scaling = chosen.get("autoscaling_config") or {}
    replicas = scaling.get("initial_replicas") or scaling.get("min_replicas") or chosen.get("num_replicas")
    return float(1 if each is None else each) * (replicas if isinstance(replicas, int) else 1)


def run(
    load: Callable[[], ServeDeploySchema], console: Console, edge: Mapping[str, Any] | None = None
) -> None:
    """Serve until SIGINT or SIGTERM, then stop every process that was started.

    ``load`` gives the config. It is called again at SIGHUP, and what changed is applied to the running
    service: replica counts and ``user_config`` without a restart of replicas, other things by new ones.
    ``edge`` has settings of the edge (:class:`serve_app.edge.settings.EdgeSettings`) that win over the
    environment; ``None`` stands for one that is not given.

    Raises:
        ServeError: the port is taken, or the service cannot start.
        KeyboardInterrupt: it was asked to stop a second time, while requests still ran.
    """
    config = _loaded(load, console)
    try:
        front = Front(config, edge or {}, console)
    except EdgeError as error:
        raise ServeError(str(error)) from error
    # Serve reports through the progress lines below; its warnings still come through.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    signals = Signals()
    try:
        front.start()
        with no_questions_to_clouds():
            ray.init(
                address="local",
                namespace="serve",
                num_cpus=_bookkept_cpus(config, console),
                include_dashboard=False,
                logging_level=logging.WARNING,
            )
        signals.install()
        serve.start(
            proxy_location=config.proxy_location,
            http_options={**config.http_options.model_dump(), **front.proxy_address},
            logging_config=config.logging_config or _QUIET,
        )
        _deploy(config)
        if _wait_until_ready(config, front, signals, console):
            front.tell()
            where = url_of(config.http_options.host, config.http_options.port)
            console.print(f"[bold green]Ready[/] on {where} (process {os.getpid()}) - Ctrl-C stops it.")
            _stay(load, front, signals, console)
    except EdgeError as error:
        raise ServeError(str(error)) from error
    except KeyboardInterrupt:
        signals.stopping = True
    finally:
        if signals.stopping:
            console.print(f"Stopping. What still runs gets {front.grace_seconds:g} s; Ctrl-C again ends it.")
        try:
            front.drain(lambda: _end_live_connections(config))
        finally:
            try:
                _shut_down()
            finally:
                front.stop()


def _loaded(load: Callable[[], ServeDeploySchema], console: Console) -> ServeDeploySchema:
    """The config, without entries for deployments that its settings leave out."""
    config = load()
    try:
        left_out = fit_to_models(config)
    except NotServable as error:
        raise ServeError(str(error)) from error
    if left_out:
        console.print(f"The config has {', '.join(left_out)}, which its settings leave out: passed over.")
    return config


def _stay(load: Callable[[], ServeDeploySchema], front: Front, signals: Signals, console: Console) -> None:
    """Return when told to stop; apply the config again as often as told to."""
    while not signals.stopping:
        # One that came while the service was starting, or while a config was applied, counts too.
        if not signals.reread():
            signals.wait(_POLL_SEC)
            front.tend()
            continue
        try:
            config = _loaded(load, console)
            front.reload()
            _deploy(config)
            if _wait_until_ready(config, front, signals, console):
                console.print("The config was read again and applied.")
        except (ServeError, EdgeError) as error:
            console.print(f"[red]The config was not applied.[/] {escape(str(error))}")


def _end_live_connections(config: ServeDeploySchema) -> None:
    """Have every ingress say goodbye to its live clients. One that cannot be asked is simply stopped."""
    for application in config.applications:
        try:
            handle = serve.get_app_handle(application.name)
            handle.broadcast("end_live_connections").results(timeout_s=_ASK_SEC)
        except (RayError, RayServeException, TimeoutError) as error:
            logger.info("%s was not asked to end its live connections: %r", application.name, error)


def _shut_down() -> None:
    # Ray reports the end of its own actors as failures; that would read as if stopping had gone wrong.
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            if ray.is_initialized():
                serve.shutdown()  # type: ignore[no-untyped-call]  # Ray has not annotated it
        finally:
            ray.shutdown()


def _bookkept_cpus(config: ServeDeploySchema, console: Console) -> int:
    """How many CPUs Ray shall believe in: a replica whose CPUs do not exist would wait for ever."""
    have = len(os.sched_getaffinity(0))
    wanted = cpus_wanted(config)
    if wanted > have:
        console.print(
            f"[yellow]The replicas ask for {wanted:g} CPUs and this machine has {have}: they will share.[/]"
        )
    return max(have, -int(-wanted // 1))


def _deploy(config: ServeDeploySchema) -> None:
    have = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray has not annotated it
    shortage = gpu_shortage(config, int(have.get("GPU", 0)))
    if shortage is not None:
        raise ServeError(shortage)
    # Serve has no public call that deploys a whole config without its dashboard; `serve run` uses this one.
    client = _get_global_client()
    assert client is not None, "serve.start() has just connected it"
    client.deploy_apps(config)


def _wait_until_ready(config: ServeDeploySchema, front: Front, signals: Signals, console: Console) -> bool:
    """Report progress until all applications run and clients reach them; ``False`` if told to stop."""
    healthy: set[str] = set()
    with console.status("Starting ..."):
        while not signals.stopping:
            signals.wait(_POLL_SEC)
            front.tend()
            applications = serve.status().applications
            for name, application in applications.items():
                if application.status == ApplicationStatus.DEPLOY_FAILED:
                    raise ServeError(f"{name} cannot start. {_failure(application)}")
                for deployment, overview in application.deployments.items():
                    if overview.status.value == "HEALTHY" and deployment not in healthy:
                        healthy.add(deployment)
                        console.print(f"{deployment} is ready.")
            running = [item.status == ApplicationStatus.RUNNING for item in applications.values()]
            if len(running) == len(config.applications) and all(running) and _answers(front.health_url):
                return True
    return False


def _failure(application: Any) -> str:
    """The most telling message: that of a deployment that failed, else the application's."""
    messages = [item.message for item in application.deployments.values() if item.message]
    return str(next(iter(messages), application.message)).strip()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).is_success
    except httpx.TransportError:
        return False
