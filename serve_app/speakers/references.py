"""Known speakers that come with a request: a name and a short recording, in a ``data:`` URL, of each."""

import base64
import binascii
from collections.abc import Sequence
from io import BytesIO

from serve_app.errors import InvalidAudio, InvalidParameter
from serve_app.pipeline.speakers.types import Voiceprint
from serve_app.speakers.names import requested_name
from serve_app.speakers.voiceprinter import Voice, Voiceprinter, middle, together

NAMES, RECORDINGS = "known_speaker_names", "known_speaker_references"

LEAST_SECONDS = 2.0
LONGEST_SECONDS = 10.0
"""As OpenAI's reference says: https://platform.openai.com/docs/api-reference/audio/createTranscription"""

_TOLERANCE_SECONDS = 0.5
"""Encoders add silence at both ends."""


async def reference_voices(
    voiceprinter: Voiceprinter, references: Sequence[tuple[str, str]]
) -> tuple[Voiceprint, ...]:
    """The voices of ``(name, data URL)`` pairs, one for each name.

    Raises:
        InvalidParameter: naming the field, and telling which of the recordings cannot be used.
        UpstreamLost: see :class:`serve_app.pipeline.graph.Graph`.
    """
    names = [requested_name(name, NAMES) for name, _ in references]
    found = await together(
        _voice(voiceprinter, name, url) for name, (_, url) in zip(names, references, strict=True)
    )
    voices: dict[str, list[Voice]] = {}
    for name, voice in zip(names, found, strict=True):
        voices.setdefault(name, []).append(voice)
    return tuple(
        # Rounded, because they are written down with the order of a job.
        Voiceprint(name, tuple(round(value, 6) for value in middle(of_one).embedding.tolist()))
        for name, of_one in voices.items()
    )


async def _voice(voiceprinter: Voiceprinter, name: str, url: str) -> Voice:
    try:
        return await voiceprinter.voice(
            BytesIO(_content(url)),
            param=RECORDINGS,
            least=LEAST_SECONDS - _TOLERANCE_SECONDS,
            longest=LONGEST_SECONDS + _TOLERANCE_SECONDS,
        )
    except (InvalidParameter, InvalidAudio) as error:
        raise InvalidParameter(f"The reference of {name!r:.80}: {error.message}", RECORDINGS) from error


def _content(url: str) -> bytes:
    header, comma, data = url.strip().partition(",")
    try:
        if not comma or not header.lower().startswith("data:") or not header.lower().endswith(";base64"):
            raise binascii.Error
        return base64.b64decode(data, validate=True)
    except ValueError as error:
        raise InvalidParameter("It must be a data URL with a recording in base64.", RECORDINGS) from error
