"""Parameters of Aliyun's HTTP APIs, as they are spelled in a query, and those that funasr-api adds."""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from serve_app.api.aliyun.errors import UnsupportedSampleRate
from serve_app.errors import InvalidParameter, UnsupportedFormat
from serve_app.pipeline.finishing import Correction, TextOptions
from serve_app.pipeline.hotwords import Hotword, HotwordList
from serve_app.pipeline.hotwords_parsing import parse_hotwords

FORMATS = (
    *("pcm", "raw", "wav", "opus", "opu", "ogg", "oggopus", "speex", "amr", "amrnb", "amrwb", "mp3"),
    *("mp4", "m4a", "aac", "flac", "webm", "mkv", "mov", "aiff", "caf"),
)
"""Names of formats. They are hints: what the audio is, its content tells."""

SAMPLE_RATES = (8000, 16000, 22050, 24000)

_LONGEST_VOCABULARY = 512

_WORD_LIST_ID = re.compile(r"[0-9a-f]{32}")


def _problem(sentence: str) -> PydanticCustomError:
    return PydanticCustomError("invalid", "{sentence}", {"sentence": sentence})


def parse_vocabulary(value: str) -> HotwordList:
    """Read literal hotwords, ``word1 weight1 word2 weight2``, weights from 1 to 100 or missing, or any other
    spelling of :func:`serve_app.pipeline.hotwords.parse_hotwords`.

    Entries of the form ``wrong=>right`` are corrections. The id of a word list in Aliyun's console, 32
    hexadecimal digits, stands for words that are not known here, and so for none.

    Raises:
        ValueError: as ``parse_hotwords``.
    """
    if _WORD_LIST_ID.fullmatch(value.strip()):
        return HotwordList(elsewhere=value.strip())
    return parse_hotwords(value)


def parse_word_filter(value: Any) -> tuple[Correction, ...]:
    """Read a ``special_word_filter``, an object or the same as JSON.

    Words of ``filter_with_signed.word_list`` become as many ``*``, those of ``filter_with_empty.word_list``
    are left out.

    Raises:
        ValueError: it is no such object, or asks for a word list of the server's own.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, dict):
        raise ValueError("it must be a JSON object with filter_with_signed or filter_with_empty")
    if value.get("system_reserved_filter"):
        raise ValueError("this server has no list of sensitive words; leave system_reserved_filter out")
    unknown = value.keys() - {"filter_with_signed", "filter_with_empty", "system_reserved_filter"}
    if unknown:
        raise ValueError(f"it has the unknown key {min(unknown)!r:.40}")
    signed = [Correction(word, "*" * len(word)) for word in _word_list(value, "filter_with_signed")]
    return (*signed, *(Correction(word, "") for word in _word_list(value, "filter_with_empty")))


def _word_list(rules: Mapping[str, Any], name: str) -> list[str]:
    rule = rules.get(name) or {}
    words = rule.get("word_list", []) if isinstance(rule, dict) else rule
    if not isinstance(words, list) or not all(isinstance(word, str) and word.strip() for word in words):
        raise ValueError(f"{name}.word_list must be a list of words")
    return words


def _vocabulary(value: Any) -> HotwordList:
    if not isinstance(value, str) or len(value) > _LONGEST_VOCABULARY:
        raise _problem(f"it must be a string of {_LONGEST_VOCABULARY} characters at most")
    try:
        return parse_vocabulary(value)
    except ValueError as error:
        raise _problem(str(error)) from error


def _word_filter(value: Any) -> tuple[Correction, ...]:
    try:
        return parse_word_filter(value)
    except ValueError as error:
        raise _problem(str(error)) from error


class TextParameters(BaseModel):
    """What all of Aliyun's APIs for recordings may be told about the text. Unknown names are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    appkey: str | None = Field(None, description="Any; with it, the defaults are Aliyun's.")
    vocabulary_id: Annotated[HotwordList, BeforeValidator(_vocabulary, json_schema_input_type=str)] = Field(
        default_factory=HotwordList,
        description="Hotwords: `word1 weight1 word2 weight2`, weights from 1 to 100; also `wrong=>right`.",
    )
    customization_id: str | None = Field(None, description="Accepted; has no effect.")
    enable_inverse_text_normalization: bool | None = Field(
        None, description="Numbers in digits. Default: false with an appkey or token, else true."
    )
    special_word_filter: Annotated[
        tuple[Correction, ...], BeforeValidator(_word_filter, json_schema_input_type=str)
    ] = Field(default_factory=tuple, description="JSON: words to mask with `*` or to leave out.")
    sentence_max_length: int | None = Field(
        None, ge=4, le=50, description="Characters of a sentence, at most."
    )
    speech_noise_threshold: float | None = Field(
        None, ge=-1, le=1, description="Above 0, more counts as noise; below, more counts as speech."
    )

    @property
    def hotwords(self) -> tuple[Hotword, ...]:
        return self.vocabulary_id.words

    def text_options(
        self, *, official: bool, punctuation: bool = True, drop_fillers: bool = False
    ) -> TextOptions:
        """``official``: whether the defaults are Aliyun's rather than funasr-api's."""
        itn = self.enable_inverse_text_normalization
        return TextOptions(
            punctuation=punctuation,
            itn=not official if itn is None else itn,
            corrections=(*self.vocabulary_id.corrections, *self.special_word_filter),
            drop_fillers=drop_fillers,
            longest_sentence=self.sentence_max_length,
        )


