"""What a model backend takes and gives: one small protocol per capability.

All audio is mono int16 PCM at :data:`SAMPLE_RATE`. All times are integer milliseconds, relative to the
first sample that the engine was given. Engines are synchronous, keep no state between calls, and know
nothing of Ray or HTTP: the deployment that holds one decides on which thread it runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000
"""Samples per second of all audio inside the graph."""

Pcm = npt.NDArray[np.int16]
"""Mono int16 PCM at :data:`SAMPLE_RATE`, shape ``(samples,)``."""

MAX_CHUNK_FRAMES = 100
"""Frames of 60 ms that one step of a live stream may look at: 6 s."""

MAX_LOOK_BACK_FRAMES = 1000
"""Frames of 60 ms before a chunk of a live stream that are remembered: a minute."""


@dataclass(frozen=True, slots=True)
class Word:
    """One recognized unit: a CJK character, or a whole word of an alphabetic script.

    ``begin_ms`` and ``end_ms`` are milliseconds; ``log_prob`` is the natural logarithm of the model's
    probability (a word of several sub-word tokens carries their sum). ``mark`` is what a model that writes
    marks itself wrote after the word, such as ``，``; ``""`` for none.
    """

    text: str
    begin_ms: int
    end_ms: int
    log_prob: float = 0.0
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Recognition:
    """What was said in one segment; no words means that there was no speech in it.

    ``language`` (ISO 639-1, or 639-3 where that has none) is what the model heard, if it tells.
    ``punctuated``: the marks of the words are the model's own, so nobody else has to set them.
    ``emotion`` is how it was said: ``happy``, ``sad``, ``angry``, ``neutral``, ``fearful``, ``disgusted`` or
    ``surprised``; ``None`` if the model does not tell. ``events`` is what was heard besides speech: ``bgm``,
    ``applause``, ``laughter``, ``cry``, ``sneeze``, ``breath``, ``cough``, ``sing``. ``applied`` are the
    texts of the hotwords that the model listened for. ``raw`` is what the model wrote, with its tags, if it
    writes any.
    """

    words: tuple[Word, ...] = ()
    language: str | None = None
    punctuated: bool = False
    emotion: str | None = None
    events: tuple[str, ...] = ()
    applied: tuple[str, ...] = ()
    raw: str | None = None


@dataclass(frozen=True, slots=True)
class Hotword:
    """A word to listen for. ``weight`` is FunASR's, 1 to 100; ``None`` where nobody gave one."""

    text: str
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class Hints:
    """What is known of a segment before it is recognized.

    ``language`` (ISO 639-1, or 639-3 where that has none) is what is spoken; ``None``: the model tells.
    ``itn``: whether a model that can write numbers in digits, and marks, shall do so.
    """

    hotwords: tuple[Hotword, ...] = ()
    language: str | None = None
    itn: bool = True


NO_HINTS = Hints()
"""Nothing is known."""


@dataclass(frozen=True, slots=True)
class VadState:
    """All that voice-activity detection must remember between two blocks of one recording.

    Opaque to its holder, small (tens of kilobytes) and picklable, so that any replica can go on where
    another one stopped.
    """

    payload: bytes


@dataclass(frozen=True, slots=True)
class VadOptions:
    """Endpointing of one recording. Milliseconds.

    ``speech_noise_threshold`` is FunASR's ``speech_noise_thres``: by how much the probability of speech
    must pass that of silence (-1 to 1; higher takes less for speech). ``None``: the model's own.
    """

    max_end_silence_ms: int = 800
    max_span_ms: int = 60_000
    speech_noise_threshold: float | None = None


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


Embeddings = npt.NDArray[np.float32]
"""Voices as vectors, shape ``(windows, dimensions)``. Rows have length 1, so that the cosine of two of them,
their similarity, is their scalar product."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Windows of a stretch of audio, which may overlap: begin and end of each, in samples from its begin."""

    samples: Pcm
    windows: tuple[tuple[int, int], ...]


class SpeakerEngine(Protocol):
    """Turns stretches of speech into voices."""

    def embed_stretches(self, stretches: Sequence[Stretch]) -> list[Embeddings]:
        """For each stretch one row for each of its windows, as :meth:`embed` gives it.

        Raises:
            ValueError: a window holds no samples, or lies outside of its stretch.
        """
        ...

    def embed(self, windows: Sequence[Pcm]) -> Embeddings:
        """One row for each window, which may be of different lengths (some 0.3 to 10 s are useful).

        The row of a window must not depend on what else is in the call, beyond rounding.
        """
        ...


