"""TCP ports of this machine: which are free, and how a client reaches a server on one."""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager


class PortUnusable(Exception):
    """This process may not listen there; the message says why."""


class PortTaken(PortUnusable):
    """Another process listens there."""


def check_port(host: str, port: int) -> None:
    """Raise :class:`PortUnusable` or :class:`PortTaken` unless this process may listen on ``host:port``."""
    try:
        with _bound(host, port):
            return
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(f"Port {port} is in use.") from error
        raise PortUnusable(f"Cannot listen on {host}:{port}: {error.strerror or error}.") from error


def free_port(host: str) -> int:
    """A port of ``host`` that nobody listens on now."""
    with _bound(host, 0) as bound:
        return int(bound.getsockname()[1])


def url_of(host: str, port: int) -> str:
    """Where a client on this machine reaches a server that listens on ``host``."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as bound:
        # A port whose last connections still linger is free all the same.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        yield bound
