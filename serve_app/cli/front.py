"""What clients of ``asr-serve serve`` connect to: the edge, or Serve's own proxy where there is none."""

import os
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from ray.serve.schema import ServeDeploySchema
from rich.console import Console
from rich.markup import escape

from serve_app.cli.edge import Reporter, funasr_line
from serve_app.cli.ports import PortTaken, PortUnusable, check_port, free_port, url_of
from serve_app.edge.errors import EdgeError, HaproxyMissing
from serve_app.edge.settings import Address, EdgeSettings, read_settings
from serve_app.edge.supervisor import Edge

_GOODBYE_SEC = 10
"""What live connections have for their last sentence, once they were asked to end."""

_INNER_HOST = "127.0.0.1"
_SHARED = ("data_dir", "trusted_proxies")
"""Settings of the graph that the edge has, too."""


class Front:
    """Holds the ports that clients know, from the beginning to the end."""

    def __init__(self, config: ServeDeploySchema, given: Mapping[str, Any], console: Console) -> None:
        """Take the ports.

        Raises:
            EdgeError: a port is in use, or a setting of the edge is wrong.
        """
        self._console = console
        self._report = Reporter(console)
        self._outer = Address(config.http_options.host, config.http_options.port)
        self._edge: Edge | None = None
        shared = _shared_settings(config)
        settings = read_settings(**{**shared, **given}, host=self._outer.host, port=self._outer.port)
        self._inner = self._outer
        if settings.enabled:
            self._open(settings)
        if self._edge is None:
            _check_port(self._outer)

    def _open(self, settings: EdgeSettings) -> None:
        inner = Address(_INNER_HOST, free_port(_INNER_HOST))
        try:
            self._edge = Edge(
                settings.model_copy(update={"backends": (inner,)}), access_log=False, report=self._report
            )
            self._inner = inner
        except HaproxyMissing as error:
            if "enabled" in settings.model_fields_set:
                raise
            self._console.print(f"[yellow]Without the edge, so without TLS:[/] {escape(str(error))}")

    @property
    def proxy_address(self) -> dict[str, str | int]:
        """Options of Serve's proxy: where it listens."""
        return {"host": self._inner.host, "port": self._inner.port}

    @property
    def health_url(self) -> str:
        """Succeeds when a client's request would reach the graph."""
        return url_of(*self._outer) + "/-/healthz"

    def start(self) -> None:
        """Take connections. They get 503 until there is a graph; that needs no words.

        Raises:
            EdgeError: HAProxy cannot start.
        """
        if self._edge:
            self._report.muted = True
            self._edge.start()

    def tell(self) -> None:
        """Say where FunASR's clients find the service; from now on, what happens is worth a line."""
        if self._edge:
            self._report.muted = False
            self._console.print(funasr_line(self._edge.settings))

    @property
    def certificate_ends(self) -> datetime | None:
        """When the edge's certificate ends; ``None`` without an edge that speaks TLS."""
        return self._edge.certificate_ends if self._edge else None

    def tend(self) -> None:
        """To be called every now and then: an edge that died is started again."""
        if self._edge:
            self._edge.tend()

    def reload(self) -> None:
        """Read the certificate again.

        Raises:
            EdgeError: it cannot be used; everything goes on as it was.
        """
        if self._edge:
            self._edge.reload()

    @property
    def grace_seconds(self) -> float:
        """What :meth:`drain` waits for at most."""
        return self._edge.settings.grace_sec if self._edge else 0.0

    def drain(self, end: Callable[[], None]) -> None:
        """Let nobody new in, and wait until all who are in have come to an end.

        Serve's own proxy cannot do so: without an edge, all are cut off when it stops.

        Args:
            end: asks the live connections that are still there after the time of grace to end.
        """
        self._report.muted = True
        if self._edge:
            self._edge.drain()
            if not self._edge.wait(self.grace_seconds):
                end()
                self._edge.wait(_GOODBYE_SEC)

    def stop(self) -> None:
        """Give the ports back and cut off what is still open."""
        if self._edge:
            self._edge.stop()


def _shared_settings(config: ServeDeploySchema) -> dict[str, Any]:
    args = config.applications[0].args if config.applications else {}
    # As for the graph, a variable in the environment wins.
    return {name: args[name] for name in _SHARED if name in args and not os.environ.get(name.upper())}


def _check_port(address: Address) -> None:
    try:
        check_port(*address)
    except PortTaken as error:
        raise EdgeError(f"{error} Choose another one: make serve PORT=8001") from error
    except PortUnusable as error:
        raise EdgeError(str(error)) from error
