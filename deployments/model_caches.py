"""Where the caches of both hubs keep a model, in every layout that their clients have written so far.

ModelScope: ``MODELSCOPE_PATH`` and, in the directory of ``MODELSCOPE_CACHE`` (``~/.cache/modelscope``):

=========================================  ============================================
``hub/models/iic/X``                       up to 1.37 by default; what ``pull`` writes
``hub/iic/X``                              before ``models`` was there
``models/iic/X``, ``iic/X``                the same two with ``MODELSCOPE_CACHE`` set
``models/iic--X/snapshots/master``         from 1.38 on
=========================================  ============================================

``iic`` was called ``damo`` before, and a dot in a name is written ``___``.

Hugging Face: ``models--owner--X/snapshots/<commit>`` in ``HF_HUB_CACHE``, or ``hub`` in ``HF_HOME``.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_RENAMED = {"iic": "damo", "damo": "iic"}
_BELOW = ("", "models", "hub/models", "hub")


def masked(identifier: str) -> str:
    """An id as ModelScope spells its directory."""
    owner, _, name = identifier.partition("/")
    return f"{owner}/{name.replace('.', '___')}"


def modelscope_roots(modelscope_path: Path) -> Iterator[Path]:
    """Directories under which models lie by their ids, the one to write to first; they need not exist."""
    chosen = modelscope_path.expanduser()
    bases = (
        [chosen, chosen.parent, chosen.parent.parent] if chosen.parts[-2:] == ("hub", "models") else [chosen]
    )
    cache = os.environ.get("MODELSCOPE_CACHE")
    bases.append(Path(cache).expanduser() if cache else Path.home() / ".cache" / "modelscope")
    seen: set[Path] = set()
    for base in bases:
        for below in _BELOW:
            if (root := base / below) not in seen:
                seen.add(root)
                yield root


def modelscope_places(identifier: str, modelscope_path: Path) -> Iterator[Path]:
    """Where a model of ModelScope may lie, best first; they need not exist."""
    owner, _, name = identifier.partition("/")
    for root in modelscope_roots(modelscope_path):
        for each in filter(None, (owner, _RENAMED.get(owner))):
            yield root / each / name
            yield root / masked(f"{each}/{name}")
            yield from _modelscope_snapshots(root / f"{each}--{name}" / "snapshots")


def _modelscope_snapshots(snapshots: Path) -> Iterator[Path]:
    if snapshots.is_dir():
        yield snapshots / "master"
        yield from newest_first(snapshots)


def hugging_face_cache() -> Path:
    """As ``huggingface_hub`` finds it."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if cache := os.environ.get(name):
            return Path(os.path.expandvars(cache)).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def hugging_face_repository(identifier: str) -> Path:
    """Where all revisions of one model of Hugging Face are kept; it need not exist."""
    return hugging_face_cache() / f"models--{identifier.replace('/', '--')}"


def hugging_face_places(identifier: str) -> Iterator[Path]:
    """What ``main`` was when it was downloaded, then what else there is, the newest first."""
    repository = hugging_face_repository(identifier)
    snapshots = repository / "snapshots"
    with suppress(OSError):
        yield snapshots / (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    if snapshots.is_dir():
        yield from newest_first(snapshots)


def newest_first(directory: Path) -> list[Path]:
    """The directories in a directory."""
    inside = [path for path in directory.iterdir() if path.is_dir()]
    return sorted(inside, key=lambda path: path.stat().st_mtime, reverse=True)
