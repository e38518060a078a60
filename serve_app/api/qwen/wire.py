"""Messages of a client, and what one that starts recognition may ask for.

The fields and their meanings are those of funasr-api's ``/ws/v1/asr/qwen``.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from deployments.engines.qwen3_languages import LANGUAGES
from serve_app.api.qwen.errors import InvalidMessage, UnsupportedRate
from serve_app.api.sockets import json_object
from serve_app.audio.limits import check_layout
from serve_app.errors import InvalidParameter, ModelNotFound, UnsupportedFormat
from serve_app.live import LiveService
from serve_app.pipeline.finishing import TextOptions
from serve_app.pipeline.hotwords import HotwordList
from serve_app.pipeline.hotwords_parsing import parse_hotwords
from serve_app.pipeline.live.events import LiveOptions, Redecoding

_MAX_TEXT = 1 << 20
"""Characters of a text message, at most."""

_MAX_ID = 256


class Verb(Enum):
    """What a message wants; the value is its type on the wire."""

    START = "start"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Request:
    """A text message that can be taken."""

    verb: Verb
    payload: Mapping[str, Any]


def parse_request(text: str) -> Request:
    """Read a text message.

    Raises:
        InvalidMessage: it is none of this protocol's.
    """
    try:
        message = json_object(text, _MAX_TEXT)
    except InvalidParameter as error:
        raise InvalidMessage(error.message) from error
    name = message.get("type")
    verb = next((item for item in Verb if item.value == name), None)
    if verb is None:
        raise InvalidMessage(f"The type of a message must be start or stop, not {name!r:.60}.", "type")
    payload = message.get("payload")
    if payload is not None and not isinstance(payload, dict):
        raise InvalidMessage("The payload must be an object.", "payload")
    return Request(verb, payload or {})


def task_id_of(given: str | None) -> str:
    """The id that all messages carry: the client's, or eight new hexadecimal digits."""
    return given[:_MAX_ID] if given else uuid.uuid4().hex[:8]


class Parameters(BaseModel):
    """What recognition may be told. Unknown names are ignored, and so is a value of ``null``."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal["pcm", "wav"] = "pcm"
    sample_rate: int = 16000
    """Hz of samples without a header."""
    language: str | None = Field(None, max_length=60)
    context: str = ""
    hotwords: Annotated[HotwordList, BeforeValidator(parse_hotwords)] = HotwordList()
    """An addition, as ``max_sentence_silence``."""
    chunk_size_sec: float = Field(2.0, ge=0.2, le=30)
    """How much new audio there is for a result."""
    unfixed_chunk_num: int = Field(2, ge=0, le=1000)
    unfixed_token_num: int = Field(5, ge=0, le=1000)
    enable_inverse_text_normalization: bool = True
    max_sentence_silence: int | None = Field(None, ge=200, le=6000)
    """Milliseconds of silence that end a segment. An addition: funasr-api has 2 s for all."""

    @field_validator("format", mode="before")
    @classmethod
    def _in_small_letters(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class Start:
    """Recognition that is wanted, everything about it decided."""

    parameters: Parameters
    options: LiveOptions

    @property
    def told(self) -> dict[str, Any]:
        """The parameters as they are in effect."""
        code = self.options.recognition.language
        return {
            **self.parameters.model_dump(exclude={"hotwords"}),
            "language": None if code is None else LANGUAGES[code],
            "max_sentence_silence": self.options.max_sentence_silence_ms,
        }


def read_start(payload: Mapping[str, Any], live: LiveService) -> Start:
    """What a start asks for.

    Raises:
        InvalidParameter: a value that cannot be.
        ModelNotFound: Qwen3-ASR is not served.
    """
    wanted = _parsed(payload)
    try:
        check_layout(1, wanted.sample_rate)
    except UnsupportedFormat as error:
        raise UnsupportedRate(error.message, "sample_rate") from error
    if not live.models.generative:
        raise ModelNotFound(
            "Qwen3-ASR is not served here; name it in ENABLED_MODELS or QWEN3_MODEL to have it, or use "
            "another protocol."
        )
    default, (first, *_) = live.models.default, live.models.generative
    model = default if default.is_generative else first
    options = live.options(model, wanted.language, wanted.context, wanted.hotwords.words)
    silence = wanted.max_sentence_silence
    return Start(
        wanted,
        replace(
            options,
            text=TextOptions(
                itn=wanted.enable_inverse_text_normalization, corrections=wanted.hotwords.corrections
            ),
            max_sentence_silence_ms=options.max_sentence_silence_ms if silence is None else silence,
            redecoding=Redecoding(
                round(wanted.chunk_size_sec * 1000), wanted.unfixed_chunk_num, wanted.unfixed_token_num
            ),
        ),
    )


def _parsed(payload: Mapping[str, Any]) -> Parameters:
    try:
        return Parameters.model_validate({key: value for key, value in payload.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        reason = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise InvalidParameter(
            f"The value {first['input']!r:.80} of {name!r} is not valid: {reason}.", name
        ) from error
