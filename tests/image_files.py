"""Dockerfiles and compose files, as the tests of images read them."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[1]
DOCKERFILES = [ROOT / "docker" / name for name in ("cpu.Dockerfile", "gpu.Dockerfile")]
COMPOSE_FILES = [ROOT / name for name in ("compose.yaml", "compose.cpu.yaml", "docker/compose.extras.yaml")]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """``(instruction, value)``, in order; lines that are continued are joined."""
    with dockerfile.open("rb") as file:
        structure = DockerfileParser(fileobj=file).structure
    return [(item["instruction"], item["value"]) for item in structure if item["instruction"] != "COMMENT"]


def values(dockerfile: Path, instruction: str) -> list[str]:
    return [value for name, value in instructions(dockerfile) if name == instruction]


def last(dockerfile: Path, instruction: str) -> str:
    return values(dockerfile, instruction)[-1]


def environment(dockerfile: Path) -> dict[str, str]:
    text = " ".join(values(dockerfile, "ENV"))
    return dict(re.findall(r"(\w+)=(\S+)", text))


def compose(path: Path) -> dict[str, Any]:
    """A compose file as it stands, with the defaults of its variables."""
    text = re.sub(
        r"(?<!\$)\$\{\w+(?::-([^}]*))?\}", lambda found: found[1] or "", path.read_text(encoding="utf-8")
    )
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded
