"""Where the streams of a replica stand: which step each one waits for, and what the model remembers of it.

No Ray and no model here. A state is immutable and opaque, so a step that fails, or whose caller gives up,
leaves its stream where it was. For use on one event loop.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from deployments.engines.base import StreamOptions

State = TypeVar("State")


class UnknownStep(Exception):
    """The table does not hold the stream at this step; the message says why."""


class TableFull(Exception):
    """No further stream can begin."""


@dataclass(slots=True)
class _Stream(Generic[State]):
    state: State | None
    options: StreamOptions
    number: int
    used: float
    running: bool = False


@dataclass(slots=True)
class Step(Generic[State]):
    """One step that is being taken.

    ``state`` is what the step before it left, ``None`` at the begin; whoever takes the step puts there what
    it leaves itself, and calls :meth:`done` at its end.
    """

    state: State | None
    options: StreamOptions
    is_done: bool = False

    def done(self) -> None:
        """The step was worked off to its end."""
        self.is_done = True


class StreamTable(Generic[State]):
    """Streams by id. ``max_streams`` and ``idle_seconds`` may be changed at any time."""

    def __init__(
        self, max_streams: int, idle_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``idle_seconds`` after its last step a stream is forgotten; ``clock`` gives seconds."""
        self.max_streams = max_streams
        self.idle_seconds = idle_seconds
        self._clock = clock
        # The least recently used first.
        self._streams: OrderedDict[str, _Stream[State]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._streams)

    @contextmanager
    def step(
        self, stream_id: str, number: int, options: StreamOptions, *, final: bool
    ) -> Iterator[Step[State]]:
        """Hold a stream for one step; it moves on if :meth:`Step.done` was called, else it stays.

        A stream begins with step 0 and is forgotten after one with ``final``. ``options`` count only at its
        begin. Step 0 of a stream that is already there begins it anew: its caller never saw an answer.

        Raises:
            UnknownStep: this is not the step that the stream waits for, or another one of it still runs.
            TableFull: it would be one stream too many.
        """
        self.sweep()
        stream = self._begin(stream_id, options) if number == 0 else self._find(stream_id, number)
        stream.running = True
        step = Step(stream.state, stream.options)
        try:
            yield step
        finally:
            stream.running = False
            stream.used = self._clock()
            # It may have been dropped, or begun anew, in the meantime.
            if self._streams.get(stream_id) is stream:
                self._leave(stream_id, stream, step, final)

    def drop(self, stream_id: str) -> None:
        """Forget a stream, also while a step of it runs."""
        self._streams.pop(stream_id, None)

    def sweep(self) -> None:
        """Forget the streams that have been idle for too long."""
        oldest = self._clock() - self.idle_seconds
        expired = []
        for stream_id, stream in self._streams.items():
            if stream.used > oldest:
                break
            if not stream.running:
                expired.append(stream_id)
        for stream_id in expired:
            del self._streams[stream_id]

    def _begin(self, stream_id: str, options: StreamOptions) -> _Stream[State]:
        if stream_id not in self._streams and len(self._streams) >= self.max_streams:
            raise TableFull(f"all {self.max_streams} places for streams are taken")
        stream = _Stream[State](None, options, 0, self._clock())
        self._streams[stream_id] = stream
        self._streams.move_to_end(stream_id)
        return stream

    def _find(self, stream_id: str, number: int) -> _Stream[State]:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise UnknownStep("this replica does not know the stream")
        if stream.running:
            raise UnknownStep(f"step {stream.number} is still running")
        if stream.number != number:
            raise UnknownStep(f"step {stream.number} was expected, not {number}")
        self._streams.move_to_end(stream_id)
        return stream

    def _leave(self, stream_id: str, stream: _Stream[State], step: Step[State], final: bool) -> None:
        self._streams.move_to_end(stream_id)
        # A stream whose first step came to nothing never began.
        if (step.is_done and final) or (not step.is_done and stream.number == 0):
            del self._streams[stream_id]
        elif step.is_done:
            stream.state = step.state
            stream.number += 1
