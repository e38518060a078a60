"""Several machines in one: network namespaces with addresses of their own, joined by a bridge."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.ray_nodes import Machine

_FIRST = 11


class NotAllowed(Exception):
    """This machine lets nobody like us make network namespaces; the message says why."""


@contextmanager
def network_machines(count: int) -> Iterator[tuple[str, list[Machine]]]:
    """As many machines, and the address by which this one is known to them.

    Raises:
        NotAllowed: there is no program ``ip``, or it may not make namespaces.
    """
    if shutil.which("ip") is None:
        raise NotAllowed("the program ip (package iproute2) is not installed")
    number = os.getpid() % 65_536
    name, net = f"asr{number}", f"10.{200 + number % 50}.{number // 256}"
    with ExitStack() as undo:
        try:
            _ip("link", "add", name, "type", "bridge")
            undo.callback(_ip, "link", "delete", name)
            _ip("addr", "add", f"{net}.1/24", "dev", name)
            _ip("link", "set", name, "up")
            machines = []
            for at in range(count):
                inside, ip = f"{name}n{at}", f"{net}.{_FIRST + at}"
                _ip("netns", "add", inside)
                undo.callback(_ip, "netns", "delete", inside)
                _ip("link", "add", f"{name}v{at}", "type", "veth", "peer", "name", "eth0", "netns", inside)
                _ip("link", "set", f"{name}v{at}", "master", name, "up")
                _ip("-n", inside, "addr", "add", f"{ip}/24", "dev", "eth0")
                for device in ("eth0", "lo"):
                    _ip("-n", inside, "link", "set", device, "up")
                machines.append(Machine(ip, ("ip", "netns", "exec", inside)))
        except subprocess.CalledProcessError as error:
            raise NotAllowed(str(error.stderr).strip()) from error
        yield f"{net}.1", machines


def cable(machine: Machine, state: str) -> None:
    """Pull a machine's network cable (``down``), or put it back (``up``)."""
    _ip("-n", machine.enter[-1], "link", "set", "eth0", state)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
