"""Runs the edge in the foreground, in front of Serve nodes that were started elsewhere."""

import os
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from serve_app.cli.ports import url_of
from serve_app.cli.signals import Signals
from serve_app.edge.configuration import Surroundings, render
from serve_app.edge.errors import EdgeError
from serve_app.edge.listeners import addresses
from serve_app.edge.settings import EdgeSettings
from serve_app.edge.supervisor import Edge

POLL_SEC = 0.5
"""How often HAProxy is looked after."""


def run(settings: EdgeSettings, console: Console) -> None:
    """Serve until SIGINT or SIGTERM; SIGHUP makes it read the certificate again.

    Raises:
        EdgeError: a port is taken, or HAProxy cannot start.
        KeyboardInterrupt: it was asked to stop a second time, while requests still ran.
    """
    _need_backends(settings)
    signals = Signals()
    signals.install()
    edge = Edge(settings, access_log=True, report=Reporter(console))
    try:
        edge.start()
        console.print(funasr_line(edge.settings))
        where = url_of(settings.host, settings.port)
        console.print(f"[bold green]Ready[/] on {where} (process {os.getpid()}) - Ctrl-C stops it.")
        while not signals.stopping:
            signals.wait(POLL_SEC)
            if signals.reread():
                _reload(edge, console)
            edge.tend()
        console.print(f"Stopping. What still runs gets {settings.grace_sec} s; Ctrl-C again ends it.")
        edge.drain()
        deadline = time.monotonic() + settings.grace_sec
        while not edge.wait(0) and time.monotonic() < deadline:
            signals.wait(0.1)
    finally:
        edge.stop()


def show_configuration(settings: EdgeSettings) -> str:
    """What HAProxy would be given, for one that is started by other means.

    The certificate's file, if TLS is used, is ``edge.pem`` in the directory of the sockets.
    """
    _need_backends(settings)
    run_dir = Path(tempfile.gettempdir())
    binds = {name: str(address) for name, address in addresses(settings).items()}
    certificate = run_dir / "edge.pem" if settings.uses_tls else None
    return render(settings, Surroundings(binds, run_dir, certificate, settings.access_log is not False))


def funasr_line(settings: EdgeSettings) -> str:
    """Where FunASR's clients find the service, for the terminal."""
    port = settings.funasr_port
    if not port:
        return "FunASR's clients find it on the same port as everybody else, without TLS."
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    return f"FunASR's clients find it on wss://{host}:{port} and on ws://{host}:{port}."


class Reporter:
    """Prints what the edge reports, while it is not ``muted``."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.muted = False

    def __call__(self, text: str) -> None:
        if not self.muted:
            self._console.print(f"[yellow]Edge:[/] {escape(text)}")


def _need_backends(settings: EdgeSettings) -> None:
    if not settings.backends:
        raise EdgeError(
            "Which Serve nodes is the edge for? Give --backends host:port,host:port, or set EDGE_BACKENDS."
        )


def _reload(edge: Edge, console: Console) -> None:
    try:
        edge.reload()
        console.print("The certificate was read again.")
    except EdgeError as error:
        console.print(f"[red]Nothing was changed.[/] {escape(str(error))}")
