"""The two spellings of a session: today's, and that of the beta, which old clients still use."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from serve_app.api.realtime.config import Config, Pcm16, Pcma, Pcmu, SemanticVad, ServerVad
from serve_app.api.realtime.errors import Mistake, mistake_of

Json = dict[str, Any]

_OBJECT = "realtime.transcription_session"

GA_NAMES = {
    "format": "session.audio.input.format",
    "transcription": "session.audio.input.transcription",
    "noise_reduction": "session.audio.input.noise_reduction",
    "turn_detection": "session.audio.input.turn_detection",
    "include": "session.include",
}
BETA_NAMES = {
    "format": "session.input_audio_format",
    "transcription": "session.input_audio_transcription",
    "noise_reduction": "session.input_audio_noise_reduction",
    "turn_detection": "session.turn_detection",
    "include": "session.include",
}
_BETA_FORMATS: dict[str, Json] = {
    "pcm16": {"type": "audio/pcm", "rate": 24000},
    "g711_ulaw": {"type": "audio/pcmu"},
    "g711_alaw": {"type": "audio/pcma"},
}


@dataclass(frozen=True, slots=True)
class Shown:
    """What the shapes of a session hold beside its configuration. ``expires_at``: seconds since 1970."""

    id: str
    model: str
    """The transcription model's name where the client named none."""
    silence_ms: int
    """The pause that ends a sentence where the client named none."""
    expires_at: int | None = None


def ga_changes(session: Any) -> Json:
    """The fields that a session in today's spelling sets.

    Raises:
        Mistake: it is none.
    """
    session = _object(session, "session")
    kind = session.get("type", "transcription")
    if kind == "realtime":
        raise Mistake(
            "This server transcribes; it holds no speech-to-speech sessions. "
            "The type of a session is 'transcription'.",
            "session.type",
        )
    if kind != "transcription":
        raise Mistake(f"The type of a session must be 'transcription', not {kind!r:.60}.", "session.type")
    _known(session, ("type", "audio", "include", "id", "object", "expires_at"), "session")
    audio = _object(session.get("audio"), "session.audio")
    _known(audio, ("input",), "session.audio")
    given = _object(audio.get("input"), "session.audio.input")
    fields = ("format", "transcription", "noise_reduction", "turn_detection")
    _known(given, fields, "session.audio.input")
    found = {name: given[name] for name in fields if name in given}
    if isinstance(found.get("format"), dict):
        found["format"] = {"type": "audio/pcm", **_set(found["format"])}
    return found | ({"include": session["include"]} if "include" in session else {})


def beta_changes(session: Any) -> Json:
    """The fields that a session in the beta's spelling sets; raises as :func:`ga_changes`."""
    session = _object(session, "session")
    short = {BETA_NAMES[field].removeprefix("session."): field for field in BETA_NAMES}
    _known(session, (*short, "modalities", "id", "object", "expires_at", "client_secret"), "session")
    found = {short[name]: value for name, value in session.items() if name in short}
    if found.get("format") is not None:
        name = BETA_NAMES["format"]
        if not isinstance(found["format"], str) or found["format"] not in _BETA_FORMATS:
            known = ", ".join(_BETA_FORMATS)
            raise Mistake(f"{name!r} must be one of {known}, not {found['format']!r:.60}.", name)
        found["format"] = _BETA_FORMATS[found["format"]]
    if isinstance(found.get("turn_detection"), dict):
        found["turn_detection"] = {"type": "server_vad", **_set(found["turn_detection"])}
    return found


def updated(config: Config, changes: Json, names: Mapping[str, str]) -> Config:
    """``config`` with ``changes``; raises :class:`Mistake`, which tells ``names``."""
    try:
        return config.updated(changes)
    except ValidationError as error:
        raise mistake_of(error, names) from error


def ga_session(config: Config, shown: Shown) -> Json:
    """A session as it is shown today."""
    fields = _fields(config, shown)
    return {
        "type": "transcription",
        "id": shown.id,
        "object": _OBJECT,
        "audio": {"input": {name: fields[name] for name in GA_NAMES if name != "include"}},
        "include": config.include,
        "expires_at": shown.expires_at,
    }


def beta_session(config: Config, shown: Shown) -> Json:
    """A session as the beta shows it."""
    fields = _fields(config, shown)
    spelled = {Pcm16: "pcm16", Pcmu: "g711_ulaw", Pcma: "g711_alaw"}
    return {
        "id": shown.id,
        "object": _OBJECT,
        "expires_at": shown.expires_at,
        "input_audio_format": spelled[type(config.format)],
        "input_audio_transcription": fields["transcription"],
        "input_audio_noise_reduction": fields["noise_reduction"],
        "turn_detection": fields["turn_detection"],
        "include": config.include,
    }


def _fields(config: Config, shown: Shown) -> Json:
    transcription = config.transcription.model_dump(exclude_unset=True)
    vad = config.turn_detection
    return {
        "format": config.format.model_dump(exclude_none=True),
        "transcription": {"model": shown.model, **transcription},
        "noise_reduction": config.noise_reduction and config.noise_reduction.model_dump(exclude_unset=True),
        "turn_detection": _vad(vad, shown) if vad is not None else None,
    }


def _vad(vad: ServerVad | SemanticVad, shown: Shown) -> Json:
    optional = {"create_response", "interrupt_response"} - vad.model_fields_set
    values = vad.model_dump(exclude=optional)
    if isinstance(vad, ServerVad) and vad.silence_duration_ms is None:
        values["silence_duration_ms"] = shown.silence_ms
    return values


def _object(value: Any, name: str) -> Json:
    """``null`` counts as an object that sets nothing."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Mistake(f"{name!r} must be an object, not {value!r:.60}.", name, "invalid_type")
    return value


def _set(values: Json) -> Json:
    return {name: value for name, value in values.items() if value is not None}


def _known(values: Json, names: tuple[str, ...], where: str) -> None:
    for name in values:
        if name not in names:
            param = f"{where}.{name:.60}"
            raise Mistake(f"There is no parameter {param!r}.", param, "unknown_parameter")
