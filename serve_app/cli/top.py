"""``asr-serve top``: deployments, queues and sessions of a running service, live in the terminal."""

import asyncio
import json
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from serve_app.cli.client import AsrClient, ServerUnreachable
from serve_app.cli.common import DEFAULT_URL, Url, run_command
from serve_app.overview.types import DeploymentView, LoadView, Overview

_BAR_WIDTH = 10
_STAGE = ("Deployment", "Status", "Replicas")
_WORK = ("Waiting", "Longest", "Running", "Busy", "Lag", "Speed")


def top(
    url: Url = DEFAULT_URL,
    interval: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, print it and end.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print what the server says, once, as JSON.")] = False,
    admin_key: Annotated[
        str | None,
        typer.Option(help="The server's ADMIN_KEY, if it has one.", envvar=["ADMIN_KEY", "API_KEY"]),
    ] = None,
) -> None:
    """Show what runs: deployments with their queues, sessions, files and jobs. Ctrl-C ends it."""

    async def run() -> None:
        async with AsrClient(url, admin_key) as client:
            if json_:
                print(json.dumps((await _ask(client)).model_dump(), ensure_ascii=False, indent=2))
            elif once:
                Console().print(view(await _ask(client)))
            else:
                await _watch(client, interval)

    run_command(run())


async def _ask(client: AsrClient) -> Overview:
    return Overview.model_validate((await client.request("GET", "/admin/state")).json())


async def _watch(client: AsrClient, interval: float) -> None:
    shown = await _ask(client)
    with Live(view(shown), screen=True, auto_refresh=False) as live:
        while True:
            live.refresh()
            await asyncio.sleep(interval)
            try:
                shown = await _ask(client)
                live.update(view(shown))
            except ServerUnreachable as error:
                # It may be replaced just now; what was seen last stays.
                live.update(Group(view(shown), Text(str(error), "red")))


def view(overview: Overview) -> RenderableType:
    """What ``overview`` says, as a heading and a table."""
    table = Table(*_STAGE, *_WORK, "Nodes", box=None, pad_edge=False, header_style="dim")
    for column in table.columns[2:-1]:
        column.justify = "right"
    for deployment in overview.deployments:
        table.add_row(*_row(deployment))
    messages = [
        Text(f"{deployment.name}: {deployment.message}", "yellow")
        for deployment in overview.deployments
        if deployment.message and deployment.status != "HEALTHY"
    ]
    return Group(_heading(overview), Text(), table, *messages)


def _heading(overview: Overview) -> Text:
    when = datetime.fromtimestamp(overview.time).strftime("%H:%M:%S")
    parts = [f"asr-serve {overview.version}", when, f"models {', '.join(overview.models)}"]
    if (traffic := overview.traffic) is not None:
        parts += [
            f"live sessions {traffic.live_sessions}/{traffic.max_live_sessions}",
            f"files {traffic.files}/{traffic.max_concurrent_files}",
        ]
    if overview.jobs is not None:
        parts.append(f"jobs {overview.jobs.running} running, {overview.jobs.queued} waiting")
    return Text("  ·  ".join(parts), "bold")


def _row(deployment: DeploymentView) -> list[RenderableType]:
    status = Text(deployment.status, "green" if deployment.status == "HEALTHY" else "yellow")
    replicas = f"{deployment.running}/{deployment.target}"
    nodes = ", ".join(sorted({replica.node for replica in deployment.replicas if replica.node}))
    return [deployment.name, status, replicas, *_work(deployment.load), nodes]


def _work(load: LoadView | None) -> list[RenderableType]:
    if load is None:
        return [""] * len(_WORK)
    speed = f"{load.audio_per_busy_second:.0f}x" if load.audio_per_busy_second else ""
    return [
        _items(load.waiting_items, load.waiting_audio_seconds),
        f"{load.oldest_wait_seconds:.1f} s",
        _items(load.running_items, load.running_audio_seconds),
        ProgressBar(total=1.0, completed=load.busy, width=_BAR_WIDTH),
        f"{load.lag_seconds:.2f} s",
        speed,
    ]


def _items(count: int, audio_seconds: float) -> str:
    return f"{count} ({audio_seconds:.0f} s)" if audio_seconds else str(count)
