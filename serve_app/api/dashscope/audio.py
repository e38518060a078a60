"""The audio of a session as its client announced it, decoded as it comes in."""

import re
from collections.abc import Iterator

import numpy as np

from deployments.messages import SAMPLE_RATE, Pcm
from serve_app.audio.announced import AnnouncedDecoder, Format
from serve_app.errors import UnsupportedFormat

_PIECE = 4096
"""Bytes that are decoded at once: those of a few compressed packets can hold minutes."""

_FORMATS: dict[str, Format] = {
    **dict.fromkeys(("pcm", "pcm16", "raw"), "pcm"),
    **dict.fromkeys(("opus", "ogg", "oggopus", "speex", "oggspeex"), "ogg"),
    **dict.fromkeys(("amr", "amrnb", "amrwb"), "amr"),
    **dict.fromkeys(("aac", "adts"), "aac"),
    "wav": "wav",
    "mp3": "mp3",
}


def read_format(name: str) -> Format:
    """The format of a name that clients use.

    Raises:
        UnsupportedFormat: none of that name.
    """
    known = _FORMATS.get(re.sub(r"[^a-z0-9]", "", name.lower()))
    if known is None:
        raise UnsupportedFormat(
            f"The format {name!r:.40} is not supported. Supported: pcm, wav, mp3, opus, speex, aac, amr."
        )
    return known


class LiveAudio:
    """Decodes one stream. ``seconds`` is how much came out of it."""

    def __init__(self, announced: Format, rate: int) -> None:
        """``rate`` in Hz is that of audio that does not tell its own.

        Raises:
            UnsupportedFormat: a rate that no recorder has.
        """
        self._decoder = AnnouncedDecoder(announced, rate)
        self.seconds = 0.0

    def decoded(self, data: bytes) -> Iterator[Pcm]:
        """The samples that are ready, in pieces. Raises :class:`serve_app.errors.InvalidAudio`."""
        for begin in range(0, len(data), _PIECE):
            yield self._counted(self._decoder.feed(data[begin : begin + _PIECE]))

    def flush(self) -> Pcm:
        """The last samples. Raises as :meth:`decoded`."""
        return self._counted(np.asarray(self._decoder.flush()))

    def _counted(self, samples: Pcm) -> Pcm:
        self.seconds += len(samples) / SAMPLE_RATE
        return samples
