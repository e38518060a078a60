"""FunASR's own WebSocket server as a contender: ``runtime/python/websocket/funasr_wss_server.py``.

The script comes from a checkout of FunASR that the user has; it is run as it is, with three things around it
that let it work without a network and with the weights that are to be compared:

* the offline model, whose published name one version of the script has fixed in its code, is the given one;
* the revision of a published model is left out, because models here are directories;
* speaker verification, which only adds a name to a reply, is left out. That spares the server some work.

``python -m benchmarks.funasr_wss --script PATH --offline-model DIRECTORY -- OPTIONS`` runs it in the
foreground with the script's own OPTIONS.
"""

import os
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

_START_SECONDS = 180


class PeerFailed(Exception):
    """The server did not get ready; the message ends with its output."""


@dataclass(frozen=True, slots=True)
class PeerModels:
    """Model directories in ModelScope's layout."""

    offline: Path
    online: Path
    vad: Path
    punctuation: Path


@dataclass(frozen=True, slots=True)
class PeerServer:
    """A running server. ``url`` is where its WebSocket is."""

    url: str
    process: psutil.Process

    def processes(self) -> list[psutil.Process]:
        """The server and all of its descendants."""
        return [self.process, *self.process.children(recursive=True)]


@contextmanager
def funasr_server(
    script: Path, models: PeerModels, log: Path, *, options: Sequence[str] = ()
) -> Iterator[PeerServer]:
    """Run the script on a free port, wait until it listens, stop it at the end.

    Args:
        script: ``funasr_wss_server.py`` of a FunASR checkout.
        models: what it loads.
        log: file that takes its output, which is several lines for each chunk.
        options: more options of the script, such as ``--ncpu 4``; they win over those set here.

    Raises:
        PeerFailed: it ended, or was not ready in time.
    """
    from serve_app.cli.ports import free_port

    port = free_port("127.0.0.1")
    command = [sys.executable, "-m", "benchmarks.funasr_wss", "--script", str(script)]
    command += ["--offline-model", str(models.offline.resolve()), "--"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--certfile", ""]
    command += ["--ngpu", "0", "--device", "cpu", "--ncpu", str(len(os.sched_getaffinity(0)))]
    command += ["--asr_model", str(models.offline.resolve())]
    command += ["--asr_model_online", str(models.online.resolve())]
    command += ["--vad_model", str(models.vad.resolve()), "--punc_model", str(models.punctuation.resolve())]
    with log.open("wb") as output:
        # Buffered output: the script prints for every chunk, and a flush for each would be held against it.
        child = subprocess.Popen([*command, *options], stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_until_ready(child, port, log)
        yield PeerServer(f"ws://127.0.0.1:{port}/", psutil.Process(child.pid))
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_until_ready(child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise PeerFailed(f"FunASR's server ended with {child.returncode}:\n{_tail(log)}")
        if any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            for connection in psutil.Process(child.pid).net_connections("tcp")
        ):
            return
        time.sleep(0.3)
    raise PeerFailed(f"FunASR's server was not ready in {_START_SECONDS} s:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]


class _NoSpeakers:
    """In the place of the speaker model: the script reports that it failed and goes on without a name."""

    def generate(self, **_: object) -> Any:
        raise RuntimeError("no speaker model is loaded")


def run_script(script: Path, offline_model: Path, options: Sequence[str]) -> None:
    """Run FunASR's server in this process until it is stopped.

    It replaces ``funasr.AutoModel`` and ``sys.argv``, so the process should do nothing else.
    """
    import funasr

    load = funasr.AutoModel
    fixed_names = {"paraformer-zh": str(offline_model)}

    def load_local(*, model: str, model_revision: str | None = None, **kwargs: Any) -> Any:
        if "campplus" in model:
            return _NoSpeakers()
        return load(model=fixed_names.get(model, model), disable_update=True, **kwargs)

    funasr.AutoModel = load_local
    sys.argv = [str(script), *options]
    runpy.run_path(str(script), run_name="__main__")


def main(
    script: Annotated[Path, typer.Option(help="funasr_wss_server.py of a FunASR checkout.")],
    offline_model: Annotated[Path, typer.Option(help="Directory of the offline model.")],
    options: Annotated[list[str], typer.Argument(help="Options of the script, after --.")],
) -> None:
    """Run FunASR's WebSocket server with local models."""
    run_script(script, offline_model, options)


if __name__ == "__main__":
    typer.run(main)
