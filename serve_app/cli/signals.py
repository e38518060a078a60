"""What the user asks of a running server: to stop (SIGINT, SIGTERM) or to read its config again (SIGHUP)."""

import signal
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import FrameType

_STOP = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Collects signals from :meth:`install` on."""

    def __init__(self) -> None:
        # A SimpleQueue, unlike an Event, may be filled by a handler that interrupts its own reader.
        self._received: SimpleQueue[int] = SimpleQueue()
        self.stopping = False
        self._rereading = False

    def install(self) -> None:
        """Take over the signals of this process."""
        for number in (*_STOP, signal.SIGHUP):
            signal.signal(number, self._handle)

    def wait(self, seconds: float | None = None) -> None:
        """Wait for a signal, at most for ``seconds``."""
        with suppress(Empty):
            self._received.get(timeout=seconds)

    def reread(self) -> bool:
        """True once for all requests to read the config again that came since the last call."""
        asked, self._rereading = self._rereading, False
        return asked

    @property
    def asked_to_reread(self) -> bool:
        """Whether :meth:`reread` would be true."""
        return self._rereading

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum in _STOP:
            if self.stopping:  # the second Ctrl-C: do not wait for requests that still run
                raise KeyboardInterrupt
            self.stopping = True
        else:
            self._rereading = True
        self._received.put(signum)
