"""Messages of ``/api-ws/v1/inference``, and what one that starts a task may ask for.

Protocol: https://help.aliyun.com/zh/model-studio/websocket-for-paraformer-real-time-service
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from serve_app.api.aliyun.wire import parse_vocabulary, parse_word_filter
from serve_app.api.dashscope.audio import read_format
from serve_app.api.dashscope.errors import TaskError
from serve_app.api.dashscope.parsing import parse, parse_object
from serve_app.api.hotwords import AskedWords, with_lists
from serve_app.api.live_speakers import SpeakersAsked
from serve_app.audio.announced import Format
from serve_app.errors import InvalidParameter
from serve_app.live import LiveService
from serve_app.pipeline.finishing import Correction, TextOptions
from serve_app.pipeline.hotwords import HotwordList, checked
from serve_app.pipeline.live.events import LiveOptions
from serve_app.pipeline.speakers.types import MOST_SPEAKERS

Payload = dict[str, Any]

_MAX_ID = 256
_MAX_RESOURCES = 100
_LONGEST_VOCABULARY = 512

_STORED_ID = re.compile(r"(vocab|phrase|asr)?[-_0-9a-zA-Z]*[0-9a-f]{24,32}")
"""Id of a list that was made in DashScope's console or by its API."""

_KIND = {"task_group": "audio", "task": "asr", "function": "recognition"}


class Action(Enum):
    """What a message wants; the value is its name on the wire."""

    RUN = "run-task"
    CONTINUE = "continue-task"
    FINISH = "finish-task"


@dataclass(frozen=True, slots=True)
class Message:
    """One text message of a client."""

    action: Action
    task_id: str
    payload: Mapping[str, Any]


def parse_message(text: str) -> Message:
    """Read a text message.

    Raises:
        TaskError: it is none of this protocol's.
    """
    message = parse_object(text)
    header = message.get("header")
    if not isinstance(header, dict):
        raise TaskError("The message has no header; it must be an object with action and task_id.")
    task_id = header.get("task_id")
    if not isinstance(task_id, str) or not 0 < len(task_id) <= _MAX_ID:
        raise TaskError(f"The header needs a task_id, a string of {_MAX_ID} characters at most.")
    name = header.get("action")
    action = next((item for item in Action if item.value == name), None)
    if action is None:
        known = ", ".join(item.value for item in Action)
        raise TaskError(f"The action {json.dumps(name):.60} is not known; known are {known}.", task_id)
    if header.get("streaming") not in (None, "duplex"):
        raise TaskError("The streaming of recognition is duplex; there is no other one.", task_id)
    payload = message.get("payload")
    if payload is not None and not isinstance(payload, dict):
        raise TaskError("The payload must be an object.", task_id)
    return Message(action, task_id, payload or {})


def _problem(error: ValueError) -> PydanticCustomError:
    return PydanticCustomError("invalid", "{sentence}", {"sentence": str(error)})


def _vocabulary(value: Any) -> HotwordList:
    """Literal hotwords, or the id of a list that was made at DashScope."""
    if not isinstance(value, str) or len(value) > _LONGEST_VOCABULARY:
        raise _problem(ValueError(f"it must be a string of {_LONGEST_VOCABULARY} characters at most"))
    if _STORED_ID.fullmatch(value.strip()):
        return HotwordList(elsewhere=value.strip())
    try:
        return parse_vocabulary(value)
    except ValueError as error:
        raise _problem(error) from error


def _word_filter(value: Any) -> tuple[Correction, ...]:
    try:
        return parse_word_filter(value)
    except ValueError as error:
        raise _problem(error) from error


LiteralVocabulary = Annotated[HotwordList, BeforeValidator(_vocabulary)]
WordFilter = Annotated[tuple[Correction, ...], BeforeValidator(_word_filter)]


