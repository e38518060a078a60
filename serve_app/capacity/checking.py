"""Whether the Serve config of a file fits GPUs that are somewhere else."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from deployments.catalogue import CatalogueError, ModelRefused
from serve_app.capacity.budget import Sharing, overview, sharing, too_many, too_small
from serve_app.capacity.cards import gib, sold_as
from serve_app.capacity.needs import needs
from serve_app.capacity.packing import fits_in_any_order
from serve_app.capacity.written import WrittenSettings
from serve_app.enabled_models import choose_models
from serve_app.errors import ModelNotFound

_MIB = 2**20


_ORDER = (
    "But they only find their places if the largest start first, which Serve does not promise: if a replica "
    "never starts, give some of them whole GPUs, or smaller shares."
)


class CannotCheck(Exception):
    """The file is no Serve config of this service; the message says why."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether it fits, and the arithmetic."""

    fits: bool
    text: str


def check_file(path: Path, gpu: int, gpus: int) -> Finding:
    """Check the first application of a Serve config file for machines with ``gpus`` GPUs, sold with
    ``gpu`` bytes.

    With ``max_replicas_per_node``, what one machine can get is checked. Models need not be here: of those
    that are not, the catalogue has the sizes.

    Raises:
        CannotCheck: the file cannot be read, is no Serve config, or its settings are wrong.
    """
    application = _application(path)
    entries = [_on_one_machine(entry) for entry in application.get("deployments") or []]
    memory = sold_as(gpu)
    try:
        asked = WrittenSettings(**(application.get("args") or {}))
        # Models that are named count as if they were here.
        there = asked.model_copy(update={"gpu_memory": gpu / _MIB, "download_models": True})
        needed = needs(choose_models(there).settings, {entry.name: entry.config for entry in entries})
    except (ValidationError, TypeError, CatalogueError, ModelNotFound, ModelRefused) as error:
        raise CannotCheck(f"The settings of {path} are wrong: {error}") from error
    fault = too_many(entries, gpus) or too_small(entries, needed, memory)
    if fault is not None:
        return Finding(False, fault)
    have = f"a GPU of {gib(memory)} GB" if gpus == 1 else f"{gpus} GPUs of {gib(memory)} GB"
    total = sum(entry.share * entry.replicas for entry in entries)
    lines = (f"{path} fits {have}:", *(f"  {line}" for line in overview(entries, needed, memory)))
    lines = (*lines, f"Shares together: {total:.2f}.")
    if not fits_in_any_order([entry.share for entry in entries for _ in range(entry.replicas)], gpus):
        lines = (*lines, _ORDER)
    return Finding(True, "\n".join(lines))


def _application(path: Path) -> Mapping[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CannotCheck(f"{path} cannot be read: {error}") from error
    applications = document.get("applications") if isinstance(document, dict) else None
    if not isinstance(applications, list) or not applications or not isinstance(applications[0], dict):
        raise CannotCheck(f"{path} is not a Serve config: it has no list of applications.")
    return applications[0]


def _on_one_machine(entry: Mapping[str, Any]) -> Sharing:
    found, most = sharing(entry), entry.get("max_replicas_per_node")
    return replace(found, replicas=min(found.replicas, most)) if isinstance(most, int) else found
