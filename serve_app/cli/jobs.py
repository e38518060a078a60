"""``asr-serve jobs``: long recordings, handed in, watched and fetched."""

import json
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from serve_app.cli.client import AsrClient, RequestRefused
from serve_app.cli.common import DEFAULT_URL, ApiKey, Url, fail, run_command
from serve_app.cli.hotwords import Hotwords, as_sent
from serve_app.cli.job_client import JobClient, JobState, Submission
from serve_app.cli.job_orders import JobDisplay, Submitter, clock, orders
from serve_app.cli.transcribe import Format

Result = TypeVar("Result")

NOT_FINISHED = 3
"""Exit status of ``result`` for a job that is still under way."""

_CONNECTIONS = 64

jobs_app = typer.Typer(
    no_args_is_help=True, help="Long recordings: jobs that go on while nobody waits for them."
)

JobId = Annotated[str, typer.Argument(metavar="ID", help="Id of the job.")]


class Status(StrEnum):
    """Values of ``status``."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"


@jobs_app.command()
def submit(
    sources: Annotated[list[str], typer.Argument(metavar="FILE|URL...", help="Audio or video.")],
    url: Url = DEFAULT_URL,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Until they end; prints the results.")] = False,
    format_: Annotated[
        Format | None, typer.Option("--format", "-f", help="Format of the results; text if not given.")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "-o", help="With --wait: write one file each here.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="One of `asr-serve models list --url`; default: the server's."),
    ] = None,
    language: Annotated[
        str | None, typer.Option("--language", "-l", help="What is spoken: a code, as zh, or a name.")
    ] = None,
    hotwords: Hotwords = None,
    channels: Annotated[str | None, typer.Option(help="split: each channel by itself; or mix.")] = None,
    webhook: Annotated[str | None, typer.Option(help="URL that is told when a job has ended.")] = None,
    webhook_secret: Annotated[
        str | None,
        typer.Option(help="Signs what is sent there.", envvar="ASR_SERVE_WEBHOOK_SECRET"),
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key again gives the same job, not another one.")
    ] = None,
    api_key: ApiKey = None,
) -> None:
    """Hand in recordings, and print the id of each job on a line of its own."""
    if idempotency_key is not None and len(sources) > 1:
        raise typer.BadParameter("an --idempotency-key is for one recording")
    if output_dir is not None and not wait:
        raise typer.BadParameter("--output-dir needs --wait")
    wanted = format_ or Format.TEXT
    try:
        planned = orders(sources, output_dir, wanted if wait else Format.TEXT)
        words = as_sent(hotwords)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    fields = {
        "response_format": wanted.value if wait or format_ else None,
        "model": model,
        "language": language,
        "hotwords": words,
        "channels": channels,
        "webhook_url": webhook,
        "webhook_secret": webhook_secret if webhook else None,
    }
    submission = Submission(fields, idempotency_key)

    async def work(client: JobClient) -> int:
        submitter = Submitter(client, submission, Console(stderr=True))
        return await (submitter.transcribe(planned, wanted) if wait else submitter.submit(planned))

    if failed := _with_client(work, url, api_key):
        fail(f"{failed} of {len(planned)} recordings without a {'transcript' if wait else 'job'}.")


@jobs_app.command()
def status(
    job_id: JobId,
    url: Url = DEFAULT_URL,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Until it has ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole object of the job.")] = False,
    api_key: ApiKey = None,
) -> None:
    """Tell how far a job is. With --wait, the exit status is 1 if it was not completed."""

    async def work(client: JobClient) -> JobState:
        job = await client.get(job_id)
        if wait:
            with JobDisplay(Console(stderr=True)) as display:
                row = display.add(_name(job) or job.id)
                async for state in client.watch(job_id):
                    job = state
                    display.show(row, job)
        return job

    job = _with_client(work, url, api_key)
    print(json.dumps(job.body, ensure_ascii=False, indent=2) if as_json else _described(job))
    if wait and job.status != "completed":
        raise typer.Exit(1)


@jobs_app.command()
def result(
    job_id: JobId,
    url: Url = DEFAULT_URL,
    format_: Annotated[
        Format | None, typer.Option("--format", "-f", help="As the job was submitted if not given.")
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="What there is of it by now.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it to this file, not to the terminal.")
    ] = None,
    api_key: ApiKey = None,
) -> None:
    """Print the result of a job. The exit status is 3 if it is not finished yet."""

    async def work(client: JobClient) -> str:
        try:
            return await client.result(job_id, format_.value if format_ else None, partial)
        except RequestRefused as error:
            if error.code == "job_not_finished":
                fail(str(error), NOT_FINISHED)
            raise

    text = _with_client(work, url, api_key)
    if output is None:
        print(text.rstrip("\n"))
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"{output} could not be written: {error.strerror}.")


@jobs_app.command()
def cancel(job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Stop a job, and keep what it has transcribed."""
    job = _with_client(lambda client: client.cancel(job_id), url, api_key)
    print(f"{job.id} is {job.status}.")


@jobs_app.command()
def delete(job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Stop a job, and forget all about it."""
    _with_client(lambda client: client.delete(job_id), url, api_key)
    print(f"{job_id} is deleted.")


@jobs_app.command("list")
def list_jobs(
    url: Url = DEFAULT_URL,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Jobs at most.")] = 20,
    status: Annotated[Status | None, typer.Option(help="Only jobs that are in it.")] = None,
    api_key: ApiKey = None,
) -> None:
    """List jobs, the newest first; without a terminal, with tabs between the columns."""

    async def work(client: JobClient) -> list[JobState]:
        return await client.list(limit, status.value if status else None)

    rows = [
        (job.id, job.status, _progress(job), _time(job.body["created_at"]), _name(job))
        for job in _with_client(work, url, api_key)
    ]
    if not sys.stdout.isatty():
        for row in rows:
            print(*row, sep="\t")
        return
    table = Table("id", "status", "progress", "created", "recording", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _with_client(work: Callable[[JobClient], Awaitable[Result]], url: str, api_key: str | None) -> Result:
    """Do ``work`` over a connection; what goes wrong with it ends the command."""

    async def run() -> Result:
        async with AsrClient(url, api_key, _CONNECTIONS) as client:
            return await work(JobClient(client))

    return run_command(run())


def _described(job: JobState) -> str:
    body = job.body
    lines = {
        "id": job.id,
        "recording": _name(job),
        "status": job.status,
        "progress": _progress(job),
        "created": _time(body["created_at"]),
        "started": _time(body["started_at"]),
        "finished": _time(body["finished_at"]),
        "expires": _time(body["expires_at"]),
        "error": job.failure,
    }
    return "\n".join(f"{name + ':':11}{value}" for name, value in lines.items() if value)


def _name(job: JobState) -> str:
    return str(job.body["filename"] or job.body["url"] or "")


def _progress(job: JobState) -> str:
    total, fraction = job.seconds_total, job.body["progress"]["fraction"]
    if total is None or fraction is None:
        return ""
    return f"{clock(job.seconds_done)} of {clock(total)} ({fraction:.0%})"


def _time(epoch: int | None) -> str:
    return "" if epoch is None else datetime.fromtimestamp(epoch).astimezone().isoformat(" ")
