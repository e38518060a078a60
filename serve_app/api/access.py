"""Who may do what: the API key, wherever a client of one of the protocols may put it, and its share."""

import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address, ip_network

from starlette.requests import HTTPConnection, Request

from serve_app.addresses import HostList, plain
from serve_app.errors import Unauthenticated
from serve_app.settings import Settings
from serve_app.shares import Shares

_QUERY_KEYS = ("token", "x_nls_token", "X-NLS-Token")
"""For clients that cannot set headers, as browsers' WebSockets."""


def bearer_token(connection: HTTPConnection) -> str | None:
    """The key that a request carries, or ``None``.

    Read leniently: some clients send ``Bearer; key``, and a bare key without the scheme.
    """
    header = connection.headers.get("authorization", "").strip()
    if header[:6].lower() == "bearer":
        header = header[6:].lstrip("; ").strip()
    given = (connection.query_params.get(key) for key in _QUERY_KEYS)
    return header or connection.headers.get("x-nls-token") or next(filter(None, given), None)


@dataclass(frozen=True, slots=True)
class Client:
    """Who sent a request. ``id`` tells keys apart without being one: what a client stores belongs to it."""

    id: str


_SIGNING = b"asr-serve client secrets"

ANYBODY = Client("anybody")
"""Every client of a server without keys."""


class Access:
    """Lets requests with a right key pass; with no key configured, all of them. Each gets its share only."""

    def __init__(self, settings: Settings) -> None:
        listed = settings.api_key.get_secret_value() if settings.api_key else ""
        digests = [_digest(key) for key in map(str.strip, listed.split(",")) if key]
        self._clients = {digest: Client(digest.hex()[:16]) for digest in digests}
        self._peers = Peers(settings.trusted_proxies)
        storage = settings.rate_limit_storage
        self._shares = Shares(
            settings.rate_limit,
            storage.get_secret_value() if storage else None,
            settings.max_concurrent_per_key,
        )

    def identify(self, connection: HTTPConnection) -> Client:
        """Tell who sent a request, or opens a WebSocket.

        Raises:
            Unauthenticated: no key, or one that is not valid here.
        """
        return self.recognize(bearer_token(connection))

    def recognize(self, token: str | None) -> Client:
        """Tell whose key ``token`` is; raises as :meth:`identify`."""
        if not self._clients:
            return ANYBODY
        if token is None:
            raise Unauthenticated("No API key was sent. Send it as 'Authorization: Bearer <key>'.")
        # All keys are compared, and as digests: what the answer takes tells neither a key nor its length.
        given, found = _digest(token), None
        for digest, client in self._clients.items():
            if secrets.compare_digest(given, digest):
                found = client
        if found is None:
            raise Unauthenticated("The API key that was sent is not a valid one for this server.")
        return found

    def signing_key(self, client: Client) -> bytes | None:
        """What signs that which is given out on behalf of a client: the same in all replicas, and gone with
        the client's key. ``None``: there is no such client (any more)."""
        if not self._clients:
            return _SIGNING if client == ANYBODY else None
        for digest, known in self._clients.items():
            if known == client:
                return hmac.digest(digest, _SIGNING, "sha256")
        return None

    @asynccontextmanager
    async def serve(
        self, connection: HTTPConnection, identify: Callable[[HTTPConnection], Client] | None = None
    ) -> AsyncIterator[Client]:
        """Hold a client's place while its request is answered, or its WebSocket is open.

        ``identify`` tells who it is, in place of :meth:`identify`.

        Raises:
            Unauthenticated: as :meth:`identify`.
            RateLimited: the client sends more than its share. Clients without a key are told apart by their
                address, and so is who tries keys.
        """
        try:
            client = (identify or self.identify)(connection)
        except Unauthenticated:
            await self._shares.count(f"refused {self._peers.of(connection)}")
            raise
        share = client.id if client != ANYBODY else self._peers.of(connection)
        with self._shares.hold(share):
            await self._shares.count(share)
            yield client

    async def admit(self, request: Request) -> AsyncIterator[Client]:
        """FastAPI dependency: who sent a request, while it is answered; raises as :meth:`serve`."""
        async with self.serve(request) as client:
            yield client


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


class Peers:
    """Tells by its address who has no key."""

    def __init__(self, trusted_proxies: str | None) -> None:
        self._trusted = HostList(trusted_proxies)

    def of(self, connection: HTTPConnection) -> str:
        """The address that a connection comes from: for IPv6 its network, as one client has all of that.

        Each proxy adds whom it was called by to the end of ``X-Forwarded-For``; from there on, the header is
        read for as long as the one that wrote an entry is trusted.
        """
        address = connection.client.host if connection.client else ""
        forwarded = ",".join(connection.headers.getlist("x-forwarded-for")).split(",")
        while forwarded and self._trusted.has_address(address):
            before = forwarded.pop().strip()
            if not before:
                break
            address = before
        return _network(address)


def _network(address: str) -> str:
    try:
        parsed = plain(ip_address(address.strip("[]")))
    except ValueError:
        return address
    return str(parsed if isinstance(parsed, IPv4Address) else ip_network((parsed, 64), strict=False))
