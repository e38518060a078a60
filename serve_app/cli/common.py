"""What all commands that talk to a server share: their options, and how they end."""

import asyncio
from collections.abc import Coroutine
from typing import Annotated, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from serve_app.cli.client import RequestRefused, ServerUnreachable

Result = TypeVar("Result")

Url = Annotated[str, typer.Option(help="The server.", envvar="ASR_SERVE_URL")]
ApiKey = Annotated[str | None, typer.Option(help="Key of the server, if it wants one.", envvar="API_KEY")]

DEFAULT_URL = "http://127.0.0.1:8000"


def run_command(work: Coroutine[None, None, Result]) -> Result:
    """Run a command's work; what a server refuses ends the command with a sentence, Ctrl-C with 130."""
    try:
        return asyncio.run(work)
    except (ServerUnreachable, RequestRefused) as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def fail(message: str, status: int = 1) -> NoReturn:
    """Print why the command ends, and end it."""
    Console(stderr=True).print(Text(message, "red"), soft_wrap=True)
    raise typer.Exit(status)
