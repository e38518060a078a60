"""What an enrolled speaker is, to those who list and name them."""

from dataclasses import dataclass
from datetime import datetime

from deployments.messages import Embeddings


@dataclass(frozen=True, slots=True)
class EnrolledSpeaker:
    """A named voice of one owner.

    Attributes:
        seconds: speech that it was made from, in all its recordings.
        recordings: how many these were.
        created_at: when its first recording came; UTC.
        model: the fingerprint of the speaker model that made the voice.
        usable: whether that model is loaded; voices of different models cannot be compared.
        voice: shape ``(dimensions,)``, of length 1.
    """

    id: str
    owner: str
    name: str
    seconds: float
    recordings: int
    created_at: datetime
    model: str
    usable: bool
    voice: Embeddings
