"""Words to listen for, as a user gives them on the command line."""

import json
from pathlib import Path
from typing import Annotated

import typer

Hotwords = Annotated[
    str | None,
    typer.Option(
        help="Words to listen for, with weights from 1 to 100 behind them if you like (`魔搭 20 通义`), or a "
        "file with one on each line."
    ),
]

SOME_IGNORED = "Hotwords that were not listened for: {count}. --format json tells which ones, and why."


def as_sent(hotwords: str | None) -> str | None:
    """The words as the server takes them: those of a file, if there is one of that name.

    Raises:
        ValueError: a file of other things.
    """
    if hotwords is None or not _is_file(hotwords):
        return hotwords
    # Other commands do not wait for what this imports.
    from serve_app.pipeline.hotwords_file import read_hotwords

    words = read_hotwords(Path(hotwords))
    return json.dumps({word.text: word.weight for word in words}, ensure_ascii=False)


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:
        # Many words are longer than any name.
        return False
