"""What is asked of speaker diarization, and what it is told about known voices."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np

from deployments.messages import Embeddings

MOST_SPEAKERS = 50
"""As many as one recording may be said to have."""

LabelStyle = Literal["auto", "zh", "en"]

_LABELS = {"zh": "说话人{}", "en": "Speaker {}"}


@dataclass(frozen=True, slots=True)
class Voiceprint:
    """A known voice. ``embedding`` has length 1, and the dimensions of the model that made it.

    ``enrolled``: the server keeps it, so it is kept nowhere else.
    """

    name: str
    embedding: tuple[float, ...]
    enrolled: bool = False


@dataclass(frozen=True, slots=True)
class SpeakerOptions:
    """How the speakers of one recording or session are told apart.

    Attributes:
        count: how many there are, if that is known; ``least`` and ``most`` bound it where it is not.
        known: voices to look for; the first of those that share a name gives its spelling.
        by_channel: each channel of the recording is one speaker, and no voice is looked at.

    Raises:
        ValueError: bounds that no number fits; the message says so in a sentence.
    """

    count: int | None = None
    least: int | None = None
    most: int | None = None
    known: tuple[Voiceprint, ...] = ()
    by_channel: bool = False

    def __post_init__(self) -> None:
        for value in (self.count, self.least, self.most):
            if value is not None and not 1 <= value <= MOST_SPEAKERS:
                raise ValueError(f"There may be 1 to {MOST_SPEAKERS} speakers, not {value}.")
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ValueError(f"There cannot be at least {self.least} and at most {self.most} speakers.")

    def also_knowing(self, voices: Iterable[Voiceprint]) -> Self:
        """The same with more voices to look for, but for names that are known already."""
        names = {voice.name for voice in self.known}
        return replace(self, known=(*self.known, *(voice for voice in voices if voice.name not in names)))


@dataclass(frozen=True, slots=True)
class SpeakerTuning:
    """What the speaker model, and the settings, say of all recordings.

    Attributes:
        similarity: cosine above which two voices, each the mean of several windows, count as one person's.
        labels: what speakers without a name are called.
        model: what tells this speaker model from others, whose voices cannot be compared with its own.
    """

    similarity: float = 0.5
    labels: LabelStyle = "auto"
    model: str = ""

    def label(self, number: int, language: str) -> str:
        """What speaker ``number`` is called; ``language`` (ISO 639-1) is that of the recording."""
        style = self.labels if self.labels != "auto" else "zh" if language in ("zh", "yue", "ja") else "en"
        return _LABELS[style].format(number)


def mean_voice(embeddings: Embeddings, weights: Sequence[float] | None = None) -> Embeddings:
    """The voice in the middle of several of one person, shape ``(dimensions,)``, of length 1."""
    mean = np.average(embeddings, axis=0, weights=weights)
    voice: Embeddings = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
    return voice
