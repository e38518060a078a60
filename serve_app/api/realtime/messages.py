"""Client events: a client's text messages."""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from serve_app.api.realtime.errors import Mistake

_MAX_AUDIO = 15 << 20
"""Bytes of one event's audio in base64. Messages of 16 MiB do not pass Serve's proxy."""

_MAX_OTHER = 1 << 20
_MAX_ID = 512

_APPEND = "input_audio_buffer.append"
KINDS = (
    "session.update",
    "transcription_session.update",
    _APPEND,
    "input_audio_buffer.commit",
    "input_audio_buffer.clear",
)


@dataclass(frozen=True, slots=True)
class ClientEvent:
    """One message. ``id`` is the client's own name for it."""

    kind: str
    id: str | None
    session: Any = None
    audio: bytes = b""


class Refused(Exception):
    """A message that is no event; ``event_id`` is the client's name for it, if that could be read."""

    def __init__(self, mistake: Mistake, event_id: str | None = None) -> None:
        super().__init__(mistake.message)
        self.mistake = mistake
        self.event_id = event_id


def parse_event(text: str) -> ClientEvent:
    """Read a message; raises :class:`Refused`."""
    if len(text) > _MAX_AUDIO + _MAX_OTHER:
        raise Refused(_too_much_audio())
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(
            Mistake(f"The message is not JSON: it begins with {text[:40]!r}.", code="invalid_json")
        ) from error
    if not isinstance(message, dict):
        raise Refused(Mistake(f"A message must be a JSON object, not {text[:40]!r}.", code="invalid_json"))
    event_id = message.get("event_id")
    if not isinstance(event_id, str):
        if event_id is not None:
            raise Refused(Mistake("'event_id' must be a string.", "event_id", "invalid_type"))
    elif len(event_id) > _MAX_ID:
        raise Refused(Mistake(f"'event_id' may have {_MAX_ID} characters.", "event_id"))
    try:
        return _event(message, event_id)
    except Mistake as mistake:
        raise Refused(mistake, event_id) from mistake


def _event(message: dict[str, Any], event_id: str | None) -> ClientEvent:
    if "type" not in message:
        raise Mistake("The parameter 'type' is missing.", "type", "missing_required_parameter")
    kind = message["type"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise Mistake(
            f"A transcription session knows no events of the type {kind!r:.60}; it knows {', '.join(KINDS)}.",
            "type",
        )
    if kind == _APPEND:
        return ClientEvent(kind, event_id, audio=_audio(message))
    if kind.endswith(".update") and not isinstance(message.get("session"), dict):
        if message.get("session") is None:
            raise Mistake("The parameter 'session' is missing.", "session", "missing_required_parameter")
        raise Mistake("'session' must be an object.", "session", "invalid_type")
    return ClientEvent(kind, event_id, session=message.get("session"))


def _audio(message: dict[str, Any]) -> bytes:
    audio = message.get("audio")
    if audio is None:
        raise Mistake("The parameter 'audio' is missing.", "audio", "missing_required_parameter")
    if not isinstance(audio, str):
        raise Mistake("'audio' must be a string of audio in base64.", "audio", "invalid_type")
    if len(audio) > _MAX_AUDIO:
        raise _too_much_audio()
    try:
        return base64.b64decode(audio, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Mistake("'audio' is not audio in base64.", "audio") from error


def _too_much_audio() -> Mistake:
    return Mistake(
        f"One event may bring {_MAX_AUDIO >> 20} MiB of base64; send the rest in further events.",
        "audio",
    )
