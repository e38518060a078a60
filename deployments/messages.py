"""What crosses a deployment handle. Everything here is immutable, typed and picklable.

Audio travels by reference: the ingress puts each decoded block into Ray's object store once, and an
:class:`AudioSlice` names the stretch of it that a deployment is to read. Results are the engines' own
types, which are re-exported so that callers need only this module.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deployments.engines.base import (
    SAMPLE_RATE,
    Pcm,
    Recognition,
    SpeechSpan,
    VadOptions,
    VadResult,
    VadState,
    Word,
)

__all__ = [
    "SAMPLE_RATE",
    "AudioPiece",
    "AudioSlice",
    "Pcm",
    "PunctuationRequest",
    "Recognition",
    "RecognitionRequest",
    "SpeechSpan",
    "VadOptions",
    "VadRequest",
    "VadResult",
    "VadState",
    "Word",
]


@dataclass(frozen=True, slots=True)
class AudioPiece:
    """Samples ``begin`` to ``end`` of one stored block (mono int16 at 16 kHz).

    ``ref`` is opaque to all but the graph that stored the block: a ``ray.ObjectRef`` in a cluster.
    """

    ref: Any
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class AudioSlice:
    """A stretch of audio that may lie across several blocks: its pieces, in order."""

    pieces: tuple[AudioPiece, ...]

    @property
    def num_samples(self) -> int:
        return sum(piece.end - piece.begin for piece in self.pieces)

    @property
    def seconds(self) -> float:
        return self.num_samples / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class VadRequest:
    """The next block of a recording for ``Vad.detect``; ``state`` is what the block before it returned."""

    audio: AudioSlice
    state: VadState | None
    final: bool
    options: VadOptions


@dataclass(frozen=True, slots=True)
class RecognitionRequest:
    """One segment for ``Paraformer.transcribe``."""

    audio: AudioSlice


@dataclass(frozen=True, slots=True)
class PunctuationRequest:
    """Unpunctuated words, as in :class:`Word`, for ``Punctuation.punctuate``."""

    words: Sequence[str]
