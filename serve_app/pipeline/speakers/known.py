"""Which of a recording's voices are known ones."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from serve_app.pipeline.speakers.clustering import Floats
from serve_app.pipeline.speakers.types import Voiceprint


def voices_in_common(
    voices: Floats, known: Sequence[Voiceprint], similarity: float, least: int
) -> list[tuple[int, int]]:
    """Pairs of voices that are one person's because both are surely the same known one's.

    Surely: the cosine is nearer to 1 than to ``similarity``. ``least`` voices are left, whatever they are.
    """
    if not known:
        return []
    alike = _likeness(voices, known)
    nearest = alike.argmax(axis=1)
    sure = alike.max(axis=1) >= (1 + similarity) / 2
    pairs: list[tuple[int, int]] = []
    first_of: dict[int, int] = {}
    for voice in np.flatnonzero(sure).tolist():
        first = first_of.setdefault(int(nearest[voice]), voice)
        if first != voice and len(voices) - len(pairs) > least:
            pairs.append((first, voice))
    return pairs


def names_of(voices: Floats, known: Sequence[Voiceprint], similarity: float) -> dict[int, str]:
    """The names of those voices that are known; each known voice is given once, so that all fit best.

    Args:
        voices: shape ``(voices, dimensions)``, rows of length 1.
        similarity: the cosine that a voice and a voiceprint must have.
    """
    if not known:
        return {}
    alike = _likeness(voices, known)
    # A pair that is too little alike must not cost another one its match.
    pairs = linear_sum_assignment(np.where(alike >= similarity, alike, 0), maximize=True)
    matched = zip(*(numbers.tolist() for numbers in pairs), strict=True)
    return {voice: known[entry].name for voice, entry in matched if alike[voice, entry] >= similarity}


def _likeness(voices: Floats, known: Sequence[Voiceprint]) -> Floats:
    prints = np.array([voiceprint.embedding for voiceprint in known], np.float64)
    return np.asarray(voices @ prints.T, np.float64)