Precision = Literal["auto", "fp32", "bf16"]
Backend = Literal["auto", "torch", "onnx"]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What a recognizer's engine has to work with.

    ``precision`` is that of matrix products, ``backend`` what runs them; ``auto``: as the engine thinks best.
    """

    threads: int
    device: str = "cpu"
    precision: Precision = "auto"
    backend: Backend = "auto"


class AsrEngine(Protocol):
    """Recognizes whole segments, all of a call in one batch.

    The result of a segment must not depend on what else is in the batch, beyond rounding.
    """

    def transcribe(self, segments: Sequence[Pcm], hints: Sequence[Hints] | None = None) -> list[Recognition]:
        """What was said in each segment. ``hints`` has one entry for each, if there are any; an engine that
        has no use for them leaves them alone."""
        ...


class PunctuationEngine(Protocol):
    """Gives each word the mark that follows it: one of ``""``, ``"，"``, ``"。"``, ``"？"``, ``"、"``.

    A text is a sequence of words as in :class:`Word`. Marks are full-width whatever the script: what
    they look like after a Latin word is a matter of rendering.
    """

    def punctuate(self, texts: Sequence[Sequence[str]]) -> list[list[str]]: ...


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How a stream is cut and how far the model looks back; fixed at its begin. Frames are of 60 ms.

    ``chunk_size`` is FunASR's left, center and right chunk in frames: each step takes ``center`` new ones and
    sees the ``left + right`` before them again; text comes ``right`` frames late, so that the model hears
    what follows. The look-backs count chunks: 0 is none; -1 is all of the last :data:`MAX_LOOK_BACK_FRAMES`
    in the encoder and none in the decoder.
    """

    chunk_size: tuple[int, int, int] = (0, 10, 5)
    encoder_chunk_look_back: int = 4
    decoder_chunk_look_back: int = 1

    def check(self) -> None:
        """Raise ``ValueError`` if no stream can be recognized with these options."""
        sizes = tuple(self.chunk_size)
        if len(sizes) != 3 or any(isinstance(size, bool) or not isinstance(size, int) for size in sizes):
            raise ValueError(f"chunk_size must be three whole numbers, not {list(sizes)}")
        left, center, right = sizes
        if min(left, right) < 0 or center < 1 or sum(sizes) > MAX_CHUNK_FRAMES:
            raise ValueError(
                f"chunk_size must be [left, center, right], none negative, center at least 1, and "
                f"{MAX_CHUNK_FRAMES} in total at most, not {list(sizes)}"
            )
        limit = MAX_LOOK_BACK_FRAMES // center
        for name in ("encoder_chunk_look_back", "decoder_chunk_look_back"):
            look_back = getattr(self, name)
            if isinstance(look_back, bool) or not isinstance(look_back, int) or not -1 <= look_back <= limit:
                raise ValueError(f"{name} must be a whole number from -1 to {limit}, not {look_back}")


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


class StreamState:
    """All that recognition must remember between two chunks of one live stream.

    Opaque to its holder and never changed: a step returns a new one, so a step that failed can be repeated
    with the same states. It belongs to the engine that made it and cannot leave its process.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class StreamChunk:
    """The next samples of a live stream, any number of them, with the state that the step before it left.

    ``state`` is ``None`` at the begin of the stream; ``options`` are the same all through it.
    """

    samples: Pcm
    state: StreamState | None
    final: bool
    options: StreamOptions = field(default_factory=StreamOptions)


@dataclass(frozen=True, slots=True)
class StreamResult:
    """The tokens that a chunk completed, and the state to pass on: ``None`` after the final chunk.

    Times never decrease all through a stream.
    """

    tokens: tuple[Token, ...]
    state: StreamState | None


class StreamingAsrEngine(Protocol):
    """Recognizes live streams. Chunks of different streams in one call are independent of each other.

    The result of a chunk must not depend on what else is in the call, beyond rounding.
    """

    def step(self, chunks: Sequence[StreamChunk]) -> list[StreamResult]:
        """Go on with every stream; results are in the order of ``chunks``.

        Raises:
            ValueError: options are invalid (see :meth:`StreamOptions.check`) or not those that the stream
                began with, a state is of another engine, or samples are not one row of int16.
        """
        ...


@dataclass(frozen=True, slots=True)
class PunctuationBlock:
    """The next words of a live stream, as in :class:`Word`.

    ``context`` is what the block before returned, nothing for the first one. It is all that a stream needs
    to remember, and a value: the same context may be given with one version of a sentence after the other
    while that sentence grows, and at last with the finished one, whose result is the one to go on from.
    """

    words: tuple[str, ...]
    context: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PunctuatedBlock:
    """The full-width mark after each word of a block (``""`` for none), and what to give with the next one.

    The last of ``marks`` is what the words so far suggest: a pause is not always the end of a sentence.
    ``context_mark`` takes its place once words follow: it is the mark that now follows the last word of the
    given context. ``context`` is the tokens since the last certain end of a sentence, a few sentences at
    most.
    """

    marks: tuple[str, ...]
    context_mark: str
    context: tuple[str, ...]


class RealtimePunctuationEngine(Protocol):
    """Punctuates streams that arrive in blocks; those of different streams in one call are independent."""

    def punctuate(self, blocks: Sequence[PunctuationBlock]) -> list[PunctuatedBlock]: ...
