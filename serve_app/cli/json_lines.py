"""What `asr-serve serve` prints, as one JSON object a line: for ``LOG_FORMAT=json``.

The keys are those of Ray Serve's JSON log lines, which come from the replicas as they are.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import yaml
from rich.console import Console

_SERVE_LINE = re.compile(
    r"(?P<levelname>DEBUG|INFO|WARNING|ERROR|CRITICAL) (?P<asctime>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) "
    r"(?P<component_name>\S+) \S+ (\S+ )?-- (?P<message>.*)"
)
"""As Serve's controller and proxies write to their error stream, whatever their encoding."""

_RAYS_PRINTER = "ray_print_logs"


def wants_json(config: Path) -> bool:
    """Whether ``LOG_FORMAT``, or else the arguments of an application in the Serve config, ask for JSON.

    A config that cannot be read asks for nothing: who needs it tells what is wrong with it.
    """
    if (chosen := os.environ.get("LOG_FORMAT")) is not None:
        return chosen == "json"
    try:
        loaded = yaml.safe_load(config.read_text(encoding="utf-8"))
        return any(entry["args"].get("log_format") == "json" for entry in loaded["applications"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return False


class JsonLines:
    """A text stream for :class:`rich.console.Console`: each line that is written becomes an object."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self.put({"levelname": "INFO", "message": line.rstrip(), "component_name": "asr-serve"})
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def put(self, fields: Mapping[str, Any]) -> None:
        """Write an object; it gets a time and a process if it has none."""
        now = datetime.now().strftime("%Y-%m-%d %H:%M:%S,%f")[:-3]
        self.pass_on(json.dumps({"asctime": now, "process": os.getpid(), **fields}))

    def pass_on(self, line: str) -> None:
        """Write what is an object already."""
        # With one call, since several threads write.
        self._stream.write(f"{line}\n")
        self._stream.flush()


class _Records(logging.Handler):
    """Log records of this process, as objects."""

    def __init__(self, lines: JsonLines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"levelname": record.levelname, "message": record.getMessage()}
        if record.exc_info:
            fields["exc_text"] = logging.Formatter().formatException(record.exc_info)
        self._lines.put({**fields, "component_name": record.name})


def json_console() -> Console:
    """A console that prints objects."""
    # It asks a file for no more than JsonLines can do.
    lines: Any = JsonLines(sys.stdout)
    return Console(file=lines, soft_wrap=True, force_terminal=False)


def is_json(console: Console) -> bool:
    """Whether it is a :func:`json_console`."""
    return isinstance(console.file, JsonLines)


def print_workers_as_json(console: Console) -> None:
    """What Ray's workers print goes to a :func:`json_console` as objects; no effect on another console.

    To be called after ``ray.init``. Ray 2.60 has no public way to say where that goes: its own printer puts
    the name of the process before each line, and keeps back lines that look like others.
    """
    lines: Any = console.file
    if not isinstance(lines, JsonLines):
        return
    from ray._private.ray_logging import global_worker_stdstream_dispatcher
    from ray._private.worker import filter_autoscaler_events

    for name in ("ray", "ray.serve", None):
        logging.getLogger(name).handlers = [_Records(lines)]

    def show(data: Mapping[str, Any]) -> None:
        said = data.get("lines", [])
        # Ray's autoscaler writes tables every few seconds, of which only events are shown.
        for line in filter_autoscaler_events(said) if data.get("pid") == "autoscaler" else said:
            lines.pass_on(line) if line.startswith("{") else lines.put(worker_fields(line, data))

    global_worker_stdstream_dispatcher.remove_handler(_RAYS_PRINTER)
    global_worker_stdstream_dispatcher.add_handler(_RAYS_PRINTER, show)


def worker_fields(line: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """A line that is no object, taken apart. ``data``: as Ray tells who printed it."""
    who = {"component_name": data.get("actor_name") or data.get("task_name") or "ray"}
    if str(data.get("pid", "")).isdecimal():
        who["process"] = int(data["pid"])
    if (match := _SERVE_LINE.fullmatch(line)) is not None:
        return {**who, **match.groupdict()}
    return {**who, "levelname": "WARNING" if data.get("is_err") else "INFO", "message": line}
