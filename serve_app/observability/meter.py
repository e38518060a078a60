"""Where it is counted what happens to clients. Knows nothing of Ray or of HTTP."""

import re
from typing import Protocol

from deployments.metrics import FAULTS, PROTOCOLS
from serve_app import errors


class LiveMetrics(Protocol):
    """How live sessions do. ``protocol`` is what a client speaks; times and audio are in seconds."""

    def sessions(self, protocol: str, count: int) -> None:
        """Sessions that are open now."""
        ...

    def received(self, protocol: str, kind: str, seconds: float) -> None:
        """Audio came in, of a ``file`` or ``live``."""
        ...

    def first_partial(self, protocol: str, seconds: float) -> None:
        """From a session's first audio to its first partial text."""
        ...

    def sentence_lag(self, protocol: str, seconds: float) -> None:
        """From the arrival of the end of a sentence to its final text."""
        ...

    def final_after_end(self, protocol: str, seconds: float) -> None:
        """From the end of a session's audio to its last event."""
        ...

    def ended(self, protocol: str, outcome: str) -> None:
        """A session is over: ``finished``, ``error`` or ``abandoned``."""
        ...


class Meter(LiveMetrics, Protocol):
    """All that is counted of clients."""

    def request(self, protocol: str, outcome: str, seconds: float | None) -> None:
        """A request was answered, ``seconds`` after it came, or a connection (``None``) was closed."""
        ...

    def error(self, protocol: str, name: str) -> None:
        """A client was told of an error; see :func:`error_name`."""
        ...

    def files(self, change: int) -> None:
        """So many more files hold a place."""
        ...

    def file(self, protocol: str, audio_seconds: float, seconds: float) -> None:
        """A file was transcribed to its end, in so many seconds."""
        ...

    def lost_call(self, stage: str) -> None:
        """A call to a deployment is made again, since its replica was lost."""
        ...

    def replay(self, protocol: str) -> None:
        """A stream that was lost is begun again."""
        ...


class NoMeter:
    """Implements :class:`Meter` and counts nothing; others override what they count."""

    def sessions(self, protocol: str, count: int) -> None: ...

    def received(self, protocol: str, kind: str, seconds: float) -> None: ...

    def first_partial(self, protocol: str, seconds: float) -> None: ...

    def sentence_lag(self, protocol: str, seconds: float) -> None: ...

    def final_after_end(self, protocol: str, seconds: float) -> None: ...

    def ended(self, protocol: str, outcome: str) -> None: ...

    def request(self, protocol: str, outcome: str, seconds: float | None) -> None: ...

    def error(self, protocol: str, name: str) -> None: ...

    def files(self, change: int) -> None: ...

    def file(self, protocol: str, audio_seconds: float, seconds: float) -> None: ...

    def lost_call(self, stage: str) -> None: ...

    def replay(self, protocol: str) -> None: ...


def protocol_label(protocol: str) -> str:
    """One of :data:`deployments.metrics.PROTOCOLS`."""
    return protocol if protocol in PROTOCOLS else "http"


def error_name(error: errors.AsrError) -> str:
    """The class of an error in :mod:`serve_app.errors`, as ``rate_limited``; a protocol's own are one of
    those, or ``protocol_error``."""
    kind = next(cls for cls in type(error).__mro__ if cls.__module__ == errors.__name__)
    if kind is errors.AsrError:
        return "protocol_error"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


def is_fault(name: str) -> bool:
    """Whether an error of this name is the server's own."""
    return name in FAULTS
