"""Forbids every process that has this directory in its PYTHONPATH to reach anything but this machine.

What is tried all the same is written to the file that NETWORK_GUARD names, with where, and fails. The numbers
of the processes that are guarded are in the file beside it that ends in .processes. Sockets that are not
Python's, as those between Ray's own processes, are not seen here.
"""

import ipaddress
import os
import socket
import sys
import traceback
from typing import Any

_LOG = os.environ.get("NETWORK_GUARD", "")
_OWN = {"", "localhost", socket.gethostname(), *os.environ.get("NETWORK_GUARD_OWN", "").split(",")}
_LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
_SENDS = {"socket.connect", "socket.sendto", "socket.sendmsg"}


def _is_own(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else str(host or "")
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return name in _OWN
    return address.is_loopback or address.is_unspecified or name in _OWN


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _LOOKUPS:
        host = arguments[0]
    elif event in _SENDS and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if _is_own(host):
        return
    where = "".join(traceback.format_stack(limit=12)[:-1])
    what = arguments[1:] if event in _SENDS else arguments
    _write(_LOG, f"{event} {what} in {sys.argv[:1]}\n{where}\n")
    raise PermissionError(f"the network is forbidden here: {event} {host!r}")


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, text.encode())
    os.close(descriptor)


if _LOG:
    _write(f"{_LOG}.processes", f"{os.getpid()}\n")
    sys.addaudithook(_guard)
