"""The edge as a whole: ports that stay open while HAProxy processes come and go behind them."""

import resource
import time
from datetime import datetime

from serve_app.edge.configuration import open_files
from serve_app.edge.errors import EdgeError
from serve_app.edge.listeners import Listeners
from serve_app.edge.process import Process, Report, find_haproxy
from serve_app.edge.settings import EdgeSettings

_STEADY_SEC = 10.0
"""A process that lived this long did not die of its configuration: the next one starts at once."""
_LONGEST_PAUSE_SEC = 30.0


class Edge:
    """The edge as its owner sees it: ports that are open from :meth:`start` to :meth:`stop`."""

    def __init__(self, settings: EdgeSettings, *, access_log: bool, report: Report) -> None:
        """Open the ports; connections wait until :meth:`start`.

        Args:
            settings: as :class:`EdgeSettings` says; ``backends`` must be given.
            access_log: whether requests without a failure are logged.
            report: is told, in a sentence each, what an operator should know. May be called by any thread.

        Raises:
            HaproxyMissing: there is nothing to start.
            EdgeError: a port is in use, or the settings cannot work on this machine.
        """
        self._access_log = settings.access_log if settings.access_log is not None else access_log
        self._report = report
        find_haproxy()
        _check_limits(settings)
        self._listeners = Listeners.open(settings, report)
        self.settings = settings.model_copy(
            update={
                "funasr_port": settings.funasr_port if "funasr" in self._listeners else 0,
                "metrics": settings.metrics if "metrics" in self._listeners else None,
            }
        )
        self._process: Process | None = None
        self._finishing: list[Process] = []
        self._failures = 0
        self._next_start = 0.0

    def start(self) -> None:
        """Take connections.

        Raises:
            EdgeError: as :class:`Process`.
        """
        self._process = self._new_process()

    def _new_process(self) -> Process:
        return Process(self.settings, self._listeners, self._access_log, self._report)

    @property
    def certificate_ends(self) -> datetime | None:
        """When the certificate ends that new connections get; ``None`` without TLS."""
        return self._process.certificate_ends if self._process else None

    @property
    def pid(self) -> int | None:
        """Id of the HAProxy process that takes new connections."""
        return self._process.pid if self._process else None

    def tend(self) -> None:
        """Start HAProxy again if it died; to be called every now and then."""
        self._finishing = [process for process in self._finishing if not process.wait(0)]
        if self._process is not None and not self._process.alive:
            lived = time.monotonic() - self._process.started
            self._process.kill()  # only cleans up
            self._process = None
            self._postpone(0 if lived > _STEADY_SEC else self._failures)
            self._report("HAProxy ended and is started again. Its connections are lost.")
        if self._process is None and time.monotonic() >= self._next_start:
            try:
                self.start()
            except EdgeError as error:
                self._report(str(error))
                self._postpone(self._failures)

    def _postpone(self, failures: int) -> None:
        self._next_start = time.monotonic() + min(failures, _LONGEST_PAUSE_SEC)
        self._failures = failures + 1

    def reload(self) -> None:
        """Replace HAProxy by one with the certificate as it is now. Open connections stay with the old one.

        Raises:
            EdgeError: the new one does not start; the old one goes on.
        """
        replacement = self._new_process()
        if self._process is not None:
            self._process.finish()
            self._finishing.append(self._process)
        self._process = replacement

    def drain(self) -> None:
        """Give the ports back. What is open goes on."""
        self._listeners.close()
        for process in self._processes():
            process.finish()

    def wait(self, seconds: float) -> bool:
        """After :meth:`drain`: whether everything that was open ended within ``seconds``."""
        deadline = time.monotonic() + seconds
        ended = [process.wait(deadline - time.monotonic()) for process in self._processes()]
        return all(ended)

    def stop(self) -> None:
        """Give the ports back and cut off what is still open."""
        self._listeners.close()
        for process in self._processes():
            process.kill()

    def _processes(self) -> list[Process]:
        return [*self._finishing, *([self._process] if self._process else [])]


def _check_limits(settings: EdgeSettings) -> None:
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = open_files(settings)
    if limit != resource.RLIM_INFINITY and needed > limit:
        raise EdgeError(
            f"EDGE_MAX_CONNECTIONS={settings.max_connections} needs {needed} open files, and this process "
            f"may have {limit} (ulimit -Hn). Lower the one or raise the other."
        )
