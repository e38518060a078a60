"""The edge's settings: environment variables, since it may run on a machine of its own, without the graph."""

import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from serve_app.edge.errors import EdgeError


class Address(NamedTuple):
    """A host (a name, an IPv4 or an IPv6 address without brackets) and a port of it."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read ``host:port`` or ``[IPv6]:port``.

    Raises:
        ValueError: it is neither; the message says so.
    """
    match = re.fullmatch(r"\s*(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})\s*", text)
    if match is None or not 0 < int(match[3]) < 65536:
        raise ValueError(f"{text!r} is not a host and a port, such as 127.0.0.1:8000")
    return Address(match[1] or match[2], int(match[3]))


def _addresses(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return tuple(parse_address(entry) for entry in value.split(",") if entry.strip())


def _metrics(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return None if value.strip().lower() == "off" else parse_address(value)


def _networks(value: str | None) -> str | None:
    for entry in _entries(value):
        if entry != "*":
            try:
                ip_network(entry)
            except ValueError as error:
                raise ValueError(f"{entry!r} is not an address or a network such as 10.1.2.0/24") from error
    return value


def _entries(value: str | None) -> list[str]:
    return [entry.strip() for entry in (value or "").split(",") if entry.strip()]


Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[int, Field(ge=1, le=7 * 86_400)]


class EdgeSettings(BaseSettings):
    """What a user can set. A variable is ``EDGE_`` and the field's name in capitals, unless it says so."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="EDGE_", env_ignore_empty=True, populate_by_name=True
    )

    enabled: bool = True
    """Whether ``asr-serve serve`` starts an edge in front of the graph."""

    host: str = "127.0.0.1"
    """Address to listen on. ``asr-serve serve`` takes that of its config, or of ``--host``, instead."""

    port: Port = 8000
    """Port of everything. ``asr-serve serve`` takes that of its config, or of ``--port``, instead."""

    funasr_port: Port = 10095
    """Port of FunASR's protocol, TLS and plain; 0: none. The same as ``port``: one port for everything."""

    https_port: Port = 0
    """Port of everything, with TLS; 0: none."""

    metrics: Annotated[Address | None, NoDecode, BeforeValidator(_metrics)] = Address("127.0.0.1", 8405)
    """Where ``/metrics`` is, as ``host:port``; ``off``: nowhere."""

    backends: Annotated[tuple[Address, ...], NoDecode, BeforeValidator(_addresses)] = ()
    """Serve nodes, as ``host:port,host:port``. ``asr-serve serve`` uses its own."""

    certfile: Path | None = None
    """Certificate (PEM), with the chain behind it. Not set: a self-signed one, made in ``data_dir``."""

    keyfile: Path | None = None
    """Private key (PEM, not encrypted) of ``certfile``. Not set: it is in ``certfile``."""

    max_connections: int = Field(2000, ge=1, le=200_000)
    """Connections of clients that are served at once; further ones get 503."""

    max_connections_per_source: int = Field(0, ge=0)
    """Connections from one address that are served at once; further ones get 429. 0: any number."""

    request_timeout_sec: Seconds = 10
    """What a client may take to send a request's headers, or its TLS handshake, in seconds."""

    client_timeout_sec: Seconds = 60
    """Pause within an upload after which its client counts as gone, in seconds."""

    response_timeout_sec: Seconds = 4 * 3600
    """What the service may take to begin its answer, or pause within it, in seconds."""

    tunnel_timeout_sec: Seconds = 4 * 3600
    """Silence in both directions after which a WebSocket is closed, in seconds."""

    grace_sec: Seconds = 30
    """What open requests and connections have to end when the edge is stopped, in seconds."""

    access_log: bool | None = None
    """Whether each request is logged, or only failures. Not set: yes, but not under ``asr-serve serve``,
    where the graph logs its requests itself."""

    trusted_proxies: Annotated[str | None, AfterValidator(_networks)] = Field(
        None, validation_alias=AliasChoices("trusted_proxies", "TRUSTED_PROXIES")
    )
    """``TRUSTED_PROXIES``: addresses and networks, separated by commas, whose ``X-Forwarded-…`` headers are
    kept. Not set: nobody's."""

    data_dir: Path = Field(
        Path("~/.local/share/asr-serve"), validation_alias=AliasChoices("data_dir", "DATA_DIR")
    )
    """``DATA_DIR``: the self-signed certificate is kept in its directory ``edge``."""

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        if self.keyfile is not None and self.certfile is None:
            raise ValueError("EDGE_KEYFILE is given without EDGE_CERTFILE")
        if self.https_port and self.https_port in (self.port, self.funasr_port):
            raise ValueError("EDGE_HTTPS_PORT must be another port than EDGE_PORT and EDGE_FUNASR_PORT")
        return self

    @property
    def trusted_networks(self) -> list[str]:
        """``trusted_proxies`` as networks; ``*`` is all of them."""
        entries = _entries(self.trusted_proxies)
        return ["0.0.0.0/0", "::/0"] if "*" in entries else entries

    @property
    def uses_tls(self) -> bool:
        return bool(self.funasr_port or self.https_port)


def read_settings(**given: Any) -> EdgeSettings:
    """The environment's settings, with those of ``given`` that are not ``None`` in their place.

    Raises:
        EdgeError: a value is wrong; the message names its variable.
    """
    try:
        return EdgeSettings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).upper() if first["loc"] else ""
        own = name.lower() in EdgeSettings.model_fields and name not in ("TRUSTED_PROXIES", "DATA_DIR")
        prefix = f"{'EDGE_' if own else ''}{name}: " if name else ""
        raise EdgeError(f"{prefix}{first['msg'].removeprefix('Value error, ')}") from error
