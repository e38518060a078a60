"""Tells how downloads go: as bars on a terminal, as lines in a log."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_LINE_SEC = 10.0


class Bars:
    """A bar for each model on a terminal; elsewhere one line at its beginning."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None

    def begin(self, name: str, source: str, size: int) -> None:
        """Show that a model comes; ``size`` in bytes."""
        if not self._console.is_terminal:
            self._console.print(f"{name}: {size / 1e6:.1f} MB from {source} ...", soft_wrap=True)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(
            *columns, console=self._console, redirect_stdout=False, redirect_stderr=False
        )
        self._progress.add_task(f"{name} from {source}", total=size)
        self._progress.start()

    def at(self, size: int) -> None:
        """Show how many bytes of it are here."""
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=size)

    def end(self) -> None:
        """Leave the bar as it is."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class Lines:
    """A line at the beginning, and one every ten seconds."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._name, self._size, self._told = "", 0, 0.0

    def begin(self, name: str, source: str, size: int) -> None:
        """Say that a model comes; ``size`` in bytes."""
        self._name, self._size, self._told = name, size, self._clock()
        self._say(f"Downloading {name} from {source}: {size / 1e6:.0f} MB.")

    def at(self, size: int) -> None:
        """Say how much of it is here, now and then."""
        if self._clock() - self._told >= _LINE_SEC:
            self._told = self._clock()
            self._say(f"Downloading {self._name}: {size / 1e6:.0f} of {self._size / 1e6:.0f} MB.")

    def end(self) -> None:
        """Nothing: what comes of it is told by whoever asked for the model."""
