"""Directives, which are a client's text messages, and what one that starts a task may ask for.

Protocol: https://help.aliyun.com/zh/isi/developer-reference/websocket
"""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Annotated, Any

from pydantic import AliasChoices, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from serve_app.api.aliyun.errors import UnsupportedSampleRate
from serve_app.api.aliyun.wire import TextParameters, parse
from serve_app.api.hotwords import AskedWords, with_lists
from serve_app.api.live_speakers import SpeakersAsked
from serve_app.api.nls.errors import InvalidDirective, InvalidMessage, InvalidNamespace
from serve_app.api.sockets import json_object
from serve_app.audio.announced import Format
from serve_app.errors import InvalidParameter, UnsupportedFormat
from serve_app.live import LiveService
from serve_app.pipeline.live.events import LiveOptions

_MAX_TEXT = 1 << 20
"""Characters of a directive, at most."""

_MAX_ID = 256

_FORMATS: dict[str, Format] = {
    **dict.fromkeys(("pcm", "raw"), "pcm"),
    **dict.fromkeys(("opus", "ogg", "oggopus", "speex", "oggspeex"), "ogg"),
    **dict.fromkeys(("amr", "amrnb", "amrwb"), "amr"),
    **dict.fromkeys(("aac", "adts"), "aac"),
    "wav": "wav",
    "opu": "opu",
    "mp3": "mp3",
}
_RATES = (8000, 16000)


class Service(Enum):
    """What a task does; the value is its namespace on the wire."""

    TRANSCRIBER = "SpeechTranscriber"
    RECOGNIZER = "SpeechRecognizer"


class Verb(Enum):
    """What a directive wants."""

    START = "start"
    STOP = "stop"
    CONTROL = "control"


_NAMES = {
    Service.TRANSCRIBER: {"StartTranscription": Verb.START, "StopTranscription": Verb.STOP},
    Service.RECOGNIZER: {"StartRecognition": Verb.START, "StopRecognition": Verb.STOP},
}
_CONTROL = "Control"
"""The SDKs do not agree on the rest of the name."""


@dataclass(frozen=True, slots=True)
class Directive:
    """One text message. ``task_id`` is ``None`` where the client sent none."""

    service: Service
    verb: Verb
    task_id: str | None
    payload: Mapping[str, Any]


def parse_directive(text: str) -> Directive:
    """Read a text message.

    Raises:
        InvalidMessage: it is no directive.
        InvalidNamespace: of a service that is not offered.
        InvalidDirective: of an unknown name.
    """
    message = _object(text)
    header = message.get("header")
    if not isinstance(header, dict):
        raise InvalidMessage("The message has no header; it must be an object with name, namespace, task_id.")
    task_id = _id(header.get("task_id"))
    name = header.get("name")
    if not isinstance(name, str):
        raise InvalidMessage("The header has no name; it must be one such as StartTranscription.", task_id)
    service = _service(header.get("namespace"), task_id)
    verb = Verb.CONTROL if name.startswith(_CONTROL) else _NAMES[service].get(name)
    if verb is None:
        known = ", ".join(_NAMES[service])
        raise InvalidDirective(f"{service.value} knows no {name!r:.60}; it knows {known}.", task_id)
    payload = message.get("payload")
    if payload is not None and not isinstance(payload, dict):
        raise InvalidMessage("The payload must be an object.", task_id)
    return Directive(service, verb, task_id, payload or {})


def _object(text: str) -> dict[str, Any]:
    try:
        return json_object(text, _MAX_TEXT)
    except InvalidParameter as error:
        raise InvalidMessage(error.message) from error


def _service(namespace: Any, task_id: str | None) -> Service:
    for service in Service:
        if namespace == service.value:
            return service
    known = " and ".join(service.value for service in Service)
    raise InvalidNamespace(f"There is no namespace {namespace!r:.60} here; there are {known}.", task_id)


def _id(value: Any) -> str | None:
    """An id as the client wrote it; whatever else it put there is written as JSON would."""
    if value is None or value == "":
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) > _MAX_ID:
        raise InvalidMessage(f"The task_id has more than {_MAX_ID} characters.")
    return text


def _session_id(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) > _MAX_ID:
        raise PydanticCustomError("too_long", "it must have {most} characters at most", {"most": _MAX_ID})
    return text


@dataclass(frozen=True, slots=True)
class Dialect:
    """What an address means by default.

    ``lavish``: intermediate results, punctuation and numbers in digits unless refused, as funasr-api has
    them; else only if asked for, as Aliyun has them.
    """

    lavish: bool