class RecordingQuery(TextParameters):
    """What both of the APIs that take audio at once may be told of it."""

    format: str | None = Field(None, description="A hint; what the audio is, its content tells.")
    sample_rate: int = Field(16000, description="Hz of PCM without a header: 8000, 16000, 22050 or 24000.")
    audio_address: str | None = Field(None, description="URL of the audio, in place of a body.")
    language: str | None = Field(
        None, max_length=64, description="What is spoken: a code or a name. Default: told by what is said."
    )
    raw_tags: bool = Field(
        False, description="Whether the answer has what the model wrote with its tags, in `raw_text`."
    )

    def check(self) -> None:
        """Look at what is an error of a kind of its own.

        Raises:
            UnsupportedFormat: no format of this name.
            UnsupportedSampleRate: none of those that there are models for.
        """
        if self.format is not None and re.sub(r"[^a-z0-9]", "", self.format.lower()) not in FORMATS:
            raise UnsupportedFormat(
                f"The format {self.format!r:.40} is not supported. Supported are {', '.join(FORMATS)}."
            )
        if self.sample_rate not in SAMPLE_RATES:
            rates = ", ".join(map(str, SAMPLE_RATES))
            raise UnsupportedSampleRate(
                f"The sample rate {self.sample_rate} is not supported. Supported are {rates}.", "sample_rate"
            )


class AsrQuery(RecordingQuery):
    """The query of ``/stream/v1/asr``."""

    enable_punctuation_prediction: bool | None = Field(
        None, description="Default: false with an appkey or token, else true."
    )
    enable_voice_detection: bool = Field(False, description="Accepted; silence is never recognized.")
    disfluency: bool = Field(False, description="Leave out fillers such as 嗯 and 呃.")
    model_id: str | None = Field(None, max_length=64, description="A model of `/stream/v1/asr/models`.")
    enable_speaker_diarization: bool | None = Field(
        None,
        description="Whether segments tell who spoke. Default: false with an appkey or token, else as the "
        "server is set.",
    )
    word_timestamps: bool = Field(True, description="Whether segments have `word_tokens`.")


class FlashQuery(RecordingQuery):
    """The query of ``/stream/v1/FlashRecognizer``."""

    token: str | None = Field(None, description="The key, where the server wants one.")
    model: str | None = Field(
        None,
        max_length=64,
        description="A model of `/stream/v1/asr/models`; none of Aliyun's parameters.",
    )
    enable_word_level_result: bool = Field(False, description="Whether sentences have `words`.")
    enable_timestamp_alignment: bool = Field(False, description="Accepted; times are always aligned.")
    first_channel_only: bool | None = Field(
        None, description="Default: every channel of a recording at 8000 Hz, the first one of others."
    )
    enable_speaker_diarization: bool = Field(
        False, description="Whether sentences tell who spoke, in `speaker_id`; none of Aliyun's parameters."
    )


Parameters = TypeVar("Parameters", bound=TextParameters)


def parse(model: type[Parameters], values: Mapping[str, Any]) -> Parameters:
    """Read parameters; empty ones count as not given.

    Raises:
        InvalidParameter: naming the first bad one.
    """
    try:
        return model.model_validate({name: value for name, value in values.items() if value != ""})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else None
        sentence = f"The value {first['input']!r:.80} of {name!r} is not valid: {first['msg'].rstrip('.')}."
        raise InvalidParameter(sentence, name) from error


def openapi_query(model: type[RecordingQuery], *, body: bool = True) -> dict[str, Any]:
    """What Swagger shows for a query that is not parsed by FastAPI, and for a body that is raw audio."""
    properties = model.model_json_schema(mode="validation")["properties"]
    shown = [
        {"name": name, "in": "query", "schema": schema, "description": schema.pop("description", "")}
        for name, schema in properties.items()
    ]
    audio = {"schema": {"type": "string", "format": "binary"}}
    content = {"required": False, "content": {"application/octet-stream": audio}}
    return {"parameters": shown, **({"requestBody": content} if body else {})}
