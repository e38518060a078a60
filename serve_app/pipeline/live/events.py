"""What a live session tells its protocol: typed events, in the order in which they may be sent.

All times are seconds from the first sample of the session. Sentences are numbered from 0; each one begins
with :class:`SpeechStarted` and ends with :class:`SentenceFinal`, and no event of a sentence comes before
the final of the one before it. :class:`SpeechEnded` and :class:`Quiet` are told only to those who ask.
"""

from dataclasses import dataclass, field
from typing import Literal

from deployments.messages import RecognitionOptions, StreamOptions
from serve_app.errors import InvalidParameter
from serve_app.pipeline.finishing import TextOptions
from serve_app.pipeline.hotwords_report import AskedHotwords
from serve_app.pipeline.speakers.types import SpeakerOptions
from serve_app.pipeline.types import Speaker, TimedWord

_LONGEST_SEARCH_MS = 10_000
_STREAMED_LANGUAGES = (None, "zh", "en")

Cause = Literal["silence", "cut", "end"]
"""Why a sentence ended: a pause, speech that went on too long, or the end of the session's audio."""


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Somebody began to speak at ``begin``."""

    index: int
    begin: float


@dataclass(frozen=True, slots=True)
class Partial:
    """What has been heard of a sentence that still goes on.

    ``text`` is the whole text so far; its first ``stable`` characters stay as they are in later partials
    of this sentence (the final may differ in all of it). ``end`` is the end of the last word. ``language``
    (ISO 639-1, or 639-3 where that has none) is what the model hears, if it tells.
    """

    index: int
    text: str
    stable: int
    begin: float
    end: float
    words: tuple[TimedWord, ...]
    language: str | None = None


@dataclass(frozen=True, slots=True)
class SpeechEnded:
    """A sentence is over; its final follows as soon as it is recognized, perhaps after more partials."""

    index: int
    begin: float
    end: float
    cause: Cause


@dataclass(frozen=True, slots=True)
class Quiet:
    """Nobody spoke from ``begin`` to ``end``; ``index`` is that of the sentence that comes next."""

    index: int
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class SentenceFinal:
    """A finished sentence. ``text`` is empty, and ``words`` are none, where nothing could be recognized."""

    index: int
    text: str
    begin: float
    end: float
    words: tuple[TimedWord, ...]
    cause: Cause
    spoken: tuple[TimedWord, ...] = ()
    """The words as they were recognized, before numbers were written in digits and the like."""

    speaker: Speaker | None = None
    """Who spoke, where the session tells speakers apart and there was enough to hear of them."""

    language: str | None = None
    """As in :class:`Partial`."""

    emotion: str | None = None
    events: tuple[str, ...] = ()
    applied: tuple[str, ...] = ()
    raw: str | None = None
    """As in :class:`deployments.messages.Recognition`."""


@dataclass(frozen=True, slots=True)
class SpeakersMerged:
    """Two speakers of the session turned out to be one: what ``gone`` said was said by ``kept``.

    The number of ``gone`` is not given again.
    """

    kept: Speaker
    gone: Speaker


@dataclass(frozen=True, slots=True)
class Finished:
    """All audio has been worked off; ``duration`` is how much there was. No event follows."""

    duration: float


LiveEvent = SpeechStarted | Partial | SpeechEnded | SentenceFinal | SpeakersMerged | Quiet | Finished


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """How one session listens. Fixed at its begin.

    Raises:
        InvalidParameter: a value that no session can be held with.
    """

    two_pass: bool = True
    """Finals by the offline model; without it, by what the streaming model heard."""

    partials: bool = True
    """Whether to run the streaming model while somebody speaks. Always on without ``two_pass``."""

    text: TextOptions = field(default_factory=TextOptions)
    """How finals shall look. A final is not split, and partials are always as they were recognized: they
    have to begin with what was sent before."""

    chunk_size: tuple[int, int, int] = (0, 10, 5)
    """FunASR's left, center and right chunk, in frames of 60 ms: what the streaming model takes at a time."""

    encoder_chunk_look_back: int = 4
    decoder_chunk_look_back: int = 1

    max_sentence_silence_ms: int = 800
    """A pause of this length ends a sentence. Milliseconds."""

    max_sentence_ms: int = 60_000
    """Speech without a pause is cut, at its quietest place, before it gets this long. Milliseconds."""

    speech_noise_threshold: float | None = None
    """What counts as speech; see :class:`deployments.messages.VadOptions`."""

    near_field: "NearField | None" = field(default=None)
    """Passes over those who are too quiet to be at the microphone; ``None``: everybody counts."""

    recognition: RecognitionOptions = field(default_factory=RecognitionOptions)
    """By which model, and for which language."""

    redecoding: "Redecoding | None" = None
    """Partials, and without ``two_pass`` finals too, by a generative model that decodes a sentence again and
    again while it grows; ``None``: by the streaming model."""

    hotwords: AskedHotwords = field(default_factory=AskedHotwords)
    """What the client wants to be listened for, as it is to be told of; what is listened for is in
    ``recognition``."""

    speakers: SpeakerOptions | None = None
    """Tell speakers apart, and how; ``None``: nobody asks who speaks."""

    padding_ms: int = 0
    """Audio that a sentence has before what detection takes for its begin, as far as no other sentence has
    it. Milliseconds."""

    tell_ends: bool = False
    """Whether there is a :class:`SpeechEnded` for each sentence."""

    quiet_ms: int | None = None
    """How long nobody speaks until there is a :class:`Quiet`, which is so again after each of them.
    Milliseconds of audio; ``None``: there is none."""

    def __post_init__(self) -> None:
        streams = StreamOptions(self.chunk_size, self.encoder_chunk_look_back, self.decoder_chunk_look_back)
        try:
            streams.check()
        except ValueError as error:
            raise InvalidParameter(f"{error}.", "chunk_size") from error
        _check_range("max_sentence_silence_ms", self.max_sentence_silence_ms, 0, 60_000)
        _check_range("max_sentence_ms", self.max_sentence_ms, 1_000, 60_000)
        _check_range("padding_ms", self.padding_ms, 0, 10_000)
        if self.quiet_ms is not None:
            _check_range("quiet_ms", self.quiet_ms, 1_000, 3_600_000)

    @property
    def streamed(self) -> bool:
        """Whether sentences are heard while they are spoken. What the streaming model would make of languages
        that it does not know is told to nobody."""
        known = self.redecoding is not None or self.recognition.language in _STREAMED_LANGUAGES
        return not self.two_pass or (self.partials and known)

    @property
    def uncut_ms(self) -> int:
        """No sentence is cut before it has this length. Milliseconds."""
        return self.max_sentence_ms - min(self.max_sentence_ms // 3, _LONGEST_SEARCH_MS)


def _check_range(name: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise InvalidParameter(f"{name} must be from {lowest} to {highest}, not {value}.", name)


@dataclass(frozen=True, slots=True)
class Redecoding:
    """How often a growing sentence is decoded again, and how much of what was heard stands by then.

    ``step_ms`` of new audio are the least for a step. The first ``free_steps`` of a sentence begin anew;
    after those, a step goes on from all but the last ``open_tokens`` tokens of the one before. These are
    qwen-asr's ``chunk_size_sec``, ``unfixed_chunk_num`` and ``unfixed_token_num``.
    """

    step_ms: int = 2000
    free_steps: int = 2
    open_tokens: int = 5


@dataclass(frozen=True, slots=True)
class NearField:
    """``threshold`` is the RMS level, as a share of full scale, below which audio counts as far away.

    Inside a sentence ``inside`` times the threshold is enough, so that quiet syllables are not cut out.
    """

    threshold: float = 0.01
    inside: float = 0.6
