"""Reads the file into which a service traces."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_EXPORT_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Span:
    """``path``: names from the first span of the trace that is in the file down to this one."""

    name: str
    id: str
    parent: str | None
    path: tuple[str, ...]
    attributes: Mapping[str, Any]
    events: tuple[str, ...]
    links: tuple[str, ...]
    failed: bool
    begin: str
    end: str
    deployment: str | None


def client_span(number: int) -> tuple[str, str]:
    """A trace that a client has begun: its id, and its header ``traceparent``."""
    trace_id = f"{number:032x}"
    return trace_id, f"00-{trace_id}-00000000000000aa-01"


def spans_of(file: Path, trace_id: str) -> list[Span]:
    """All spans of a trace that are in the file now, by their begin."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    lines = [json.loads(line) for line in text.splitlines() if trace_id in line]
    found = {
        line["context"]["span_id"]: line for line in lines if line["context"]["trace_id"][2:] == trace_id
    }

    def path(line: Mapping[str, Any]) -> tuple[str, ...]:
        parent = found.get(line["parent_id"] or "")
        return (*(path(parent) if parent else ()), line["name"])

    spans = [
        Span(
            name=line["name"],
            id=line["context"]["span_id"][2:],
            parent=line["parent_id"] and line["parent_id"][2:],
            path=path(line),
            attributes=line["attributes"],
            events=tuple(event["name"] for event in line["events"]),
            links=tuple(link["context"]["trace_id"][2:] for link in line["links"]),
            failed=line["status"]["status_code"] == "ERROR",
            begin=line["start_time"],
            end=line["end_time"],
            deployment=line["resource"]["attributes"].get("asr.deployment"),
        )
        for line in found.values()
    ]
    return sorted(spans, key=lambda span: span.begin)


def whole_trace(file: Path, trace_id: str, count: int) -> list[Span]:
    """The same, once there are ``count`` of them: each process writes for itself, a moment after its work."""
    deadline = time.monotonic() + _EXPORT_SECONDS
    while len(spans := spans_of(file, trace_id)) < count and time.monotonic() < deadline:
        time.sleep(0.1)
    return spans
