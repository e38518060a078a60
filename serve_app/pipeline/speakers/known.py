"""Which of a recording's voices are known ones."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from deployments.messages import Embeddings
from serve_app.pipeline.speakers.types import Voiceprint


def match(centers: Embeddings, known: Sequence[Voiceprint], similarity: float) -> dict[int, str]:
    """The names of those centers that are a known voice; each voice is given once, where the fit is best.

    Args:
        centers: shape ``(speakers, dimensions)``, rows of length 1.
        similarity: the cosine that a center and a voiceprint must have.
    """
    if not known:
        return {}
    prints = np.array([voice.embedding for voice in known], np.float32)
    alike = centers @ prints.T
    # What is too little alike must not cost another pair its match.
    rows, columns = linear_sum_assignment(np.where(alike >= similarity, alike, 0.0), maximize=True)
    return {
        int(row): known[column].name
        for row, column in zip(rows, columns, strict=True)
        if alike[row, column] >= similarity
    }
