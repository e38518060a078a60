"""What a client sends, with its audio taken out of the JSON before it waits for its turn."""

import base64
import binascii
import json

from serve_app.api.backlog import Backlog, Message

APPEND = "input_audio_buffer.append"


class Intake(Backlog):
    """A backlog in which audio waits as bytes, wherever text messages brought it.

    What should be such a message and is none stays a text, for its reader to find fault with. So does a
    binary frame, which this protocol has no use for: it becomes an empty text.
    """

    async def put(self, message: Message) -> None:
        """Add a message. Raises :class:`serve_app.errors.AudioTooLarge`."""
        if isinstance(message, bytes):
            await super().put("")
            return
        audio = _audio_of(message)
        await super().put(message if audio is None else audio)


def _audio_of(text: str) -> bytes | None:
    if APPEND not in text:
        return None
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or message.get("type") != APPEND:
        return None
    return decoded(message.get("audio"))


def decoded(audio: object) -> bytes | None:
    """The bytes that base64 stands for, or ``None`` if it is none."""
    if not isinstance(audio, str):
        return None
    try:
        return base64.b64decode(audio, validate=True)
    except (binascii.Error, ValueError):
        return None
