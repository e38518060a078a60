"""What the service writes down about a model that it has downloaded or unpacked: in the model's directory."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

RECORD = ".asr-serve.json"
"""Name of the file."""

UNFINISHED = ".asr-serve.unfinished"
"""Name of a file that is there while the others are fetched, and stays if that fails."""

Hub = Literal["modelscope", "huggingface"]


@dataclass(frozen=True, slots=True)
class FileRecord:
    """``size`` in bytes; ``sha256`` in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """Where a model came from and what it consisted of: ``files`` by their path in its directory."""

    hub: Hub
    id: str
    revision: str
    files: Mapping[str, FileRecord]


def read_record(directory: Path) -> ModelRecord | None:
    """The record of a directory; ``None`` where there is none, or none that can be read."""
    try:
        content: Any = json.loads((directory / RECORD).read_text(encoding="utf-8"))
        files = {
            str(path): FileRecord(int(each["size"]), str(each["sha256"]))
            for path, each in content["files"].items()
        }
        hub: Hub = "huggingface" if content["hub"] == "huggingface" else "modelscope"
        return ModelRecord(hub, str(content["id"]), str(content["revision"]), files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_record(directory: Path, record: ModelRecord) -> None:
    """Write it down, in place of one that is there."""
    content = {**asdict(record), "files": {path: asdict(file) for path, file in record.files.items()}}
    partial = directory / f"{RECORD}.partial"
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(directory / RECORD)
