"""What a client sends, with the WAV headers taken off that it puts before each piece of its audio."""

from serve_app.api.backlog import Backlog, Message


class Intake(Backlog):
    """A backlog in which audio is one stream, also where each of its frames is a WAV file of its own.

    Some clients send such frames, since funasr-api wants a header on each of them; others send one header,
    or none. The first header stays: it tells what all of the samples are.
    """

    _has_begun = False

    async def put(self, message: Message) -> None:
        """Add a message. Raises :class:`serve_app.errors.AudioTooLarge`."""
        if isinstance(message, bytes) and message:
            if self._has_begun:
                message = without_header(message)
            self._has_begun = True
        await super().put(message)


def without_header(frame: bytes) -> bytes:
    """The samples of a frame that is a WAV file; any other frame as it is."""
    if frame[:4] != b"RIFF" or frame[8:12] != b"WAVE":
        return frame
    at = 12
    while at + 8 <= len(frame):
        size = int.from_bytes(frame[at + 4 : at + 8], "little")
        if frame[at : at + 4] == b"data":
            return frame[at + 8 :]
        at += 8 + size + size % 2
    return frame
