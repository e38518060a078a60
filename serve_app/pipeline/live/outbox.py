"""Events on their way out: in order, and never more of them than a reader who is late can catch up with."""

from collections import deque

from serve_app.pipeline.live.buffer import Bell
from serve_app.pipeline.live.events import (
    Finished,
    LiveEvent,
    Partial,
    SentenceFinal,
    SpeakersMerged,
)


class Outbox:
    """Holds the events of a sentence back until the one before it is final.

    A partial that has not been read, or is held back, gives way to the next one of its sentence. One that
    comes after the final is dropped.
    """

    def __init__(self) -> None:
        self._ready: deque[LiveEvent] = deque()
        self._held: dict[int, deque[LiveEvent]] = {}
        self._current = 0
        self.closed = False
        self._bell = Bell()
        self.unread_finals = 0

    def put(self, event: LiveEvent) -> None:
        if isinstance(event, Finished | SpeakersMerged) or event.index == self._current:
            _append(self._ready, event)
        elif event.index > self._current:
            _append(self._held.setdefault(event.index, deque()), event)
        if isinstance(event, SentenceFinal):
            self.unread_finals += 1
            self._current += 1
            self._ready.extend(self._held.pop(self._current, ()))
        self._bell.ring()

    def close(self) -> None:
        """Nothing follows; what is ready can still be read."""
        self.closed = True
        self._bell.ring()

    async def get(self) -> LiveEvent | None:
        """The next event; ``None`` if none is left and none will come."""
        await self._bell.until(lambda: bool(self._ready) or self.closed)
        if not self._ready:
            return None
        event = self._ready.popleft()
        self.unread_finals -= isinstance(event, SentenceFinal)
        return event


def _append(events: deque[LiveEvent], event: LiveEvent) -> None:
    last = events[-1] if events else None
    if isinstance(event, Partial) and isinstance(last, Partial) and last.index == event.index:
        events.pop()
    events.append(event)
