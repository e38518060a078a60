"""Client secrets: keys that a server fetches for its clients, which expire and open nothing but WebSockets.

A secret holds all there is to know of it (whose it is, until when it holds, the session that it is for),
signed with a key that comes from its client's API key. So every replica knows those of all others, none is
kept, and with the API key its secrets are gone, too.
"""

import base64
import hmac
import json
import time
import zlib
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection

from serve_app.api.access import ANYBODY, Access, Client, bearer_token
from serve_app.api.realtime.errors import Mistake
from serve_app.errors import Unauthenticated

_PREFIX = "ek_"
_KEY_PROTOCOL = "openai-insecure-api-key."
"""What browsers, which cannot set headers, offer as a subprotocol: this, and the key behind it."""

_MAX_LENGTH = 4000
"""Characters of a secret: it has to fit into the header of a request."""

_MAX_SESSION = 100_000
_SIGNATURE_BYTES = 16


@dataclass(frozen=True, slots=True)
class Secret:
    """``session``: the configuration that a session opened with it begins with."""

    value: str
    client: Client
    expires_at: int
    session: dict[str, Any]


class ClientSecrets:
    """Gives secrets out, and knows them again."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def issue(self, client: Client, seconds: int, session: dict[str, Any]) -> Secret:
        """A new secret of a client that was let in.

        Raises:
            Mistake: ``session`` is too long for it.
        """
        key = self._access.signing_key(client)
        assert key is not None, "the client was let in"
        expires_at = int(time.time()) + seconds
        content = json.dumps([client.id, expires_at, session], separators=(",", ":")).encode()
        packed = zlib.compress(content, 9)
        value = _PREFIX + _encode(hmac.digest(key, packed, "sha256")[:_SIGNATURE_BYTES] + packed)
        if len(value) > _MAX_LENGTH or len(content) > _MAX_SESSION:
            raise Mistake(
                "The session is too long for a client secret; send its prompt in session.update.",
                "session",
            )
        return Secret(value, client, expires_at, session)

    def identify(self, connection: HTTPConnection) -> Client:
        """Who opens a WebSocket, by a key or a secret.

        Raises:
            Unauthenticated: neither is there, or it is not valid (any more).
        """
        secret = self.find(connection)
        if secret is None:
            return self._access.recognize(_token(connection))
        if secret.expires_at <= time.time():
            raise Unauthenticated("The client secret has expired; fetch a new one.")
        return secret.client

    def find(self, connection: HTTPConnection) -> Secret | None:
        """The secret that a connection brings, if it is one that was given out here; it may have expired."""
        value = _token(connection) or ""
        if not value.startswith(_PREFIX) or len(value) > _MAX_LENGTH:
            return None
        try:
            signed = _decode(value.removeprefix(_PREFIX))
            signature, packed = signed[:_SIGNATURE_BYTES], signed[_SIGNATURE_BYTES:]
            content = zlib.decompressobj().decompress(packed, _MAX_SESSION)
            client_id, expires_at, session = json.loads(content)
        except (ValueError, TypeError, RecursionError, zlib.error):
            return None
        client = Client(client_id) if isinstance(client_id, str) else ANYBODY
        key = self._access.signing_key(client)
        # Without keys of clients, there is nothing to sign with that others do not know.
        if key is None or not (isinstance(expires_at, int) and isinstance(session, dict)):
            return None
        expected = hmac.digest(key, packed, "sha256")[:_SIGNATURE_BYTES]
        if not hmac.compare_digest(signature, expected):
            return None
        return Secret(value, client, expires_at, session)


def _token(connection: HTTPConnection) -> str | None:
    offered = connection.scope.get("subprotocols", ())
    keys = (name.removeprefix(_KEY_PROTOCOL) for name in offered if name.startswith(_KEY_PROTOCOL))
    return next(keys, None) or bearer_token(connection)


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
