"""The text messages of a client: every key is optional, and every key has several spellings.

The keys and their types are those of FunASR's ``websocket_protocol``; the other spellings are what its
clients in C++, Java, C#, JavaScript and Python really send.
"""

import json
import math
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from deployments.messages import StreamOptions
from serve_app.api.live_speakers import SpeakersAsked
from serve_app.api.sockets import json_object
from serve_app.errors import InvalidParameter
from serve_app.models import ServedModel
from serve_app.pipeline.finishing import TextOptions
from serve_app.pipeline.hotwords import Hotword, HotwordList
from serve_app.pipeline.hotwords_parsing import FUNASR, parse_hotwords

Mode = Literal["offline", "online", "2pass"]

MAX_TEXT = 1 << 20
"""Characters of a text message, at most."""

_MAX_NAME = 4096
_MIN_RATE, _MAX_RATE = 4_000, 384_000
_SENSEVOICE = "sensevoice"
_SENSEVOICE_LANGUAGES = frozenset({"zh", "en", "yue", "ja", "ko"})
_MODES: dict[str, Mode] = {"offline": "offline", "office": "offline", "online": "online", "2pass": "2pass"}


def _error(sentence: str) -> PydanticCustomError:
    return PydanticCustomError("invalid", "{sentence}", {"sentence": sentence})


def _mode(value: Any) -> Any:
    mode = _MODES.get(value.strip().lower()) if isinstance(value, str) else value
    if mode not in _MODES.values():
        raise _error("it must be 'offline', 'online' or '2pass'")
    return mode


def _name(value: Any) -> str:
    if not isinstance(value, str | int | float):
        raise _error("it must be a string")
    name = value if isinstance(value, str) else json.dumps(value)
    if len(name) > _MAX_NAME:
        raise _error(f"it must have {_MAX_NAME} characters at most")
    # JSON may escape half a surrogate pair, which no message could carry back.
    return name.encode("utf-8", "replace").decode()


