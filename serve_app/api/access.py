"""Who may do what: the API key, wherever a client of one of the protocols may put it, and its share."""

import hashlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.requests import HTTPConnection, Request

from serve_app.errors import Unauthenticated
from serve_app.settings import Settings

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


ANYBODY = Client("anybody")
"""Every client of a server without keys."""


class Access:
    """Lets requests with the right key pass; with no key configured, all of them."""

    def __init__(self, settings: Settings) -> None:
        self._key = settings.api_key.get_secret_value().encode() if settings.api_key else None

    def identify(self, connection: HTTPConnection) -> Client:
        """Tell who sent a request, or opens a WebSocket.

        Raises:
            Unauthenticated: no key, or one that is not valid here.
        """
        if self._key is None:
            return ANYBODY
        token = bearer_token(connection)
        if token is None:
            raise Unauthenticated("No API key was sent. Send it as 'Authorization: Bearer <key>'.")
        if not secrets.compare_digest(token.encode(), self._key):
            raise Unauthenticated("The API key that was sent is not a valid one for this server.")
        return Client(hashlib.sha256(self._key).hexdigest()[:16])

    async def admit(self, request: Request) -> AsyncIterator[Client]:
        """FastAPI dependency: who sent the request, for as long as it is answered.

        Raises:
            Unauthenticated: as :meth:`identify`.
            RateLimited: the client sends more than its share.
        """
        yield self.identify(request)
