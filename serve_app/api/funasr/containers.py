"""What the bytes of an utterance are: told by their begin rather than by what the client announced."""

import numpy as np

from deployments.messages import Pcm
from serve_app.api.funasr.wire import Config
from serve_app.audio.live import LiveDecoder
from serve_app.errors import UnsupportedFormat

HEAD = 12
"""Bytes by which a container is told."""

_WAV = (b"RIFF", b"RF64", b"BW64")
_MAGIC = (*_WAV, b"OggS", b"fLaC", b"\x1a\x45\xdf\xa3", b"ID3", b"caff", b"FORM", b"#!AMR")


def is_container(head: bytes) -> bool:
    """Whether a recording begins as a file that needs no word about its format; ``head`` is its begin."""
    return head.startswith(_MAGIC) or head[4:8] == b"ftyp"


def is_headerless(config: Config, head: bytes) -> bool:
    """Whether a recording is to be read as plain samples.

    Some clients announce PCM and send a file with its header; others announce WAV and send only what is
    behind the header.
    """
    return not is_container(head) and (config.is_pcm or config.wav_format.strip().lower() == "wav")


class LiveAudio:
    """Decodes the audio of one live utterance; a WAV header is taken off, other containers are refused."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._decoder = LiveDecoder(config.audio_fs)
        self._head: bytes | None = b""

    def feed(self, data: bytes) -> Pcm:
        """The samples that are ready, at 16 kHz.

        Raises:
            UnsupportedFormat: this is no audio that can be recognized while it comes in.
            InvalidAudio: a damaged WAV header.
        """
        if self._head is not None:
            self._head += data
            if len(self._head) < HEAD:
                return np.zeros(0, np.int16)
            data = self._checked()
        return self._decoder.feed(data)

    def flush(self) -> Pcm:
        """The last samples. Raises as :meth:`feed` does."""
        data = b"" if self._head is None else self._checked()
        return np.concatenate((self._decoder.feed(data), self._decoder.flush()))

    def _checked(self) -> bytes:
        head, self._head = self._head or b"", None
        is_wav = head.startswith(_WAV) and b"WAVE".startswith(head[8:HEAD])
        if head and not is_wav and not is_headerless(self._config, head):
            raise UnsupportedFormat(
                "Live recognition takes 16-bit PCM, with or without a WAV header; "
                "send files in other formats with the mode 'offline'."
            )
        return head