class TaskParameters(BaseModel):
    """What tasks for live audio and for recordings may both ask for.

    Unknown names are ignored, and so is a value of ``null``.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    disfluency_removal_enabled: bool = False
    punctuation_prediction_enabled: bool = True
    inverse_text_normalization_enabled: bool = True
    vocabulary_id: LiteralVocabulary = HotwordList()
    special_word_filter: WordFilter = ()
    language_hints: list[str] = Field(default_factory=list, max_length=100)
    speech_noise_threshold: float | None = Field(None, ge=-1, le=1)

    def text_options(self, phrases: tuple[Correction, ...]) -> TextOptions:
        """``phrases``: corrections that came beside the parameters."""
        return TextOptions(
            punctuation=self.punctuation_prediction_enabled,
            itn=self.inverse_text_normalization_enabled,
            corrections=(*self.vocabulary_id.corrections, *phrases, *self.special_word_filter),
            drop_fillers=self.disfluency_removal_enabled,
        )


class _Live(TaskParameters):
    format: str = "pcm"
    sample_rate: int = 16000
    max_sentence_silence: int | None = Field(None, ge=200, le=6000)
    semantic_punctuation_enabled: bool = False
    multi_threshold_mode_enabled: bool = False
    heartbeat: bool = False
    diarization_enabled: bool = False
    speaker_count: int | None = Field(None, ge=1, le=100)
    language: str | None = None
    context: str = ""
    """An addition: text that helps, such as names that may come up."""

    @property
    def spoken(self) -> str | None:
        """The language, if only one may be spoken: the model tells several apart by itself."""
        hints = [self.language] if self.language else self.language_hints
        return hints[0] if len(hints) == 1 else None

    @property
    def speakers(self) -> SpeakersAsked | None:
        """What is asked of telling speakers apart, if that is asked for.

        DashScope takes the count for advice: above what can be told apart here, it is none.
        """
        if not self.diarization_enabled:
            return None
        count = self.speaker_count
        known = count if count is not None and count <= MOST_SPEAKERS else None
        return SpeakersAsked("diarization_enabled", count=known)


class _Resource(BaseModel):
    resource_id: LiteralVocabulary = HotwordList()
    resource_type: str | None = None


class Resources(BaseModel):
    """Vocabularies beside the parameters, as older SDKs send them."""

    resources: list[_Resource] = Field(default_factory=list, max_length=_MAX_RESOURCES)

    @property
    def corrections(self) -> tuple[Correction, ...]:
        return tuple(item for resource in self.resources for item in resource.resource_id.corrections)

    def hotwords(self, wanted: TaskParameters) -> AskedWords:
        """All words to listen for: those of the parameters, too.

        Raises:
            InvalidParameter: there are too many.
        """
        lists = (wanted.vocabulary_id, *(resource.resource_id for resource in self.resources))
        try:
            words = checked(word for found in lists for word in found.words)
        except ValueError as error:
            raise InvalidParameter(f"The hotwords are not valid: {error}.", "vocabulary_id") from error
        return AskedWords(words, tuple(found.elsewhere for found in lists if found.elsewhere))


@dataclass(frozen=True, slots=True)
class Start:
    """A task that is wanted, everything about it decided."""

    task_id: str
    format: Format
    sample_rate: int
    heartbeat: bool
    options: LiveOptions
    speakers: SpeakersAsked | None = None


def read_start(message: Message, live: LiveService) -> Start:
    """What a ``run-task`` asks for; as ``live`` has it by default where it does not.

    Raises:
        InvalidParameter: a value that cannot be.
        UnsupportedFormat: an unknown format.
    """
    payload = message.payload
    for name, value in _KIND.items():
        if payload.get(name) not in (None, value):
            raise TaskError(f"The {name} must be {value}; nothing else is offered here.", message.task_id)
    if not isinstance(payload.get("model"), str):
        raise TaskError("The payload needs a model, the name of one.", message.task_id)
    parameters = payload.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise TaskError("The parameters must be an object.", message.task_id)
    wanted = parse(_Live, parameters or {})
    beside = parse(Resources, payload)
    silence = wanted.max_sentence_silence
    defaults = _defaults(payload["model"], wanted, beside, live)
    options = replace(
        defaults,
        text=wanted.text_options(beside.corrections),
        max_sentence_silence_ms=defaults.max_sentence_silence_ms if silence is None else silence,
        speech_noise_threshold=wanted.speech_noise_threshold,
    )
    audio = read_format(wanted.format), wanted.sample_rate
    return Start(message.task_id, *audio, wanted.heartbeat, options, wanted.speakers)


def _defaults(model: str, wanted: _Live, beside: Resources, live: LiveService) -> LiveOptions:
    asked = beside.hotwords(wanted)
    try:
        options = live.options(live.models.meant(model), wanted.spoken, wanted.context, asked.words)
        return with_lists(options, asked)
    except InvalidParameter as error:
        param = "language_hints" if error.param == "language" and not wanted.language else error.param
        raise InvalidParameter(error.message, param) from error


def event(name: str, task_id: str, payload: Payload, **header: str) -> str:
    """A message of the server. ``header``: what is in its header besides."""
    message = {
        "header": {"task_id": task_id, "event": name, **header, "attributes": {}},
        "payload": payload,
    }
    return encoded(message)


def encoded(message: Payload) -> str:
    """JSON as it is sent: an id may hold half a surrogate pair, which no message can carry."""
    return json.dumps(message, ensure_ascii=False).encode("utf-8", "replace").decode()
