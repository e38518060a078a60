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

import ray
import yaml
from pydantic import ValidationError
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import DeploymentSchema, LoggingConfig, ServeDeploySchema
from rich.console import Console
from rich.markup import escape

from serve_app.cli.front import Front
from serve_app.cli.json_lines import is_json, print_workers_as_json
from serve_app.cli.metrics import MetricsExport
from serve_app.cli.ports import url_of
from serve_app.cli.quiet_ray import no_questions_to_clouds
from serve_app.cli.rollout import DeployError, Rollout
from serve_app.cli.served import NotServable, fit_to_models
from serve_app.cli.signals import Signals
from serve_app.edge.errors import EdgeError
from serve_app.observability.settings import MetricsError, MetricsSettings

logger = logging.getLogger(__name__)

_POLL_SEC = 0.5
_ASK_SEC = 5


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
    load: Callable[[], ServeDeploySchema],
    console: Console,
    metrics: MetricsSettings,
    edge: Mapping[str, Any] | None = None,
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
        export = MetricsExport(metrics)
        front = Front(config, edge or {}, console)
    except (MetricsError, EdgeError) as error:
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
                _metrics_export_port=export.port,
            )
        print_workers_as_json(console)
        signals.install()
        serve.start(
            proxy_location=config.proxy_location,
            http_options={**config.http_options.model_dump(), **front.proxy_address},
            logging_config=config.logging_config or _quiet(console),
        )
        rollout = Rollout(front, signals, console)
        if rollout.start(config):
            front.tell()
            where = url_of(config.http_options.host, config.http_options.port)
            console.print(f"[bold green]Ready[/] on {where} (process {os.getpid()}) - Ctrl-C stops it.")
            console.print(f"Metrics for Prometheus: {export.url}")
            _stay(load, rollout, front, export, signals, console)
    except (EdgeError, DeployError) as error:
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
                export.close()


def _quiet(console: Console) -> LoggingConfig:
    """For Serve's controller and proxies; the service's own replicas log as ``LOG_LEVEL`` says."""
    return LoggingConfig(log_level="WARNING", encoding="JSON" if is_json(console) else "TEXT")


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


def _stay(
    load: Callable[[], ServeDeploySchema],
    rollout: Rollout,
    front: Front,
    export: MetricsExport,
    signals: Signals,
    console: Console,
) -> None:
    """Return when told to stop; apply the config again as often as told to."""
    while not signals.stopping:
        # One that came while the service was starting, or while a config was applied, counts too.
        if not signals.reread():
            signals.wait(_POLL_SEC)
            front.tend()
            export.tell_certificate(front)
            continue
        try:
            config = _loaded(load, console)
            front.reload()
            if rollout.change(config):
                console.print("The config was read again and applied.")
        except (ServeError, EdgeError, DeployError) as error:
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