class StartPayload(TextParameters):
    """Parameters of a task. Unknown ones, and those without a value, are ignored."""

    format: str = "pcm"
    sample_rate: int = 16000
    enable_intermediate_result: bool | None = None
    enable_punctuation_prediction: bool | None = Field(
        None,
        # Aliyun's Node SDK writes it without the second c in its examples.
        validation_alias=AliasChoices("enable_punctuation_prediction", "enable_punctuation_predition"),
    )
    max_sentence_silence: int | None = Field(None, ge=200, le=6000)
    """Milliseconds of audio."""
    enable_words: bool = False
    enable_voice_detection: bool = False
    max_start_silence: int | None = Field(None, ge=200, le=60_000)
    max_end_silence: int | None = Field(None, ge=200, le=6000)
    disfluency: bool = False
    session_id: Annotated[str | None, BeforeValidator(_session_id)] = None
    model: str = ""
    """An addition, as the two that follow: which model recognizes. Aliyun's belongs to the appkey."""
    language: str | None = None
    context: str = ""
    """Text that helps, such as names that may come up."""
    enable_speaker_diarization: bool = False
    num_speakers: int | None = None
    min_speakers: int | None = None
    max_speakers: int | None = None

    @property
    def speakers(self) -> SpeakersAsked | None:
        if not self.enable_speaker_diarization:
            return None
        bounds = self.num_speakers, self.min_speakers, self.max_speakers
        return SpeakersAsked("enable_speaker_diarization", *bounds)


@dataclass(frozen=True, slots=True)
class Start:
    """A task that is wanted, everything about it decided.

    ``max_start_silence_ms``: without any speech until then, it is given up. ``one_sentence``: it ends with
    its first sentence. ``speakers``: what is asked of telling them apart, if it is.
    """

    service: Service
    task_id: str
    session_id: str
    format: Format
    sample_rate: int
    words: bool
    options: LiveOptions
    max_start_silence_ms: int | None = None
    one_sentence: bool = False
    speakers: SpeakersAsked | None = None


def read_start(directive: Directive, dialect: Dialect, live: LiveService) -> Start:
    """What a start directive asks for; as ``live`` has it by default where it does not.

    Raises:
        InvalidParameter: a value that cannot be.
        ModelNotFound: a model that is not served.
        UnsupportedFormat: an unknown format.
        UnsupportedSampleRate: one that this protocol does not have.
    """
    given = {name: value for name, value in directive.payload.items() if value is not None}
    payload = parse(StartPayload, given)
    if payload.sample_rate not in _RATES:
        raise UnsupportedSampleRate(
            f"The sample rate {payload.sample_rate} is not supported; it must be 8000 or 16000.",
            "sample_rate",
        )
    audio_format = _FORMATS.get(re.sub(r"[^a-z0-9]", "", payload.format.lower()))
    if audio_format is None:
        raise UnsupportedFormat(
            f"The format {payload.format!r:.40} is not supported. "
            "Supported are pcm, wav, opus, opu, speex, amr, mp3 and aac."
        )
    task_id = directive.task_id or uuid.uuid4().hex
    endpointed = directive.service is Service.RECOGNIZER and payload.enable_voice_detection
    silence = payload.max_end_silence if endpointed else payload.max_sentence_silence
    return Start(
        service=directive.service,
        task_id=task_id,
        session_id=payload.session_id or f"session_{task_id}",
        format=audio_format,
        sample_rate=payload.sample_rate,
        words=payload.enable_words,
        options=_options(payload, dialect, live, silence),
        max_start_silence_ms=payload.max_start_silence if endpointed else None,
        one_sentence=endpointed,
        speakers=payload.speakers,
    )


def _options(payload: StartPayload, dialect: Dialect, live: LiveService, silence: int | None) -> LiveOptions:
    model = live.models.find(payload.model)
    defaults = live.options(model, payload.language, payload.context, payload.hotwords)
    text = payload.text_options(
        official=not dialect.lavish,
        punctuation=_chosen(payload.enable_punctuation_prediction, dialect),
        drop_fillers=payload.disfluency,
    )
    return replace(
        with_lists(defaults, AskedWords.of(payload.vocabulary_id)),
        partials=_chosen(payload.enable_intermediate_result, dialect),
        text=text,
        max_sentence_silence_ms=defaults.max_sentence_silence_ms if silence is None else silence,
        speech_noise_threshold=payload.speech_noise_threshold,
        recognition=replace(defaults.recognition, word_times=payload.enable_words),
    )


def _chosen(value: bool | None, dialect: Dialect) -> bool:
    return dialect.lavish if value is None else value
