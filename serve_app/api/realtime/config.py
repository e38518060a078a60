"""The configuration of a session: what a client may set, and what it means here.

Protocol: https://platform.openai.com/docs/api-reference/realtime-client-events/session/update
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.api.openai.chunking import ChunkingStrategy
from serve_app.api.openai.wire import TranscriptionForm
from serve_app.api.realtime.errors import Mistake, mistake_of
from serve_app.errors import InvalidParameter
from serve_app.live import LiveService
from serve_app.pipeline.finishing import TextOptions
from serve_app.pipeline.live.events import LiveOptions, NearField
from serve_app.pipeline.speakers.types import SpeakerOptions
from serve_app.transcriber import Transcriber, TranscriptionOptions

LOGPROBS = "item.input_audio_transcription.logprobs"

_EAGERNESS_MS = {"low": 2000, "medium": None, "auto": None, "high": 400}
"""The pause that ends a sentence with ``semantic_vad``; ``None``: as the server is set."""

_MODEL_PADDING_MS = 200
"""What detection puts before speech by itself."""

_AS_HEARD = frozenset({"minimal", "low"})
"""Values of ``delay`` with which text is sent while it is spoken."""


_DIARIZES = "-diarize"
"""What the names of models end with that tell speakers apart: ``gpt-4o-transcribe-diarize``."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Pcm16(_Part):
    """16-bit little-endian samples, one channel."""

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[24000, 16000, 8000] = 24000


class Pcmu(_Part):
    """G.711 µ-law, 8 kHz."""

    type: Literal["audio/pcmu"]
    rate: Literal[8000] | None = None


class Pcma(_Part):
    """G.711 A-law, 8 kHz."""

    type: Literal["audio/pcma"]
    rate: Literal[8000] | None = None


AudioFormat = Pcm16 | Pcmu | Pcma


class Transcription(_Part):
    """``model`` is any name; the rest is what the transcription endpoint knows under the same names."""

    model: str | None = Field(None, max_length=200)
    language: str | None = None
    languages: list[str] = Field(default_factory=list, max_length=100)
    prompt: str | None = None
    keywords: list[Annotated[str, Field(max_length=200)]] = Field(default_factory=list)
    hotwords: str | list[str] | dict[str, Any] | None = None
    """An addition: words with weights."""
    delay: Literal["minimal", "low", "medium", "high", "xhigh"] | None = None

    @property
    def as_heard(self) -> bool:
        """Whether text is sent while it is spoken, and stays as it was heard then."""
        return self.delay in _AS_HEARD

    @property
    def diarizes(self) -> bool:
        """Whether speakers are told apart, which OpenAI's clients ask for by the name of a model."""
        return self.model is not None and self.model.endswith(_DIARIZES)


class NoiseReduction(_Part):
    type: Literal["near_field", "far_field"]
    strength: float | None = Field(None, ge=0, le=1)


class _Vad(_Part):
    create_response: bool | None = None
    interrupt_response: bool | None = None


class ServerVad(_Vad):
    """A pause ends a sentence. ``silence_duration_ms`` ``None``: as the server is set."""

    type: Literal["server_vad"]
    threshold: float = Field(0.5, ge=0, le=1)
    prefix_padding_ms: int = Field(300, ge=0, le=10_000)
    silence_duration_ms: int | None = Field(None, ge=100, le=6000)
    idle_timeout_ms: int | None = Field(None, ge=5000, le=30_000)


class SemanticVad(_Vad):
    """Served as ``server_vad``: the eagerness chooses its pause."""

    type: Literal["semantic_vad"]
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"


