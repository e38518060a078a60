"""Messages of Qwen's realtime protocol, and how a session is configured by them.

Protocol: https://help.aliyun.com/zh/model-studio/qwen-real-time-speech-recognition
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Literal

from pydantic import BaseModel, Field

from serve_app.activity import note_error
from serve_app.api.dashscope.audio import read_format
from serve_app.api.dashscope.errors import error_code
from serve_app.api.dashscope.parsing import parse, parse_object
from serve_app.api.dashscope.qwen.intake import APPEND
from serve_app.api.dashscope.wire import encoded
from serve_app.api.openai.hints import hints_in
from serve_app.audio.limits import check_layout
from serve_app.errors import AsrError, Conflict, Internal, InvalidParameter, Overloaded, UpstreamLost
from serve_app.live import LiveService
from serve_app.models import ServedModel
from serve_app.pipeline.finishing import ARROW, TextOptions
from serve_app.pipeline.hotwords import HotwordList
from serve_app.pipeline.live.events import LiveOptions

Payload = dict[str, Any]

_DEFAULT_THRESHOLD = 0.2
"""The service's own default, which its SDK always sends: it stands for this server's default, too."""

_MAX_ID = 256


class Verb(Enum):
    """What a message wants; the value is its type on the wire."""

    UPDATE = "session.update"
    COMMIT = "input_audio_buffer.commit"
    CLEAR = "input_audio_buffer.clear"
    FINISH = "session.finish"


@dataclass(frozen=True, slots=True)
class Request:
    """A message that can be taken, other than audio."""

    verb: Verb
    event_id: str | None
    fields: Mapping[str, Any]


class BadMessage(InvalidParameter):
    """A message that cannot be taken; everything goes on. ``event_id`` is the client's."""

    def __init__(self, message: str, param: str | None = None, event_id: str | None = None) -> None:
        super().__init__(message, param)
        self.event_id = event_id


class EmptyBuffer(Conflict):
    """There is no audio to commit."""


def parse_request(text: str) -> Request:
    """Read a text message.

    Raises:
        BadMessage: it is none that can be taken.
    """
    if not text:
        raise BadMessage(f"Binary frames are not taken; send audio as base64 in {APPEND}.")
    try:
        message = parse_object(text)
    except InvalidParameter as error:
        raise BadMessage(error.message) from error
    event_id = message.get("event_id")
    known_id = event_id if isinstance(event_id, str) and len(event_id) <= _MAX_ID else None
    name = message.get("type")
    if name == APPEND:
        raise BadMessage(f"The audio of {APPEND} must be a string of base64.", "audio", known_id)
    verb = next((item for item in Verb if item.value == name), None)
    if verb is None:
        known = ", ".join((APPEND, *(item.value for item in Verb)))
        raise BadMessage(
            f"The type {json.dumps(name):.80} is not known; known are {known}.", "type", known_id
        )
    return Request(verb, known_id, message)


class _TurnDetection(BaseModel):
    type: Literal["server_vad"] = "server_vad"
    threshold: float = Field(_DEFAULT_THRESHOLD, ge=-1, le=1)
    silence_duration_ms: int | None = Field(None, ge=200, le=6000)


class _Corpus(BaseModel):
    text: str | None = None


class _Transcription(BaseModel):
    language: str | None = Field(None, max_length=40)
    corpus: _Corpus | None = None


class _Format(BaseModel):
    type: str = "pcm"
    sample_rate: int = 16000


class _Input(BaseModel):
    format: _Format | None = None


class _Audio(BaseModel):
    input: _Input | None = None


