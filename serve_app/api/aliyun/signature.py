"""Requests that are signed with an AccessKey, as Aliyun's RPC APIs want them.

Rules: https://help.aliyun.com/zh/sdk/product-overview/rpc-mechanism
"""

import base64
import hashlib
import hmac
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from serve_app.errors import Unauthenticated

_VALID_FOR = timedelta(minutes=15)


class AccessDenied(Unauthenticated):
    """A request that is not signed, or not well; ``code`` is Aliyun's word for it."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def sign(secret: str, method: str, parameters: Mapping[str, str]) -> str:
    """The ``Signature`` of a request: HMAC-SHA1, base64.

    Args:
        secret: the AccessKeySecret.
        parameters: those of the query and of the form together; ``Signature`` itself is left out.
    """
    pairs = sorted((name, value) for name, value in parameters.items() if name != "Signature")
    query = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in pairs)
    text = f"{method.upper()}&{_quoted('/')}&{_quoted(query)}"
    digest = hmac.new(f"{secret}&".encode(), text.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


def verify(
    secrets: Collection[str], method: str, parameters: Mapping[str, str], now: datetime | None = None
) -> str:
    """Tell with which of ``secrets`` a request was signed, within a quarter of an hour of ``now``.

    Raises:
        AccessDenied: naming what is wrong, though never what would be right.
    """
    if parameters.get("SignatureMethod", "HMAC-SHA1").upper() != "HMAC-SHA1":
        raise AccessDenied("The only signature method here is HMAC-SHA1.", "InvalidParameter.SignatureMethod")
    given = parameters.get("Signature", "").encode()
    fitting = [key for key in secrets if hmac.compare_digest(sign(key, method, parameters).encode(), given)]
    if not fitting:
        raise AccessDenied(
            "The signature does not fit the request. It must be made with an API key of this server as "
            "the AccessKeySecret.",
            "SignatureDoesNotMatch",
        )
    try:
        made = datetime.strptime(parameters.get("Timestamp", ""), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise AccessDenied(
            "The parameter Timestamp must have the form 2026-01-31T12:00:00Z.", "InvalidTimeStamp.Format"
        ) from error
    if abs((now or datetime.now(UTC)) - made) > _VALID_FOR:
        raise AccessDenied(
            "The request was signed more than 15 minutes ago, or the clock of either side is wrong.",
            "InvalidTimeStamp.Expired",
        )
    return fitting[0]


def _quoted(text: str) -> str:
    return quote(text, safe="-_.~")
