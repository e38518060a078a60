"""Server events, as OpenAI's SDK 3.52.0 reads them.

Protocol: https://platform.openai.com/docs/api-reference/realtime-server-events
"""

import uuid
from typing import Any, Literal

from serve_app.api.openai.errors import error_object
from serve_app.api.realtime.errors import Mistake
from serve_app.errors import AsrError
from serve_app.pipeline.hotwords_report import HotwordReport
from serve_app.rendering.openai import LogProbItem

Event = dict[str, Any]

_CONTENT_INDEX = 0
"""An item has one part: its audio."""


def new_id(prefix: str) -> str:
    """An identifier that no other thing has."""
    return f"{prefix}_{uuid.uuid4().hex[:24]}"


def session_event(name: str, session: dict[str, Any]) -> Event:
    """``session.created``, ``session.updated`` and what the beta calls them."""
    return _event(name, session=session)


def speech_started(item_id: str, begin: float) -> Event:
    """Somebody began to speak; seconds from the first audio."""
    return _event("input_audio_buffer.speech_started", audio_start_ms=_ms(begin), item_id=item_id)


def speech_stopped(item_id: str, end: float) -> Event:
    """A pause ended it; seconds from the first audio."""
    return _event("input_audio_buffer.speech_stopped", audio_end_ms=_ms(end), item_id=item_id)


def timeout_triggered(item_id: str, begin: float, end: float) -> Event:
    """Nobody spoke for as long as the client wished to hear of; seconds from the first audio."""
    times = {"audio_start_ms": _ms(begin), "audio_end_ms": _ms(end)}
    return _event("input_audio_buffer.timeout_triggered", **times, item_id=item_id)


def cleared() -> Event:
    return _event("input_audio_buffer.cleared")


def committed(item_id: str, previous: str | None, *, beta: bool) -> list[Event]:
    """Audio became an item, which is told by several events."""
    item = {
        "id": item_id,
        "object": "realtime.item",
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_audio", "transcript": None}],
    }
    names = ("created",) if beta else ("added", "done")
    return [
        _event("input_audio_buffer.committed", item_id=item_id, previous_item_id=previous),
        *(_event(f"conversation.item.{name}", previous_item_id=previous, item=item) for name in names),
    ]


def delta(item_id: str, text: str, logprobs: list[LogProbItem] | None) -> Event:
    """The text of an item goes on with ``text``."""
    return _transcription("delta", item_id, delta=text, **_optional(logprobs=logprobs))


def segment(item_id: str, text: str, begin: float, end: float, speaker: str, **extra: Any) -> Event:
    """Who spoke a sentence of an item; seconds from the first audio."""
    times = {"start": round(begin, 3), "end": round(end, 3)}
    fields = {"id": new_id("seg"), "text": text, **times, "speaker": speaker, **extra}
    return _transcription("segment", item_id, **fields)


def completed(
    item_id: str,
    transcript: str,
    seconds: float,
    logprobs: list[LogProbItem] | None,
    languages: list[str] | None,
    hotwords: HotwordReport | None = None,
) -> Event:
    """The whole text of an item, the length of its audio, and what became of the client's hotwords."""
    codes = None if languages is None else [{"code": code} for code in languages]
    usage = {"type": "duration", "seconds": round(max(0.0, seconds), 3)}
    report = None if hotwords is None else hotwords.body
    optional = _optional(logprobs=logprobs, languages=codes, hotwords=report)
    return _transcription("completed", item_id, transcript=transcript, usage=usage, **optional)


def failed(item_id: str, error: AsrError) -> Event:
    """An item has no text."""
    return _transcription("failed", item_id, error=_error_object(error))


def error_event(error: AsrError, client_event: str | None = None) -> Event:
    """What went wrong; ``client_event`` is the id of the event that it was about."""
    return _event("error", error={**_error_object(error), "event_id": client_event})


def _error_object(error: AsrError) -> dict[str, Any]:
    described = error_object(error)
    if isinstance(error, Mistake):
        described["code"] = error.code
    return described


def _transcription(
    name: Literal["delta", "segment", "completed", "failed"], item_id: str, **fields: Any
) -> Event:
    kind = f"conversation.item.input_audio_transcription.{name}"
    return _event(kind, item_id=item_id, content_index=_CONTENT_INDEX, **fields)


def _event(kind: str, **fields: Any) -> Event:
    return {"type": kind, "event_id": new_id("event"), **fields}


def _optional(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
