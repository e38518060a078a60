"""G.711, the codec of telephony: a byte for each sample, at 8 kHz (ITU-T Recommendation G.711)."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from deployments.engines.base import Pcm

Law = Literal["ulaw", "alaw"]

RATE = 8000
"""Samples per second."""


def _ulaw() -> npt.NDArray[np.int16]:
    """Bytes are sent inverted: sign, exponent (3 bits), mantissa (4 bits)."""
    code = np.arange(256, dtype=np.int32) ^ 0xFF
    magnitude = ((((code & 0x0F) << 3) + 0x84) << (code >> 4 & 7)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _alaw() -> npt.NDArray[np.int16]:
    """Every other bit is sent inverted; the lowest exponent has no leading one."""
    code = np.arange(256, dtype=np.int32) ^ 0x55
    exponent, step = code >> 4 & 7, ((code & 0x0F) << 4) + 8
    magnitude = np.where(exponent == 0, step, (step + 0x100) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


_TABLES = {"ulaw": _ulaw(), "alaw": _alaw()}


def decode(data: bytes, law: Law) -> Pcm:
    """The samples of ``data``, one for each byte, in 16 bits."""
    return _TABLES[law][np.frombuffer(data, np.uint8)]
