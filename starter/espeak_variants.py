"""Voices that espeak-ng does not ship: a private copy of its data, with a variant file to rewrite."""

from __future__ import annotations

import ctypes
from pathlib import Path

from starter.synth import SynthesisError, load_library


class VariantDirectory:
    """espeak-ng's data as links below `root`, an empty directory, with one more variant, `name`.

    espeak-ng reads a variant's file whenever a voice is chosen, so the same name can stand for one drawn
    voice after the other; with a file for each of them its list of voices would overflow. Raises
    SynthesisError where espeak-ng or its data is not installed.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.path = root / "espeak-ng-data"
        system = _system_data()
        variants = self.path / "voices" / "!v"
        variants.mkdir(parents=True)
        _link_all(system, self.path)
        _link_all(system / "voices", self.path / "voices")
        _link_all(system / "voices" / "!v", variants)
        self._file = variants / name

    def rewrite(self, text: str) -> None:
        """Let the variant be what `text` says (the format of espeak-ng's docs/voices.md) from now on."""
        self._file.write_text(text, "utf-8")


def _system_data() -> Path:
    library = load_library()
    library.espeak_ng_InitializePath(None)
    path = ctypes.c_char_p()
    library.espeak_Info(ctypes.byref(path))
    found = Path((path.value or b"").decode())
    if not (found / "voices" / "!v").is_dir():
        raise SynthesisError(f"espeak-ng's data directory has no voices/!v: {found}")
    return found


def _link_all(source: Path, target: Path) -> None:
    for entry in source.iterdir():
        link = target / entry.name
        if not link.exists():
            link.symlink_to(entry)
