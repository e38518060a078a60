"""``asr-serve jobs submit``: recordings become jobs, which are followed to their end if so wished."""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from serve_app.cli.client import RequestRefused
from serve_app.cli.job_client import JobClient, JobState, Submission
from serve_app.cli.transcribe import Format, plan

_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Order:
    """A path or a URL, what to call it, and where its transcript goes: ``None`` is standard output."""

    source: str
    name: str
    target: Path | None = None

    @property
    def is_url(self) -> bool:
        return is_url(self.source)


def is_url(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def orders(sources: Sequence[str], output_dir: Path | None, format_: Format) -> list[Order]:
    """Choose names and targets. Raises ``ValueError`` as :func:`serve_app.cli.transcribe.plan`."""
    names = [_name(source) for source in sources]
    planned = plan([Path(name) for name in names], output_dir, format_)
    return [
        Order(source, name, job.target) for source, name, job in zip(sources, names, planned, strict=True)
    ]


def _name(source: str) -> str:
    path = unquote(urlsplit(source).path) if is_url(source) else source
    return Path(path).name or "recording"


class JobDisplay:
    """A bar for each job on a terminal, fed with its states; nothing where there is no terminal."""

    def __init__(self, console: Console) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(
            *columns,
            console=console,
            transient=True,
            disable=not console.is_terminal,
            # Else what is printed while bars are shown goes to their terminal, wherever it should go.
            redirect_stdout=sys.stdout.isatty(),
        )

    def __enter__(self) -> "JobDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def add(self, name: str, state: str = "") -> TaskID:
        return self._progress.add_task(name, total=None, state=state)

    def upload(self, path: Path, row: TaskID) -> BinaryIO:
        """Open a file, whose reading moves the bar."""
        self._progress.reset(row, state="uploading")
        return self._progress.open(path, "rb", task_id=row)

    def show(self, row: TaskID, job: JobState) -> None:
        state = job.status
        if job.status == "running" and job.seconds_total:
            state = f"{clock(job.seconds_done)} of {clock(job.seconds_total)}"
        self._progress.update(row, completed=job.seconds_done, total=job.seconds_total, state=state)

    def remove(self, row: TaskID) -> None:
        self._progress.remove_task(row)


def clock(seconds: float) -> str:
    """``0:07``, ``12:34``, ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


Work = Callable[[Order, JobDisplay, TaskID], Coroutine[None, None, str]]
"""What is done for an order; gives what is to be delivered."""


async def _guarded(order: Order, display: JobDisplay, work: Work) -> str | RequestRefused | OSError:
    """What comes of one order, or why nothing does; the others go on."""
    row = display.add(order.name)
    try:
        return await work(order, display, row)
    except (RequestRefused, OSError) as error:
        return error
    finally:
        display.remove(row)


class Submitter:
    """Hands in all orders, a few at once, and tells what becomes of them in their order."""

    def __init__(self, client: JobClient, submission: Submission, errors: Console) -> None:
        self._client = client
        self._submission = submission
        self._errors = errors
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._unfinished: dict[str, str] = {}

    async def submit(self, wanted: Sequence[Order]) -> int:
        """Print the id of each job on a line of its own; how many could not be handed in."""

        async def one(order: Order, display: JobDisplay, row: TaskID) -> str:
            return (await self._hand_in(order, display, row)).id

        return await self._all(wanted, one, lambda order, job_id: print(job_id))

    async def transcribe(self, wanted: Sequence[Order], format_: Format) -> int:
        """Follow each job to its end and deliver its result; how many have none.

        When this is left early, the jobs go on, and are named.
        """

        async def one(order: Order, display: JobDisplay, row: TaskID) -> str:
            job = await self._hand_in(order, display, row)
            self._unfinished[job.id] = order.source
            self._errors.print(Text(f"{order.source}: {job.id}", "dim"), soft_wrap=True)
            text = await self._result(job, format_, display, row)
            del self._unfinished[job.id]
            return text

        def deliver(order: Order, text: str) -> None:
            if order.target is not None:
                order.target.parent.mkdir(parents=True, exist_ok=True)
                order.target.write_text(text, encoding="utf-8")
            else:
                print(f"{order.source}: {text.rstrip()}" if len(wanted) > 1 else text.rstrip("\n"))

        try:
            return await self._all(wanted, one, deliver)
        except BaseException:
            if self._unfinished:
                ids = " ".join(self._unfinished)
                advice = f"The jobs go on; `asr-serve jobs result` gives what becomes of them: {ids}"
                self._errors.print(Text(advice, "yellow"), soft_wrap=True)
            raise

    async def _hand_in(self, order: Order, display: JobDisplay, row: TaskID) -> JobState:
        if order.is_url:
            return await self._client.submit(order.source, self._submission)
        path = Path(order.source)
        async with self._slots:
            return await self._client.submit(
                (order.name, lambda: display.upload(path, row)), self._submission
            )

    async def _result(self, job: JobState, format_: Format, display: JobDisplay, row: TaskID) -> str:
        async for state in self._client.watch(job.id):
            job = state
            display.show(row, job)
        if job.status != "completed":
            self._unfinished.pop(job.id, None)
            raise RequestRefused(job.failure or f"The job {job.id} was {job.status}.")
        return await self._client.persistently(lambda: self._client.result(job.id, format_.value))

    async def _all(self, wanted: Sequence[Order], one: Work, deliver: Callable[[Order, str], None]) -> int:
        failed = 0
        with JobDisplay(self._errors) as display:
            tasks = [asyncio.create_task(_guarded(order, display, one)) for order in wanted]
            try:
                for order, task in zip(wanted, tasks, strict=True):
                    outcome = await task
                    if isinstance(outcome, str):
                        deliver(order, outcome)
                        continue
                    reason = (outcome.strerror if isinstance(outcome, OSError) else None) or str(outcome)
                    self._errors.print(Text.assemble((f"{order.source}: ", "red"), reason), soft_wrap=True)
                    failed += 1
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return failed
