"""Who may look: whoever has ``ADMIN_KEY``; without one, whoever is on this machine."""

import hmac
from ipaddress import ip_address

from starlette.requests import HTTPConnection

from serve_app.addresses import plain
from serve_app.api.access import Access, bearer_token
from serve_app.errors import Unauthenticated
from serve_app.settings import Settings

_FORWARDED = ("x-forwarded-for", "forwarded", "x-real-ip")


class AdminAccess:
    """Lets those pass who may see how the service does."""

    def __init__(self, settings: Settings, access: Access) -> None:
        self._key = settings.admin_key.get_secret_value().encode() if settings.admin_key else None
        self._access = access

    def check(self, connection: HTTPConnection) -> None:
        """Return if the sender may look.

        Raises:
            Unauthenticated: it has no right key, or there is none and it is on another machine.
        """
        if self._key is not None:
            given = (bearer_token(connection) or "").encode(errors="surrogatepass")
            if not hmac.compare_digest(given, self._key):
                raise Unauthenticated("This needs the server's ADMIN_KEY, as 'Authorization: Bearer <key>'.")
            return
        if not _is_here(connection):
            raise Unauthenticated(
                "This is for clients on the server's own machine only. Set ADMIN_KEY to see it from others."
            )
        self._access.identify(connection)


def _is_here(connection: HTTPConnection) -> bool:
    """Whether the sender is on this machine, and no proxy says that it speaks for somebody else."""
    address = connection.client.host if connection.client else ""
    try:
        return plain(ip_address(address)).is_loopback and _speaks_for_nobody(connection)
    except ValueError:
        return False


def _speaks_for_nobody(connection: HTTPConnection) -> bool:
    named = [value for header in _FORWARDED for value in connection.headers.getlist(header)]
    others = [part.strip().strip('"[]') for value in named for part in value.split(",")]
    return all(other in ("127.0.0.1", "::1") for other in others)