def _integer(value: Any) -> int:
    """A whole number, also as a float or a string."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number != int(number):
        raise _error("it must be a whole number")
    return int(number)


def _rate(value: Any) -> int:
    rate = _integer(value)
    if not _MIN_RATE <= rate <= _MAX_RATE:
        raise _error(f"it must be {_MIN_RATE} to {_MAX_RATE} Hz")
    return rate


def _chunk_size(value: Any) -> tuple[int, ...]:
    """Three whole numbers in a list, or in a string with commas, spaces or (C++ client) dashes between."""
    if isinstance(value, str):
        value = [part for part in re.split(r"[\s,，;-]+", value.strip(" []()")) if part]
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise _error("it must be three numbers: left, center and right chunk in units of 60 ms")
    return tuple(_integer(part) for part in value)


def _hotwords(value: Any) -> HotwordList:
    try:
        return parse_hotwords(value, FUNASR)
    except ValueError as error:
        raise _error(str(error).rstrip(".")) from error


class Config(BaseModel):
    """What a client has said so far. It holds for all that follows on the connection, until said anew."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    mode: Annotated[Mode | None, BeforeValidator(_mode)] = None
    wav_name: Annotated[str, BeforeValidator(_name)] = "wav-default-id"
    wav_format: Annotated[str, BeforeValidator(_name)] = "pcm"
    audio_fs: Annotated[int, BeforeValidator(_rate)] = 16_000
    """Samples per second of PCM."""
    chunk_size: Annotated[tuple[int, int, int] | None, BeforeValidator(_chunk_size)] = None
    """Frames of 60 ms; ``None`` where the client leaves it to the server, as with the look-backs."""
    encoder_chunk_look_back: Annotated[int | None, BeforeValidator(_integer)] = None
    decoder_chunk_look_back: Annotated[int | None, BeforeValidator(_integer)] = None
    hotwords: Annotated[HotwordList, BeforeValidator(_hotwords)] = Field(
        HotwordList(),
        # The second one is what FunASR's package and the options of its clients call it.
        validation_alias=AliasChoices("hotwords", "hotword"),
    )
    itn: bool = True
    svs_lang: Annotated[str, BeforeValidator(_name)] = "auto"
    svs_itn: bool = True
    model: Annotated[str, BeforeValidator(_name)] = ""
    """An addition, as the two that follow: which model recognizes."""
    language: Annotated[str, BeforeValidator(_name)] = ""
    context: str = ""
    """Text that helps, such as names that may come up."""
    raw_tags: bool = False
    """Texts that are final come as the model wrote them, with its tags, if it writes any."""
    enable_speaker_diarization: bool = Field(
        False,
        # The second one is what FunASR's HTTP servers call it; no client of its WebSocket asks.
        validation_alias=AliasChoices("enable_speaker_diarization", "spk"),
    )
    num_speakers: Annotated[int | None, BeforeValidator(_integer)] = None
    min_speakers: Annotated[int | None, BeforeValidator(_integer)] = None
    max_speakers: Annotated[int | None, BeforeValidator(_integer)] = None

    @property
    def is_pcm(self) -> bool:
        """Whether the client announced samples without a header."""
        return self.wav_format.strip().lower() in ("", "pcm", "raw")

    @property
    def result_mode(self) -> str:
        """The label of final results. ``online`` goes under the label that all clients know."""
        return {None: "offline", "offline": "offline", "online": "2pass-online", "2pass": "2pass-offline"}[
            self.mode
        ]

    @property
    def spoken(self) -> str | None:
        """The language that the client named."""
        return self.language or (self.svs_lang if self.svs_lang in _SENSEVOICE_LANGUAGES else None)

    @property
    def words_to_hear(self) -> tuple[Hotword, ...]:
        """The hotwords that are no corrections."""
        return self.hotwords.words

    def text_options(self, model: ServedModel) -> TextOptions:
        """How texts that are final shall look; ``svs_itn`` is for SenseVoice, which the other one is not."""
        own = model.engine == _SENSEVOICE and "svs_itn" in self.model_fields_set
        return TextOptions(itn=self.svs_itn if own else self.itn, corrections=self.hotwords.corrections)

    @property
    def speakers(self) -> SpeakersAsked | None:
        """What is asked of telling speakers apart, if that is asked for."""
        if not self.enable_speaker_diarization:
            return None
        bounds = self.num_speakers, self.min_speakers, self.max_speakers
        return SpeakersAsked("enable_speaker_diarization", *bounds)

    def merged(self, changes: Self) -> Self:
        """This with what ``changes`` sets.

        Raises:
            InvalidParameter: no stream can be recognized with the chunk sizes and look-backs together.
        """
        merged = self.model_copy(update={name: getattr(changes, name) for name in changes.model_fields_set})
        try:
            merged.stream_options(StreamOptions()).check()
        except ValueError as error:
            raise InvalidParameter(f"The streaming options are not valid: {error}.", "chunk_size") from error
        return merged

    def stream_options(self, defaults: StreamOptions) -> StreamOptions:
        """How to cut the audio for the streaming model; ``defaults`` where the client did not say."""
        given = self.chunk_size, self.encoder_chunk_look_back, self.decoder_chunk_look_back
        chunk_size, encoder, decoder = given
        return StreamOptions(
            defaults.chunk_size if chunk_size is None else chunk_size,
            defaults.encoder_chunk_look_back if encoder is None else encoder,
            defaults.decoder_chunk_look_back if decoder is None else decoder,
        )


class _Flags(BaseModel):
    """What holds for one message only."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    is_speaking: bool | None = None
    is_finished: bool = False
    is_end: bool = False


_KNOWN = {*Config.model_fields, *_Flags.model_fields, "spk", "hotword"}


@dataclass(frozen=True, slots=True)
class ClientMessage:
    """One text message.

    ``ends``: no audio follows for this utterance. ``acknowledge``: the client waits to be told that all
    results were sent. ``error``: why the message cannot be taken; the flags hold all the same.
    """

    changes: Config = field(default_factory=Config)
    ends: bool = False
    acknowledge: bool = False
    is_known: bool = True
    """Whether there was anything in it that this protocol knows; else it is to be ignored."""
    error: InvalidParameter | None = None


def parse_message(text: str) -> ClientMessage:
    """Read a text message. Never raises: what is wrong with it is in its ``error``."""
    try:
        values = _object(text)
        flags = _validated(_Flags, values)
    except InvalidParameter as error:
        return ClientMessage(error=error)
    ends = flags.is_speaking is False or flags.is_finished or flags.is_end
    known = not _KNOWN.isdisjoint(values)
    try:
        return ClientMessage(_validated(Config, values), ends, flags.is_end, known)
    except InvalidParameter as error:
        return ClientMessage(ends=ends, acknowledge=flags.is_end, error=error)


_Model = TypeVar("_Model", bound=BaseModel)


def _object(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    # Clients in typed languages send null for what they leave out.
    return {name: value for name, value in json_object(text, MAX_TEXT).items() if value is not None}


def _validated(model: type[_Model], values: dict[str, Any]) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        sentence = first["msg"][:1].lower() + first["msg"][1:]
        shown = f"{values[name]!r:.80}"
        raise InvalidParameter(f"The value {shown} of {name!r} is not valid: {sentence}.", name) from error
