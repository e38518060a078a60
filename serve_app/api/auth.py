"""The API key, wherever a client of one of the protocols may put it."""

import secrets

from pydantic import SecretStr
from starlette.requests import HTTPConnection

from serve_app.errors import Unauthenticated

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


class Authenticator:
    """Lets requests with the right key pass; with no key configured, all of them."""

    def __init__(self, api_key: SecretStr | None) -> None:
        self._key = api_key.get_secret_value().encode() if api_key else None

    def check(self, connection: HTTPConnection) -> None:
        """Raise :class:`Unauthenticated` unless the request may pass."""
        if self._key is None:
            return
        token = bearer_token(connection)
        if token is None:
            raise Unauthenticated("No API key was sent. Send it as 'Authorization: Bearer <key>'.")
        if not secrets.compare_digest(token.encode(), self._key):
            raise Unauthenticated("The API key that was sent is not a valid one for this server.")