class _Update(BaseModel):
    input_audio_format: str | None = None
    sample_rate: int | None = None
    audio: _Audio | None = None
    input_audio_transcription: _Transcription | None = None
    turn_detection: _TurnDetection | None = None


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How a session listens.

    Attributes:
        format: name of the audio's format, as the client spelled it.
        sample_rate: Hz of audio that does not tell its own.
        language: what the client says is spoken.
        corpus: lines of which those with an arrow correct the text.
        manual: whether the client says where a turn ends; else pauses end sentences.
        threshold: from -1 to 1; more of it counts more as noise.
        silence_ms: pause that ends a sentence; ``None``: the setting.
    """

    format: str = "pcm"
    sample_rate: int = 16000
    language: str | None = None
    corpus: str = ""
    manual: bool = False
    threshold: float = _DEFAULT_THRESHOLD
    silence_ms: int | None = None

    def updated(self, request: Request) -> "SessionConfig":
        """As ``session.update`` wants it; what it does not name stays.

        Raises:
            BadMessage: a value that cannot be.
        """
        session = request.fields.get("session")
        if not isinstance(session, dict):
            raise BadMessage("session.update needs an object session.", "session", request.event_id)
        try:
            config = self._with(parse(_Update, session, keep_null=True))
            read_format(config.format)
            check_layout(1, config.sample_rate)
            config.hints()
        except ValueError as error:
            raise BadMessage(str(error), "corpus", request.event_id) from error
        except AsrError as error:
            param = error.param if isinstance(error, InvalidParameter) else "input_audio_format"
            raise BadMessage(error.message, param, request.event_id) from error
        return config

    def _with(self, update: _Update) -> "SessionConfig":
        config = self
        wanted = update.audio.input.format if update.audio and update.audio.input else None
        if wanted is not None:
            config = replace(config, format=wanted.type, sample_rate=wanted.sample_rate)
        if update.input_audio_format is not None:
            config = replace(config, format=update.input_audio_format)
        if update.sample_rate is not None:
            config = replace(config, sample_rate=update.sample_rate)
        transcription = update.input_audio_transcription
        if transcription is not None:
            corpus = transcription.corpus.text if transcription.corpus else None
            config = replace(config, language=transcription.language, corpus=corpus or "")
        if "turn_detection" in update.model_fields_set:
            vad = update.turn_detection
            config = replace(config, manual=vad is None)
            if vad is not None:
                config = replace(config, threshold=vad.threshold, silence_ms=vad.silence_duration_ms)
        return config

    def hints(self) -> HotwordList:
        """Words to listen for, and corrections, in the lines of the corpus that are such, as in a prompt of
        OpenAI's. Raises :class:`ValueError`."""
        return hints_in(self.corpus)

    @property
    def context(self) -> str:
        """Text that helps: what of the corpus does not correct."""
        return "\n".join(line for line in self.corpus.splitlines() if ARROW not in line).strip()

    def options(self, model: ServedModel, live: LiveService) -> LiveOptions:
        """How to listen by ``model``; as ``live`` has it by default where the client does not say.

        Raises:
            InvalidParameter: a language or a corpus that the model cannot be told.
        """
        hints = self.hints()
        defaults = live.options(model, self.language, self.context, hints.words)
        noise = max(-1.0, round(self.threshold - _DEFAULT_THRESHOLD, 3))
        silence = self.silence_ms
        return replace(
            defaults,
            text=TextOptions(itn=True, corrections=hints.corrections),
            max_sentence_silence_ms=defaults.max_sentence_silence_ms if silence is None else silence,
            speech_noise_threshold=None if noise == 0 else noise,
            recognition=replace(defaults.recognition, word_times=False),
        )

    def told(self, session_id: str, model: str, defaults: LiveOptions) -> Payload:
        """The session as the server describes it."""
        silence = self.silence_ms or defaults.max_sentence_silence_ms
        vad = {"type": "server_vad", "threshold": self.threshold, "silence_duration_ms": silence}
        transcription: Payload = {"model": model}
        if self.language is not None:
            transcription["language"] = self.language
        if self.corpus:
            transcription["corpus"] = {"text": self.corpus}
        return {
            "id": session_id,
            "object": "realtime.session",
            "model": model,
            "modalities": ["text"],
            "input_audio_format": self.format,
            "sample_rate": self.sample_rate,
            "input_audio_transcription": transcription,
            "turn_detection": None if self.manual else vad,
        }


def event(name: str, **fields: Any) -> str:
    """A message of the server."""
    return encoded({"event_id": new_id("event"), "type": name, **fields})


def new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


def failure(error: AsrError, event_id: str | None = None) -> str:
    """``error``: why something cannot be done. ``event_id`` is that of the client's message, if it is one."""
    return event("error", error={**problem(error), "event_id": event_id})


def problem(error: AsrError) -> Payload:
    """An error in the fields of OpenAI's."""
    note_error(error)
    param = error.param if isinstance(error, InvalidParameter) else None
    code = "input_audio_buffer_commit_empty" if isinstance(error, EmptyBuffer) else error_code(error)
    is_ours = isinstance(error, Internal | Overloaded | UpstreamLost)
    kind = "server_error" if is_ours else "invalid_request_error"
    return {"type": kind, "code": code, "message": error.message, "param": param}