class Config(_Part):
    """What a session can be told, in one level; the dialects have names of their own for its fields."""

    format: Annotated[AudioFormat, Field(discriminator="type")] = Pcm16()
    transcription: Transcription = Transcription()
    noise_reduction: NoiseReduction | None = None
    turn_detection: Annotated[ServerVad | SemanticVad, Field(discriminator="type")] | None = ServerVad(
        type="server_vad"
    )
    include: list[Literal["item.input_audio_transcription.logprobs"]] = Field(default_factory=list)

    @property
    def as_heard(self) -> bool:
        return self.transcription.as_heard

    def updated(self, changes: Mapping[str, Any]) -> "Config":
        """With the fields of ``changes`` set; what is left out stays, also in ``transcription``.

        Raises:
            ValidationError: a value that cannot be.
        """
        values = {**self.model_dump(exclude_unset=True), **changes}
        for name in ("format", "transcription", "include"):
            if values.get(name, ...) is None:
                del values[name]
        for name in ("transcription", "turn_detection"):
            if isinstance(changes.get(name), Mapping):
                values[name] = self._merged(name, changes[name])
        return Config.model_validate(values)

    def _merged(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        before = getattr(self, name)
        known = {} if before is None else before.model_dump(exclude_unset=True)
        if name == "turn_detection" and given.get("type", known.get("type")) != known.get("type"):
            known = {}
        # A null takes a value back; some SDKs send one for everything that nobody set.
        return {key: value for key, value in {**known, **given}.items() if value is not None}

    @property
    def diarizes(self) -> bool:
        return self.transcription.diarizes

    def live_options(
        self,
        live: LiveService,
        transcriber: Transcriber,
        names: Mapping[str, str],
        speakers: SpeakerOptions | None = None,
    ) -> LiveOptions:
        """How a live session listens for this. ``names`` are those of the fields, for errors.

        ``speakers``: how they are told apart, for those who asked for it.

        Raises:
            Mistake: something that cannot be served.
        """
        wanted = self._wanted(transcriber, names["transcription"])
        model = live.models.find(wanted.model)
        if self.as_heard and self.transcription.model and not model.hears_live:
            raise Mistake(
                f"The model {model.id} hears finished sentences only; leave out the delay, or set it to "
                "'high'.",
                f"{names['transcription']}.delay",
            )
        try:
            defaults = live.options(model, wanted.language, wanted.context, wanted.hotwords)
        except InvalidParameter as error:
            raise Mistake(error.message, f"{names['transcription']}.prompt") from error
        text = wanted.text
        if self.as_heard:
            # What was sent cannot be taken back, and all of this would change it; but not marks that are
            # there from the first.
            text = TextOptions(punctuation=defaults.redecoding is not None)
        return replace(
            self._vad_options(defaults),
            recognition=replace(defaults.recognition, word_times=False),
            two_pass=not self.as_heard,
            partials=self.as_heard,
            text=text,
            near_field=self._near_field(defaults),
            tell_ends=True,
            speakers=speakers,
        )

    def _wanted(self, transcriber: Transcriber, name: str) -> TranscriptionOptions:
        """What the transcription endpoint makes of it."""
        known = {"model", "language", "languages", "prompt", "keywords", "hotwords"}
        wanted = self.transcription.model_dump(include=known, exclude_none=True)
        wanted["model"] = wanted.get("model", "").removesuffix(_DIARIZES)
        try:
            return TranscriptionForm.model_validate(wanted).checked_options(transcriber)
        except ValidationError as error:
            raise mistake_of(error, {field: f"{name}.{field}" for field in wanted}) from error
        except InvalidParameter as error:
            raise Mistake(error.message, f"{name}.{error.param}") from error

    def _vad_options(self, defaults: LiveOptions) -> LiveOptions:
        match self.turn_detection:
            case ServerVad() as vad:
                chosen = ChunkingStrategy(type="server_vad", threshold=vad.threshold)
                return replace(
                    defaults,
                    max_sentence_silence_ms=vad.silence_duration_ms or defaults.max_sentence_silence_ms,
                    speech_noise_threshold=chosen.speech_noise_threshold,
                    padding_ms=max(0, vad.prefix_padding_ms - _MODEL_PADDING_MS),
                    quiet_ms=vad.idle_timeout_ms,
                )
            case SemanticVad() as vad:
                pause = _EAGERNESS_MS[vad.eagerness] or defaults.max_sentence_silence_ms
                return replace(defaults, max_sentence_silence_ms=pause)
            case None:
                return defaults

    def _near_field(self, defaults: LiveOptions) -> NearField | None:
        match self.noise_reduction:
            case NoiseReduction(type="near_field"):
                return defaults.near_field or NearField()
            case NoiseReduction():
                return None
        # Who commits by hand has decided what there is to hear.
        return defaults.near_field if self.turn_detection is not None else None
