"""On whose behalf a call is made: what goes with it through the graph, for log lines and traces."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Origin:
    """What a client asked for.

    Attributes:
        request_id: ``x-request-id`` of the request or of the connection, or the id of the job.
        protocol: by which it came, as ``openai``.
        traceparent: the span under which the call is made, as W3C's header writes it; ``None``: it is not
            traced.
    """

    request_id: str
    protocol: str
    traceparent: str | None = None


_ORIGIN: ContextVar[Origin | None] = ContextVar("asr_origin", default=None)


def origin_now() -> Origin | None:
    """On whose behalf what runs now runs; ``None``: on nobody's."""
    return _ORIGIN.get()


def untraced_origin() -> Origin | None:
    """The same for what is not traced call by call, as there are several in a second."""
    origin = _ORIGIN.get()
    return origin if origin is None or origin.traceparent is None else replace(origin, traceparent=None)


@contextmanager
def on_behalf_of(origin: Origin | None) -> Iterator[None]:
    """What runs in this context, and what it starts, runs on behalf of ``origin``."""
    token = _ORIGIN.set(origin)
    try:
        yield
    finally:
        _ORIGIN.reset(token)
