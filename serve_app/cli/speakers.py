"""``asr-serve speakers``: named voices, by which transcripts name who speaks."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from serve_app.cli.client import AsrClient
from serve_app.cli.common import DEFAULT_URL, ApiKey, Url, fail, run_command

_PATH = "/v1/speakers"
_PAGE = 100

speakers_app = typer.Typer(
    no_args_is_help=True, help="Named voices: transcripts say these names, in place of numbers."
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Who speaks.")]


@speakers_app.command()
def add(
    name: Name,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Recordings in which only this person speaks."),
    ],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Have the server learn a voice; more recordings of a known name make it surer."""
    if missing := [str(file) for file in files if not file.is_file()]:
        raise typer.BadParameter(f"there is no file {missing[0]}")

    async def work() -> dict[str, Any]:
        async with AsrClient(url, api_key) as client:
            return await _enroll(client, name, files)

    speaker = run_command(work())
    print(f"{speaker['name']} is known by {_voice(speaker)} ({speaker['id']}).")


@speakers_app.command("list")
def list_speakers(url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """List all speakers, the newest first; without a terminal, with tabs between the columns."""

    async def work() -> list[dict[str, Any]]:
        async with AsrClient(url, api_key) as client:
            return await _all(client)

    rows = [
        (
            speaker["id"],
            speaker["name"],
            _voice(speaker),
            datetime.fromtimestamp(speaker["created_at"]).astimezone().isoformat(" "),
            "" if speaker["usable"] else "of another speaker model: add recordings again",
        )
        for speaker in run_command(work())
    ]
    if not sys.stdout.isatty():
        for row in rows:
            print(*row, sep="\t")
        return
    table = Table("id", "name", "voice", "created", "", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


@speakers_app.command()
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME|ID", help="Name of the speaker, or its id.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Have the server forget a voice."""

    async def work() -> str | None:
        async with AsrClient(url, api_key) as client:
            named = (await client.request("GET", _PATH, params={"name": name})).json()["data"]
            if not named and not name.startswith("spk_"):
                return None
            speaker_id = named[0]["id"] if named else name
            await client.request("DELETE", f"{_PATH}/{speaker_id}")
            return str(speaker_id)

    speaker_id = run_command(work())
    if speaker_id is None:
        fail(f"There is no speaker {name!r}; `asr-serve speakers list` lists all.")
    print(f"{name} is forgotten.")


async def _enroll(client: AsrClient, name: str, files: Sequence[Path]) -> dict[str, Any]:
    """A request for each file: a server takes only a few in one."""
    speaker: dict[str, Any] = {}
    for file in files:
        with ExitStack() as stack:
            upload = {"file": (file.name, stack.enter_context(file.open("rb")))}
            speaker = (await client.request("POST", _PATH, data={"name": name}, files=upload)).json()
    return speaker


async def _all(client: AsrClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        query: dict[str, str | int] = {"limit": _PAGE}
        if found:
            query["after"] = found[-1]["id"]
        page = (await client.request("GET", _PATH, params=query)).json()
        found += page["data"]
        if not page["has_more"]:
            return found


def _voice(speaker: dict[str, Any]) -> str:
    count = speaker["recordings"]
    return f"{speaker['seconds']:.1f} s of speech in {count} recording{'s' if count > 1 else ''}"
