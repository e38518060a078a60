"""The sockets that the edge listens on.

They are opened here and inherited by HAProxy: a process that takes over from another one, or from one that
died, finds them with the connections that came meanwhile, and nobody else can take a port in between.
"""

import errno
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from serve_app.edge.errors import EdgeError
from serve_app.edge.settings import Address, EdgeSettings

_BACKLOG = 4096


@dataclass(frozen=True, slots=True)
class _Wanted:
    address: Address
    setting: str
    needed: bool


class Listeners:
    """Open sockets by name: ``http``, ``funasr``, ``https``, ``metrics``."""

    def __init__(self, sockets: Mapping[str, socket.socket]) -> None:
        self._sockets = dict(sockets)

    @classmethod
    def open(cls, settings: EdgeSettings, report: Callable[[str], None]) -> Self:
        """Open all that are set. One that nobody asked for, but is there by default, may be missing.

        Args:
            settings: where to listen.
            report: is told, in a sentence, of each that is left out because its port is in use.

        Raises:
            EdgeError: a port is in use, or may not be listened on.
        """
        sockets: dict[str, socket.socket] = {}
        try:
            for name, wanted in _wanted(settings).items():
                try:
                    sockets[name] = _listen(wanted.address)
                except OSError as error:
                    if wanted.needed or error.errno != errno.EADDRINUSE:
                        raise _refusal(wanted, error) from error
                    report(_without(name, wanted))
        except EdgeError:
            for opened in sockets.values():
                opened.close()
            raise
        return cls(sockets)

    def __contains__(self, name: str) -> bool:
        return name in self._sockets

    @property
    def binds(self) -> dict[str, str]:
        """In HAProxy's words."""
        return {name: f"fd@{opened.fileno()}" for name, opened in self._sockets.items()}

    @property
    def descriptors(self) -> list[int]:
        return [opened.fileno() for opened in self._sockets.values()]

    def close(self) -> None:
        """Let the ports go, as far as this process is concerned."""
        for opened in self._sockets.values():
            opened.close()


def addresses(settings: EdgeSettings) -> dict[str, Address]:
    """Where each listener is, by name, for a HAProxy that opens them itself."""
    return {name: wanted.address for name, wanted in _wanted(settings).items()}


def _wanted(settings: EdgeSettings) -> dict[str, _Wanted]:
    chosen = settings.model_fields_set
    wanted = {}
    one_port = settings.port == settings.funasr_port
    if not one_port:
        wanted["http"] = _Wanted(Address(settings.host, settings.port), "EDGE_PORT", True)
    if settings.funasr_port:
        needed = one_port or "funasr_port" in chosen
        setting = "EDGE_PORT" if one_port else "EDGE_FUNASR_PORT"
        wanted["funasr"] = _Wanted(Address(settings.host, settings.funasr_port), setting, needed)
    if settings.https_port:
        wanted["https"] = _Wanted(Address(settings.host, settings.https_port), "EDGE_HTTPS_PORT", True)
    if settings.metrics:
        wanted["metrics"] = _Wanted(settings.metrics, "EDGE_METRICS", "metrics" in chosen)
    return wanted


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server(tuple(address), family=family, backlog=_BACKLOG)


def _refusal(wanted: _Wanted, error: OSError) -> EdgeError:
    if error.errno == errno.EADDRINUSE:
        advice = f"Choose another one with {wanted.setting}"
        if wanted.setting == "EDGE_PORT":
            advice = "Choose another one: make serve PORT=8001"
        return EdgeError(f"Port {wanted.address.port} is in use. {advice}")
    return EdgeError(f"Cannot listen on {wanted.address}: {error.strerror or error}.")


def _without(name: str, wanted: _Wanted) -> str:
    if name == "funasr":
        return (
            f"Port {wanted.address.port} is in use, so FunASR's clients do not find this server there. "
            f"{wanted.setting} chooses another port for them."
        )
    return f"Port {wanted.address.port} is in use: no metrics of the edge. {wanted.setting} chooses another."
