"""Settings become HAProxy's configuration."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from ipaddress import ip_address
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from serve_app.edge.settings import Address, EdgeSettings

VERSION = 1
"""Raised with each change of the template that an operator may notice."""

_MOST_THREADS = 4
"""One thread carries tens of thousands of messages a second; the cores are for the models."""

_RESERVE = 64
"""Connections above ``max_connections`` that are accepted to be refused politely, and those for metrics."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the configuration needs to know besides the settings.

    Attributes:
        binds: what to listen on, in HAProxy's words (``fd@7`` or ``127.0.0.1:8000``), by listener: ``http``,
            ``funasr``, ``https``, ``metrics``. ``http`` is missing where FunASR's port is that of everything.
        run_dir: directory of the sockets over which the process talks to itself; only its owner may enter it.
        certificate: file with certificate and key; ``None`` if nothing uses TLS.
        access_log: whether requests without a failure are logged.
    """

    binds: Mapping[str, str]
    run_dir: Path
    certificate: Path | None
    access_log: bool


def render(settings: EdgeSettings, around: Surroundings) -> str:
    """HAProxy's configuration, whole."""
    # Nothing of it becomes HTML.
    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    text = (files("serve_app.edge") / "haproxy.cfg.j2").read_text(encoding="utf-8")
    return environment.from_string(text).render(
        settings=settings,
        version=VERSION,
        binds={"http": None, "metrics": None, **around.binds},
        run_dir=around.run_dir,
        certificate=around.certificate,
        access_log=around.access_log,
        nodes=[str(address) for address in settings.backends],
        names=any(_is_name(address) for address in settings.backends),
        process_connections=process_connections(settings),
        threads=min(_MOST_THREADS, len(os.sched_getaffinity(0))),
    )


def process_connections(settings: EdgeSettings) -> int:
    """HAProxy's own bound. On FunASR's port each connection counts twice: it is passed on once inside."""
    return 2 * settings.max_connections + _RESERVE


def open_files(settings: EdgeSettings) -> int:
    """Files that a process with all its connections has open: two sockets for each, and some to work with."""
    return 2 * process_connections(settings) + 8 * len(settings.backends) + 128


def _is_name(address: Address) -> bool:
    try:
        ip_address(address.host)
    except ValueError:
        return True
    return False
