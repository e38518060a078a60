"""What crosses a deployment handle. Everything here is immutable, typed and picklable.

Audio travels by reference: the ingress puts each decoded block into Ray's object store once, and an
:class:`AudioSlice` names the stretch of it that a deployment is to read. Results are the engines' own
types, which are re-exported so that callers need only this module.

A request says by itself on whose behalf it is made (``origin``): on behalf of whom it was put together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from deployments.batching import Priority
from deployments.engines.base import (
    NO_HINTS,
    SAMPLE_RATE,
    Embeddings,
    Hints,
    Hotword,
    Pcm,
    PunctuatedBlock,
    Recognition,
    SpeechSpan,
    StreamOptions,
    Token,
    VadOptions,
    VadResult,
    VadState,
    Word,
)
from deployments.engines.generative import Hypothesis, Times
from deployments.origin import Origin, origin_now, untraced_origin

__all__ = [
    "NO_HINTS",
    "SAMPLE_RATE",
    "AlignmentRequest",
    "AudioPiece",
    "AudioSlice",
    "EmbeddingRequest",
    "Embeddings",
    "Hints",
    "Hotword",
    "Hypothesis",
    "LivePunctuationRequest",
    "LiveVadRequest",
    "Pcm",
    "Priority",
    "PunctuatedBlock",
    "PunctuationRequest",
    "Recognition",
    "RecognitionOptions",
    "RecognitionRequest",
    "SessionNotFound",
    "SpeechRequest",
    "SpeechSpan",
    "StreamOptions",
    "StreamReply",
    "StreamStep",
    "StreamTokens",
    "StreamsFull",
    "Times",
    "Token",
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
    origin: Origin | None = field(default_factory=origin_now, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class RecognitionRequest:
    """One segment for ``Recognizer.transcribe``, what is known of it, and whether it goes before others."""

    audio: AudioSlice
    priority: Priority = Priority.REQUEST
    hints: Hints = NO_HINTS
    origin: Origin | None = field(default_factory=origin_now, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class RecognitionOptions:
    """How a stretch of speech is recognized.

    Attributes:
        model: id of a served model; ``""``: the default one.
        language: ISO 639-1 code, or 639-3 where that has none, of what is spoken; ``None``: the model tells.
        context: plain text that helps, for models that read it.
        word_times: whether the times of words count, for models that need a second one to tell them. Without
            it they are guesses.
        hotwords: words to listen for, for models that can.
        itn: whether numbers shall be in digits, for models that can write them so by themselves.
    """

    model: str = ""
    language: str | None = None
    context: str = ""
    word_times: bool = True
    hotwords: tuple[Hotword, ...] = ()
    itn: bool = True


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """One stretch of speech for ``Qwen3ASR.transcribe`` and ``Qwen3ASR.decode``.

    Attributes:
        audio: what is stored of it, from its begin.
        tail: samples that follow, in the message, since they are few.
        language: as in :class:`RecognitionOptions`.
        context: as in :class:`RecognitionOptions`.
        prefix: tokens with which the answer begins; see :class:`deployments.engines.generative.SpeechPrompt`.
        max_tokens: how many tokens may follow the prefix; ``None``: what speech of this length may need.
        priority: before or after what else is waiting.
    """

    audio: AudioSlice
    tail: Pcm | None = None
    language: str | None = None
    context: str = ""
    prefix: tuple[int, ...] = ()
    max_tokens: int | None = None
    priority: Priority = Priority.REQUEST
    origin: Origin | None = field(default_factory=origin_now, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class AlignmentRequest:
    """Words of one stretch of speech, in their order, for ``Qwen3Aligner.align``; ``language`` as in
    :class:`RecognitionOptions`. The reply is begin and end of each word, in milliseconds from the begin of
    ``audio``."""

    audio: AudioSlice
    words: tuple[str, ...]
    language: str
    priority: Priority = Priority.REQUEST
    origin: Origin | None = field(default_factory=origin_now, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Windows of one stretch of speech for ``SpeakerEmbedding.embed``: begin and end of each, in samples from
    the begin of ``audio``."""

    audio: AudioSlice
    windows: tuple[tuple[int, int], ...]
    priority: Priority = Priority.REQUEST
    origin: Origin | None = field(default_factory=origin_now, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class PunctuationRequest:
    """Unpunctuated words, as in :class:`Word`, for ``Punctuation.punctuate``."""

    words: Sequence[str]
    origin: Origin | None = field(default_factory=origin_now, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class LivePunctuationRequest:
    """The next unpunctuated words of a live session, and those before them, for
    ``Punctuation.punctuate_live``."""

    words: Sequence[str]
    context: Sequence[str]
    origin: Origin | None = field(default_factory=origin_now, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class LiveVadRequest:
    """The next audio of a live session for ``Vad.detect_live``: in the message, since it is short.

    It is worked off in blocks of ``block`` samples, the last of which may be shorter, with one result for
    each: what a session is told does not depend on how its audio was cut into requests, as long as each but
    the last request holds whole blocks. ``state`` is the one of the last result before; only that one has
    a state.
    """

    samples: Pcm
    block: int
    state: VadState | None
    final: bool
    options: VadOptions
    origin: Origin | None = field(default_factory=untraced_origin, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class StreamStep:
    """The next audio of a stream for ``ParaformerStreaming.step``.

    The replica that holds the stream is found by ``stream_id``. ``number`` counts the stream's steps from
    0, where it begins; ``options`` count only there. A step whose number is not the next one is not taken,
    so a step is never worked off twice. With ``final`` the stream ends and is forgotten.
    """

    stream_id: str
    number: int
    samples: Pcm
    final: bool
    options: StreamOptions
    origin: Origin | None = field(default_factory=untraced_origin, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class StreamTokens:
    """Tokens that a step completed; times are milliseconds from the first sample of the stream."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class SessionNotFound:
    """The replica does not hold this stream at this step: it was replaced, expired, or is another one.

    The holder of the audio begins a new stream with what it kept.
    """

    stream_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class StreamsFull:
    """The replica holds as many streams as it may; no new one can begin there for now."""

    stream_id: str
    limit: int


StreamReply = StreamTokens | SessionNotFound | StreamsFull
