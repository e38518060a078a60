"""What a request goes through, told to whoever follows it. Where nobody does, nothing happens.

Knows neither Ray nor OpenTelemetry, so that the pipeline may use it: :mod:`serve_app.tracing` makes spans of
it. No text and no key belongs into what is told.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Self

Value = str | int | float | bool


class Stage:
    """A part of a request, from its begin to its end; one that nobody follows, as it is here.

    As a context manager it holds what runs inside, and ends with it.
    """

    __slots__ = ()

    def child(self, name: str, values: dict[str, Value]) -> "Stage":
        """Begin a part of this one."""
        return self

    def child_since(self, name: str, begin: int) -> "Stage":
        """A part that began before, at ``begin`` in nanoseconds since 1970."""
        return self

    def rename(self, name: str) -> None:
        """It turned out to be something more exact."""

    def set(self, **values: Value) -> None:
        """Tell more of it."""

    def event(self, name: str, **values: Value) -> None:
        """Tell of something that happens in it now."""

    def fail(self, error: BaseException | str) -> None:
        """It came to an error, or to one of this kind: messages are not told."""

    def end(self) -> None:
        """It is over; once told, a second time means nothing."""

    def holding(self) -> AbstractContextManager[None]:
        """What runs in this context, and what it starts, is a part of this stage."""
        return _NO_CONTEXT

    def working(self) -> AbstractContextManager[None]:
        """Count the time of this context as work: for a stage that others interrupt."""
        return _NO_CONTEXT

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing to end."""


_NO_CONTEXT = nullcontext()

UNFOLLOWED = Stage()

_CURRENT: ContextVar[Stage] = ContextVar("asr_stage", default=UNFOLLOWED)


def current_stage() -> Stage:
    """What runs now is a part of this."""
    return _CURRENT.get()


def stage(name: str, **values: Value) -> Stage:
    """Begin a part of what runs now; to be ended, or used as a context manager."""
    return _CURRENT.get().child(name, values)


@contextmanager
def as_current(followed: Stage) -> Iterator[None]:
    """What runs in this context is a part of ``followed``."""
    token: Token[Stage] = _CURRENT.set(followed)
    try:
        yield
    finally:
        _CURRENT.reset(token)
