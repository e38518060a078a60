"""The one tree of errors that a client can be told about.

Each protocol maps these once to its own shape. ``message`` is a whole sentence for the person who sent
the request; it never holds a stack trace, a path of the server or a key.
"""


class AsrError(Exception):
    """Base of all errors that are answered to a client."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidAudio(AsrError):
    """The audio is empty, too short, damaged, or not audio at all."""


class UnsupportedFormat(InvalidAudio):
    """The container or codec is one that the server does not decode."""


class NoAudioTrack(InvalidAudio):
    """A whole file, of a film perhaps, without anything to hear in it."""


class UnknownContent(InvalidAudio):
    """The bytes begin like no known kind of file; they may still be samples without a header."""


class AudioTooLarge(AsrError):
    """The upload or its decoded length passes a limit of this server."""


class InvalidParameter(AsrError):
    """A request parameter is missing, unknown or out of range; ``param`` is its name on the wire."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class DownloadFailed(InvalidParameter):
    """The URL of a recording is not one that may be fetched, or fetching it failed.

    ``temporary``: the other side had a bad moment, and may well answer later.
    """

    def __init__(self, message: str, param: str | None = None, *, temporary: bool = False) -> None:
        super().__init__(message, param)
        self.temporary = temporary


class NotFound(AsrError):
    """There is nothing of that name or number, or it belongs to somebody else."""


class Conflict(AsrError):
    """What was asked for does not fit the state that the thing is in."""


class Unsupported(AsrError):
    """None of the loaded models can do this."""


class Unauthenticated(AsrError):
    """The key is missing or wrong."""


class ModelNotFound(NotFound):
    """No model of that name is served here."""


class Overloaded(AsrError):
    """The queue is full; the same request may be sent again after ``retry_after`` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RateLimited(Overloaded):
    """This client has sent more than its share; others are served."""


class UpstreamLost(AsrError):
    """A model replica died and no other one could finish the work in time."""


class Internal(AsrError):
    """A fault of this server; details are in its log under the request's id."""
