"""An HTTP client for URLs that strangers name: it connects to no address that it has not checked.

The check is in the step that opens a connection. So it holds for every redirect, every further request and
every name, and a name that changes its address between check and connection (DNS rebinding) gains nothing:
the name is resolved once for each connection, and the address that was checked is the one connected to.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from socket import SOCK_STREAM, getaddrinfo
from typing import Any

import httpcore
import httpx

from serve_app.addresses import HostList, may_connect
from serve_app.settings import Settings

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives the addresses of a host name and port; raises ``OSError`` if there are none."""

_RESOLVER_THREADS = 8
_CONNECT_SECONDS = 10.0
_READ_SECONDS = 30.0
_USER_AGENT = "asr-serve"


class AddressRefused(httpx.ConnectError):
    """The host of a URL has no address, or one that may not be connected to.

    Which of the two is not told, nor is the address: a stranger could map the network from inside with it.
    """

    def __init__(self) -> None:
        super().__init__("The host has no address that this server may connect to.")


class SystemResolver:
    """Asks the operating system, on threads of its own.

    A stranger's name server may be slow on purpose; it must not hold up the threads that all else needs.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVER_THREADS, "resolver")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, lambda: getaddrinfo(host, port, type=SOCK_STREAM))
        # IPv4 first: where IPv6 leads nowhere, which is common, each attempt would wait for its time-out.
        return sorted(dict.fromkeys(str(entry[4][0]) for entry in found), key=lambda address: ":" in address)


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections to checked addresses only. TLS still checks the certificate of the *name*."""

    def __init__(
        self, private: HostList, resolver: Resolver, network: httpcore.AsyncNetworkBackend | None = None
    ) -> None:
        """``private``: hosts to allow although they are not public; ``network``: what opens connections."""
        self._private = private
        self._resolve = resolver
        self._network = network or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 -- the name is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve, check all addresses, then try them in turn within ``timeout`` seconds."""
        seconds = _CONNECT_SECONDS if timeout is None else timeout
        deadline = asyncio.get_running_loop().time() + seconds
        addresses = await self._addresses(host, port, seconds)
        error: Exception = AddressRefused()
        for tried, address in enumerate(addresses):
            left = max(0.1, deadline - asyncio.get_running_loop().time())
            share = left / (len(addresses) - tried)
            try:
                return await self._network.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as failed:
                error = failed
        raise error

    async def _addresses(self, host: str, port: int, seconds: float) -> list[str]:
        try:
            async with asyncio.timeout(seconds):
                found = await self._resolve(host, port)
        except (OSError, UnicodeError):  # a label that is too long is a UnicodeError; TimeoutError an OSError
            return []
        return list(found) if may_connect(host, found, self._private) else []

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 -- the name is httpcore's
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise AddressRefused

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


class GuardedTransport(httpx.AsyncHTTPTransport):
    """HTTP/1.1 over a :class:`GuardedBackend`."""

    def __init__(self, backend: GuardedBackend, ssl_context: ssl.SSLContext) -> None:
        super().__init__(verify=ssl_context, trust_env=False)
        # httpx has no parameter for the backend, so its pool, still unused, gives way to one that has.
        self._pool = httpcore.AsyncConnectionPool(ssl_context=ssl_context, network_backend=backend)


def guarded_client(
    settings: Settings,
    *,
    resolver: Resolver | None = None,
    network: httpcore.AsyncNetworkBackend | None = None,
    ssl_context: ssl.SSLContext | None = None,
    **options: Any,
) -> httpx.AsyncClient:
    """A client for any URL that comes from outside: of recordings, and of webhooks.

    It refuses hosts in this server's own network (but those in ``allow_private_urls``), uses no proxy and
    no password file of the environment, follows no redirect by itself, and gives up after 10 s without a
    connection and 30 s without a byte. What it does not limit is the size of an answer and the time of the
    whole: wrap a request into ``asyncio.timeout``, and read an answer with ``client.stream`` and a count of
    bytes, or not at all.

    It keeps cookies, as httpx does: use one for a single stranger's requests, not for all of them. To make
    many of them cheap, pass one ``resolver`` (:class:`SystemResolver`) and one ``ssl_context``
    (``httpx.create_ssl_context()``, some 20 ms of work) to all.

    Args:
        resolver: what looks names up; the operating system if not given.
        network: what opens connections to checked addresses.
        options: passed on to :class:`httpx.AsyncClient`, as ``headers`` or ``timeout``.

    Raises:
        AddressRefused: by its requests: an ``httpx.ConnectError``, therefore an ``httpx.TransportError``.
    """
    private = HostList(settings.allow_private_urls)
    backend = GuardedBackend(private, resolver or SystemResolver(), network)
    headers = {"user-agent": _USER_AGENT, **dict(options.pop("headers", {}))}
    options.setdefault("timeout", httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS))
    return httpx.AsyncClient(
        transport=GuardedTransport(backend, ssl_context or httpx.create_ssl_context()),
        trust_env=False,
        headers=headers,
        **options,
    )
