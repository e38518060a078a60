"""Recordings inside a request: ``data:`` URLs (RFC 2397)."""

import base64
import binascii
import re

_HEADER = re.compile(
    r"data:(?:(?:audio|video|application)/[\w.+-]+)?(?:;[\w-]+=[^;,]*)*;base64", re.IGNORECASE
)


def is_audio_data_url(url: str) -> bool:
    """Whether ``url`` holds something in base64 that may be a recording."""
    header, comma, data = url.strip().partition(",")
    if not comma or not data or not _HEADER.fullmatch(header):
        return False
    try:
        base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True
