"""URLs that whoever has them may fetch, as those of DashScope's results: they are signed, and expire."""

import hashlib
import hmac
import time
from collections.abc import Mapping

from serve_app.errors import Unauthenticated
from serve_app.settings import Settings

_VALID_SECONDS = 24 * 3600


class Links:
    """Signs for clients what is theirs, with the server's keys as the secret."""

    def __init__(self, settings: Settings) -> None:
        keys = settings.api_key.get_secret_value() if settings.api_key else ""
        self._secret = hashlib.sha256(b"links of results:" + keys.encode(errors="surrogatepass")).digest()

    def signed(self, owner: str, job_id: str) -> dict[str, str]:
        """The query that lets its bearer read a result of a client."""
        expires = str(int(time.time()) + _VALID_SECONDS)
        return {"owner": owner, "expires": expires, "signature": self._sign(owner, job_id, expires)}

    def owner(self, query: Mapping[str, str], job_id: str) -> str:
        """Whose result a signed query leads to.

        Raises:
            Unauthenticated: it is not signed by this server, or not any longer valid.
        """
        owner, expires = query.get("owner", ""), query.get("expires", "")
        signature = query.get("signature", "").encode(errors="replace")
        if not hmac.compare_digest(signature, self._sign(owner, job_id, expires).encode()):
            raise Unauthenticated("The signature of the URL is not one of this server's.")
        # What is signed was written here, and so is a number.
        if int(expires) < time.time():
            raise Unauthenticated("The URL has expired; ask for the task again to get another one.")
        return owner

    def _sign(self, *parts: str) -> str:
        message = "\n".join(parts).encode(errors="replace")
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()
