"""``asr-serve transcribe``: many files in parallel, each to standard output or to a file of its own."""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from serve_app.cli.client import AsrClient, RequestRefused, TranscriptionOptions
from serve_app.cli.dialogue import dialogue

Render = Callable[[str], str]
"""Raises ``RequestRefused`` for an answer that it cannot take."""


class Format(StrEnum):
    """Values of ``response_format``."""

    TEXT = "text"
    JSON = "json"
    SRT = "srt"
    VTT = "vtt"
    VERBOSE_JSON = "verbose_json"
    DIARIZED_JSON = "diarized_json"

    @property
    def suffix(self) -> str:
        return ".json" if self.value.endswith("json") else {"text": ".txt"}.get(self.value, f".{self.value}")


@dataclass(frozen=True, slots=True)
class Job:
    """One file, and where its transcript goes: ``None`` is standard output."""

    source: Path
    target: Path | None


def plan(files: Sequence[Path], output_dir: Path | None, format_: Format) -> list[Job]:
    """Choose target names: ``a.mp3`` gives ``a.srt``, or ``a.mp3.srt`` if there is an ``a.wav`` too.

    Raises:
        ValueError: two files would write to the same target, or would mix on standard output.
    """
    if output_dir is None:
        if len(files) > 1 and format_ is not Format.TEXT:
            raise ValueError(f"several files as {format_} need --output-dir")
        return [Job(file, None) for file in files]
    stems = Counter(file.stem for file in files)
    names = [(file.stem if stems[file.stem] == 1 else file.name) + format_.suffix for file in files]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ValueError(f"two of the files would both write {output_dir / twice[0]}")
    return [Job(file, output_dir / name) for file, name in zip(files, names, strict=True)]


def presentation(
    format_: Format,
    language: str | None,
    speakers: bool | None,
    num_speakers: int | None,
    model: str | None = None,
) -> tuple[TranscriptionOptions, Render]:
    """What to ask the server for, and what to make of its answer. ``model``: by which one.

    Raises:
        ValueError: speakers are asked for, and the format has no place for them, or they are not wanted.
    """
    if num_speakers is not None:
        if speakers is False:
            raise ValueError("--num-speakers and --no-speakers contradict each other")
        speakers = True
    if speakers and format_ is Format.JSON:
        raise ValueError("json has no place for speakers; use verbose_json or diarized_json")
    as_dialogue = speakers is True and format_ is Format.TEXT
    asked = Format.VERBOSE_JSON if as_dialogue else format_
    options = TranscriptionOptions(asked.value, language, speakers, num_speakers, model)
    return options, dialogue if as_dialogue else str


class _Phase(ProgressColumn):
    """What happens to a file: its bar stands for the upload, which is the part whose end is known."""

    def render(self, task: Task) -> Text:
        return Text("" if task.id == 0 else "recognizing" if task.finished else "uploading", "dim")


async def transcribe(
    client: AsrClient,
    jobs: Sequence[Job],
    options: TranscriptionOptions,
    parallel: int,
    errors: Console,
    render: Render = str,
) -> int:
    """Run all jobs and return how many failed. Transcripts on standard output come in the order of ``jobs``.

    ``render`` makes what is delivered of what the server answers.

    Raises:
        ServerUnreachable: nobody answers; what still runs is canceled.
    """
    failed = 0
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), _Phase())
    slots = asyncio.Semaphore(parallel)
    with Progress(
        *columns,
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
        # Else what is printed while bars are shown goes to their terminal, wherever it should go.
        redirect_stdout=sys.stdout.isatty(),
    ) as progress:
        total = progress.add_task("all files", total=len(jobs), visible=len(jobs) > 1)
        tasks = [asyncio.create_task(_run(client, job, options, render, slots, progress)) for job in jobs]
        try:
            for job, task in zip(jobs, tasks, strict=True):
                outcome = await task
                if isinstance(outcome, Exception):
                    errors.print(Text.assemble((f"{job.source}: ", "red"), _reason(outcome)), soft_wrap=True)
                    failed += 1
                else:
                    _deliver(job, outcome, name_it=len(jobs) > 1)
                progress.advance(total)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return failed


async def _run(
    client: AsrClient,
    job: Job,
    options: TranscriptionOptions,
    render: Render,
    slots: asyncio.Semaphore,
    progress: Progress,
) -> str | RequestRefused | OSError:
    """The transcript, or why this one file has none."""
    async with slots:
        shown = progress.add_task(job.source.name, total=None)
        try:
            answer = await client.transcribe(
                job.source.name, lambda: _open(job.source, progress, shown), options
            )
            return render(answer)
        except (RequestRefused, OSError) as error:
            return error
        finally:
            progress.remove_task(shown)


def _reason(error: RequestRefused | OSError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _open(path: Path, progress: Progress, task: TaskID) -> BinaryIO:
    progress.reset(task)
    return progress.open(path, "rb", task_id=task)


def _deliver(job: Job, text: str, name_it: bool) -> None:
    if job.target is not None:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        job.target.write_text(text, encoding="utf-8")
    else:
        print(f"{job.source}: {text.rstrip()}" if name_it else text.rstrip("\n"))
