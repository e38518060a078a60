"""What a model backend takes and gives: one small protocol per capability.

All audio is mono int16 PCM at :data:`SAMPLE_RATE`. All times are integer milliseconds, relative to the
first sample that the engine was given. Engines are synchronous, keep no state between calls, and know
nothing of Ray or HTTP: the deployment that holds one decides on which thread it runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000
"""Samples per second of all audio inside the graph."""

Pcm = npt.NDArray[np.int16]
"""Mono int16 PCM at :data:`SAMPLE_RATE`, shape ``(samples,)``."""


@dataclass(frozen=True, slots=True)
class Word:
    """One recognized unit: a CJK character, or a whole word of an alphabetic script.

    ``begin_ms`` and ``end_ms`` are milliseconds; ``log_prob`` is the natural logarithm of the model's
    probability (a word of several sub-word tokens carries their sum).
    """

    text: str
    begin_ms: int
    end_ms: int
    log_prob: float = 0.0


@dataclass(frozen=True, slots=True)
class Recognition:
    """What was said in one segment; no words means that there was no speech in it."""

    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class VadState:
    """All that voice-activity detection must remember between two blocks of one recording.

    Opaque to its holder, small (tens of kilobytes) and picklable, so that any replica can go on where
    another one stopped.
    """

    payload: bytes


@dataclass(frozen=True, slots=True)
class VadOptions:
    """Endpointing of one recording. Milliseconds."""

    max_end_silence_ms: int = 800
    max_span_ms: int = 60_000


@dataclass(frozen=True, slots=True)
class VadBlock:
    """The next block of a recording, with the state that the block before it left."""

    samples: Pcm
    state: VadState | None
    final: bool
    options: VadOptions = field(default_factory=VadOptions)


@dataclass(frozen=True, slots=True)
class SpeechSpan:
    """A stretch of speech, in milliseconds from the begin of the recording."""

    begin_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class VadResult:
    """Spans that ended in this block, the begin of speech that still goes on, and the state to pass on.

    ``state`` is ``None`` after the final block. A later span never begins before the end of an earlier one.
    """

    spans: tuple[SpeechSpan, ...]
    open_begin_ms: int | None
    state: VadState | None


class VadEngine(Protocol):
    """Finds speech. Blocks of different recordings in one call are independent of each other."""

    def detect(self, blocks: Sequence[VadBlock]) -> list[VadResult]: ...


class AsrEngine(Protocol):
    """Recognizes whole segments, all of a call in one batch.

    The result of a segment must not depend on what else is in the batch, beyond rounding.
    """

    def transcribe(self, segments: Sequence[Pcm]) -> list[Recognition]: ...


class PunctuationEngine(Protocol):
    """Gives each word the mark that follows it: one of ``""``, ``"，"``, ``"。"``, ``"？"``, ``"、"``.

    A text is a sequence of words as in :class:`Word`. Marks are full-width whatever the script: what
    they look like after a Latin word is a matter of rendering.
    """

    def punctuate(self, texts: Sequence[Sequence[str]]) -> list[list[str]]: ...


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How a stream is cut and how far the model looks back; fixed at its begin.

    ``chunk_size`` is FunASR's left, center and right chunk in frames of 60 ms; the look-backs count chunks.
    """

    chunk_size: tuple[int, int, int] = (0, 10, 5)
    encoder_chunk_look_back: int = 4
    decoder_chunk_look_back: int = 1


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a model's vocabulary, which may be a piece of a word, such as ``hel@@``.

    ``begin_ms`` and ``end_ms`` are milliseconds from the first sample of the stream; ``log_prob`` is the
    natural logarithm of the model's probability.
    """

    text: str
    begin_ms: int
    end_ms: int
    log_prob: float = 0.0


@dataclass(frozen=True, slots=True)
class PunctuationBlock:
    """The next words of a live text; ``context`` is what the block before it returned."""

    words: tuple[str, ...]
    context: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PunctuatedBlock:
    """The full-width mark after each word (``""`` for none), and the words to give with the next block.

    ``context_mark`` is the mark that now follows the last word of the given context.
    """

    marks: tuple[str, ...]
    context_mark: str
    context: tuple[str, ...]
