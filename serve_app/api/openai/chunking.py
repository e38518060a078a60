"""``chunking_strategy``: how the speech in a recording is found."""

import json
from typing import Any, Literal

from pydantic import BaseModel, Field

_THRESHOLDS = ((0.0, -0.9), (0.5, 0.6), (1.0, 0.98))
"""OpenAI's ``threshold`` and FunASR's ``speech_noise_thres``, between which lines are drawn.

0.6 is FunASR's default. The ends stay clear of -1 and 1, where all or nothing would be speech.
"""


def chunking_value(value: Any) -> Any:
    """``auto``, or an object as JSON, as a value of :class:`ChunkingStrategy`."""
    if not isinstance(value, str):
        return value
    if value in ("auto", "server_vad"):
        return {"type": value}
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError("it must be auto, server_vad or a JSON object")
    return found


class ChunkingStrategy(BaseModel):
    """How speech is found. ``auto``: as the server is set; ``server_vad``: as the other fields say."""

    type: Literal["auto", "server_vad"]
    threshold: float = Field(
        0.5, ge=0, le=1, description="How sure it must be that somebody speaks; 0.5: as the model was made."
    )
    prefix_padding_ms: int = Field(
        300, ge=0, le=10_000, description="Accepted; the model adds what it needs before speech."
    )
    silence_duration_ms: int | None = Field(
        None, ge=0, description="Silence after which speech has ended, 100 to 6000; default: the setting."
    )

    @property
    def end_silence_ms(self) -> int | None:
        return self.silence_duration_ms if self.type == "server_vad" else None

    @property
    def speech_noise_threshold(self) -> float | None:
        """FunASR's threshold, which grows with OpenAI's; ``None`` for the model's own."""
        if self.type == "auto" or self.threshold == _THRESHOLDS[1][0]:
            return None
        low, high = _THRESHOLDS[:2] if self.threshold < _THRESHOLDS[1][0] else _THRESHOLDS[1:]
        share = (self.threshold - low[0]) / (high[0] - low[0])
        return low[1] + share * (high[1] - low[1])
